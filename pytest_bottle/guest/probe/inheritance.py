"""What a process was started with, and what it could gain."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time

from pytest_bottle.guest.probe.core import answer, operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from pytest_bottle.guest.probe.core import Operation, Record


@operation("inherited")
def inherited(_operation: Operation, _deadline: float) -> Record:
    """Read the open files and the first environment of this process and of all others."""
    found: dict[str, Record] = {}
    for pid in ("self", *filter(str.isdigit, os.listdir("/proc"))):
        if pid != str(os.getpid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[pid] = {"files": _files_of(pid), "environment": _environment_of(pid)}
    return {"outcome": "answered", "processes": found}


def _files_of(pid: str) -> dict[str, list[str]] | str:
    """Where each open file leads, and of what kind it is; or why that cannot be told."""
    folder, found = f"/proc/{pid}/fd", {}
    try:
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                kind = "folder" if os.path.isdir(f"{folder}/{name}") else "file"
                found[name] = [os.readlink(f"{folder}/{name}"), kind]
    except PermissionError as error:
        return str(error)
    return found


def _environment_of(pid: str) -> list[str] | str:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return [one.decode("latin-1") for one in file.read().split(b"\0") if one]
    except PermissionError as error:
        return str(error)


@operation("find-setuid")
def find_setuid(operation: Operation, deadline: float) -> Record:
    """Find files that change who runs them, in some folders and those just below (inode(7))."""
    found: dict[str, str] = {}
    looked_at, end = 0, time.monotonic() + deadline
    folders = dict.fromkeys(map(os.path.realpath, operation["folders"]))  # /bin is a link often
    waiting = [(folder, operation.get("depth", 2)) for folder in folders]
    while waiting and time.monotonic() < end:
        folder, depth = waiting.pop(0)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [(entry.path, depth - 1)] if depth else []
                elif entry.is_file(follow_symlinks=False):
                    looked_at += 1
                    found.update(_power_of(entry))
    return {"outcome": "answered", "found": found, "files": looked_at, "complete": not waiting}


def _power_of(entry: os.DirEntry[str]) -> dict[str, str]:
    mode = entry.stat(follow_symlinks=False).st_mode
    if mode & 0o6000:
        return {entry.path: f"{mode & 0o7777:o}"}
    if mode & 0o111:
        with contextlib.suppress(OSError):
            return {entry.path: os.getxattr(entry.path, "security.capability").hex()}
    return {}


@operation("plant")
def plant(operation: Operation, _deadline: float) -> Record:
    """Make copies of ``cat`` that would run as their owner, or with NET_ADMIN (capabilities(7))."""
    import shutil

    source = shutil.which("cat")
    if source is None:
        raise ValueError("there is no cat here")
    # VFS_CAP_REVISION_2 with the effective flag; NET_ADMIN is bit 12 of the permitted set.
    power = struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0)
    steps: dict[str, Callable[[str], None]] = {
        "setuid": lambda path: os.chmod(path, 0o4755),  # noqa: S103 - that is the bait
        "capable": lambda path: os.setxattr(path, "security.capability", power),
    }
    answers = {}
    for name, step in steps.items():
        folder = f"{operation['folder']}/{name}"
        os.makedirs(folder)
        path = shutil.copy(source, f"{folder}/cat")  # some programs go by their names
        os.chmod(path, 0o755)  # noqa: S103 - another user runs it
        answers[path] = answer(lambda step=step, path=path: step(path) or "done")  # type: ignore
    return {"outcome": "answered", "answers": answers}


@operation("uproot")
def uproot(operation: Operation, _deadline: float) -> Record:
    """Remove what was planted: a guest's folder may be one of the machine's own."""
    import shutil

    shutil.rmtree(operation["folder"])
    return {"outcome": "answered"}


@operation("gains")
def gains(operation: Operation, deadline: float) -> Record:
    """Run programs, all at once, and report what each said by the deadline."""
    import subprocess

    started: list[subprocess.Popen[bytes] | str] = []
    for argv in operation["programs"]:
        try:
            started.append(
                subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        except OSError as error:
            started.append(errno.errorcode.get(error.errno or 0, str(error)))
    end = time.monotonic() + deadline
    return {"outcome": "answered", "said": [_last_words(one, end) for one in started]}


def _last_words(process: subprocess.Popen[bytes] | str, end: float) -> Record:
    import subprocess

    if isinstance(process, str):
        return {"errno": process}
    try:
        output, _ = process.communicate(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return {"status": process.returncode, "output": output[:4096].decode("latin-1")}
