"""The watchdog: a process of its own that undoes a ledger when its owner is gone.

It holds the read ends of two pipes. The owner alone holds the other end of the first, so its end is
the owner's, however it died. The owner and each of its calls of the engine hold the other end of
the second: what a call still makes after the owner's death is waited for, for a while, and undone.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from pytest_bottle.cleanup import ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Seconds that a call may go on after its owner's death before what is there is undone all the
#: same; the undertaker then looks until nothing more comes.
PATIENCE = 30.0
#: Seconds after which the owner's start is over, so that nobody waits for what we import.
_SETTLED = 0.5
_ENDED = b"bye"


class Watchdog:
    """The owner's side: starts the watchdog of a ledger.

    Attributes:
        calls: the end of the pipe that calls of the engine are to hold.
    """

    def __init__(self, path: str) -> None:
        life, self._life = os.pipe()
        calls, self.calls = os.pipe()
        argv = [sys.executable, "-m", "pytest_bottle.cleanup.watchdog", path, str(life), str(calls)]
        folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [folder, os.environ.get("PYTHONPATH", "")]
        with open(f"{path}.log", "ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=os.path.abspath(os.sep),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                pass_fds=(life, calls),
                start_new_session=True,
            )
        os.close(life)
        os.close(calls)

    def close(self) -> None:
        """Say that all is well: it looks whether anything is left in the ledger, and ends."""
        os.close(self.calls)
        os.close(self._life)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)

    def leave(self) -> None:
        """Let what there is live on, without a watchdog."""
        os.write(self._life, _ENDED)
        self.close()


def main(argv: Sequence[str]) -> int:
    """Wait for the owner's end, then undo what is left; the ledger goes when all is undone."""
    path, life, calls = argv[0], int(argv[1]), int(argv[2])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not select.select([life], [], [], _SETTLED)[0]:
        _undertaker(ledger.read(path)[0])
    if os.read(life, len(_ENDED)) == _ENDED:
        return 0
    head, left = ledger.read(path)
    if left:
        select.select([calls], [], [], PATIENCE)
        _undertaker(head)(head, left)
    for name in (path, f"{path}.log"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return 0


def _undertaker(head: Mapping[str, object]) -> Callable[[object, object], None]:
    module = importlib.import_module(str(head["undertaker"]))
    bury: Callable[[object, object], None] = module.bury
    return bury


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
