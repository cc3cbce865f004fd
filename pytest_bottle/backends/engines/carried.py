"""Programs of ours that exec carries into a guest, to be its own command.

A Python of 3.8 or newer runs them, with nothing installed beside it.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends.engines.archive import pack
from pytest_bottle.errors import BringUpError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.engines.contract import Engine

#: Where they lie in a guest.
FOLDER: Final = "/run"
_PACKAGE: Final = Path(__file__).parents[2]
#: What the far side's program imports of ours besides ``guest/``.
_FAR_SIDE: Final = (
    *("__init__", "_control", "frames", "origin", "records", "sockets", "station", "talk", "tls"),
    *("web", "witness", "zone"),
)
_MAIN: Final = "import sys\nfrom {module} import main\nsys.exit(main(sys.argv[1:]))\n"
#: Takes a file in whole, or not at all.
_TAKE: Final = (
    "import os, sys; path = sys.argv[1]; new = path + '.new'; "
    "file = open(new, 'wb'); file.write(sys.stdin.buffer.read()); file.close(); "
    "os.chmod(new, 0o644); os.replace(new, path)"
)
#: How much a program may say of why it ended, in an error.
_LAST_WORDS: Final = 1000


@functools.cache
def far_side() -> bytes:
    """Pack :mod:`pytest_bottle.internet.station`: a zip that runs as ``python FILE ARGS…``."""
    names = ["_wire.py", *(f"internet/{name}.py" for name in _FAR_SIDE)]
    files = {f"pytest_bottle/{name}": (_PACKAGE / name).read_bytes() for name in names}
    main = _MAIN.format(module="pytest_bottle.internet.station").encode()
    return pack({**files, "__main__.py": main})


def deliver(engine: Engine, guest: str, python: str, data: bytes, path: str) -> None:
    """Write a file into a running guest as its root, whole, by exec.

    Raises:
        BringUpError: the guest did not take it, with what it said.
        TransportError: nothing can be run there.
    """
    result = engine.exec(guest, [python, "-I", "-S", "-c", _TAKE, path], stdin=data, user="root")
    if not result.ok:
        raise BringUpError(
            "a file could not be written into a guest",
            where=f"{path} in {guest}",
            expected=f"a folder that root can write to, and Python 3.8 or newer at {python}",
            seen=result.err[-_LAST_WORDS:] or f"exit status {result.exit_status}",
        )


def start(
    engine: Engine, guest: str, python: str, program: bytes, argv: Sequence[str], *, user: str
) -> str:
    """Start a program as the guest's own command, and tell its path; :func:`wait` for its word."""
    path = f"{FOLDER}/bottle-program.pyz"
    deliver(engine, guest, python, program, path)
    engine.start(guest, [python, "-I", "-S", path, *argv], user=user)
    return path


def wait(engine: Engine, guest: str, timeout: float) -> None:
    """Wait until the program that was started in a guest has said that it is ready.

    Raises:
        BringUpError: it ended, or said nothing for so many seconds; with its last words.
    """
    end, pause = time.monotonic() + timeout, 0.01
    while b'"event": "ready"' not in engine.output(guest):
        over = engine.ended(guest)
        if over is not None or time.monotonic() > end:
            said = engine.output(guest)[-_LAST_WORDS:].decode(errors="replace")
            raise BringUpError(
                "a program of ours did not get ready in a guest",
                where=guest,
                expected=f"its word within {timeout:g} s",
                seen=f"{over or 'it runs and is silent'}: {said!r}",
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.25)
