"""A folder of the user's as the guests' file system: what it must have, looked at from outside."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDERS: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_PYTHON: Final = re.compile(r"python3(\.\d+)?")
_SLEEPS: Final = ("/usr/bin/sleep", "/bin/sleep")
#: As many links as the kernel follows, too (path_resolution(7)).
_LINKS: Final = 40


def check(folder: str) -> None:
    """Refuse a folder that cannot be a guest's root.

    Raises:
        ConfigurationError: it is no absolute path of a folder, or has no Python or no ``sleep``.
    """
    seen = _fault(folder)
    if seen:
        raise ConfigurationError(
            "a rootfs is no folder that guests could be made of",
            where=f"rootfs: {folder}",
            expected="the absolute path of a folder with a root file system in it",
            seen=seen,
        )
    find_python(folder)
    if not any(_is_program(folder, path) for path in _SLEEPS):
        raise _lacking(folder, "sleep, for the guests' first process", ", ".join(_SLEEPS))


def _fault(folder: str) -> str:
    if not os.path.isabs(folder):
        return "a relative path"
    if not os.path.exists(folder):
        return "nothing there"
    if not os.path.isdir(folder):
        return "a file"
    return "" if os.access(folder, os.R_OK | os.X_OK) else "a folder that cannot be read"


def find_python(folder: str) -> str:
    """Find the interpreter for the probe, as guests will know it.

    Raises:
        ConfigurationError: there is none.
    """
    for path in _pythons(folder):
        if _is_program(folder, path):
            return path
    raise _lacking(
        folder, "Python 3.8 or newer, for the probe", f"python3 in {', '.join(_FOLDERS)}"
    )


def _pythons(folder: str) -> Iterator[str]:
    """Yield every name of an interpreter; the shortest of a folder, ``python3``, first."""
    for place in _FOLDERS:
        outside = resolve(folder, place)
        names = os.listdir(outside) if os.path.isdir(outside) else []
        yield from (f"{place}/{name}" for name in sorted(names, key=len) if _PYTHON.fullmatch(name))


def _is_program(folder: str, path: str) -> bool:
    outside = resolve(folder, path)
    return os.path.isfile(outside) and os.access(outside, os.X_OK)


def _lacking(folder: str, what: str, where: str) -> ConfigurationError:
    return ConfigurationError(
        "a rootfs lacks what every guest needs",
        where=f"rootfs: {folder}",
        expected=what,
        seen=f"no program {where}",
        next_step="install it in the folder",
    )


def resolve(folder: str, path: str) -> str:
    """Tell where a path of the root file system in ``folder`` lies on this machine.

    Its links are followed as a guest will follow them, that is, never out of the folder.
    """
    left, done, links = path.split("/")[::-1], [""], 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1] or [""]
            continue
        here = f"{folder}{'/'.join(done)}/{part}"
        if links < _LINKS and os.path.islink(here):
            links += 1
            target = os.readlink(here)
            done = [""] if target.startswith("/") else done
            left += target.split("/")[::-1]
        else:
            done.append(part)
    return f"{folder}{'/'.join(done)}"
