"""Writing settings of the kernel, and what covers them."""

from __future__ import annotations

import contextlib
import os

from pytest_bottle.guest.probe.core import answer, operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record

_MS_REMOUNT_BIND = 32 | 4096


@operation("settings")
def settings(operation: Operation, _deadline: float) -> Record:
    """Try to give settings another value, each of two that it has not; report each answer.

    What could be written is written back. With ``write`` false they are only read.
    """
    values: dict[str, str] = {}
    answers: dict[str, str] = {}
    for name, choices in operation["values"].items():
        with contextlib.suppress(OSError):
            values[name] = _read(f"/proc/sys/{name}")
        if operation["write"]:
            for root in ("", "/proc/1/root"):
                path = f"{root}/proc/sys/{name}"
                answers[path] = answer(lambda p=path, c=choices: _change(p, c))  # type: ignore[misc]
    if operation["write"]:
        answers["remount /proc/sys"] = answer(_remount)
        answers["mount another /proc"] = answer(_mount_again)
    return {"outcome": "answered", "values": values, "answers": answers}


def _read(path: str) -> str:
    with open(path) as file:
        return " ".join(file.read().split())


def _change(path: str, choices: list[str]) -> str:
    before = _read(path)
    _write(path, next(choice for choice in choices if choice != before))
    _write(path, before)
    return "done"


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _remount() -> str:
    return _mount(b"/proc/sys", None, _MS_REMOUNT_BIND)


def _mount_again() -> str:
    return _mount(b"/tmp", b"proc", 0)


def _mount(target: bytes, kind: bytes | None, flags: int) -> str:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    source = kind or b"none"
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), "mount")
    if kind:
        libc.umount2(target, 2)  # MNT_DETACH
    return "done"
