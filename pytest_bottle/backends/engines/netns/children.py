"""The server's children: forked with no files but their own, reaped by whoever waits for them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns import confine, linux
from pytest_bottle.backends.engines.netns.answers import Lost, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def go_home(fd: int, kind: int) -> None:
    """Return to a namespace of the server's own.

    Raises:
        Lost: it cannot; whatever it did next, it would do in the wrong place.
    """
    try:
        linux.setns(fd, kind)
    except OSError as error:
        raise Lost(
            what="the netns engine's server cannot return to its namespace", seen=words(error)
        ) from error


class Children:
    """Forks and reaps; knows what to do about each end."""

    def __init__(self) -> None:
        self._ends: dict[int, Callable[[int], None]] = {}

    def fork(
        self,
        keep: Iterable[int],
        run: Callable[[], None],
        at_end: Callable[[int], None] | None = None,
    ) -> int:
        """Fork a child that has no files but ``keep``, runs and exits.

        Args:
            keep: its files, besides standard input, output and error.
            run: what it does.
            at_end: is called with its wait status.
        """
        pid = os.fork()
        if pid:
            self._ends[pid] = at_end or _nobody_asked
            return pid
        try:
            # First of all: a guest's process of the same id must not trace us before our exec.
            linux.set_dumpable(False)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            last_words = os.dup(2)
            be_quiet()
            confine.close_all_but((0, 1, 2, last_words, *keep))
            run()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - the child's last words, then its end
            said = words(error) if isinstance(error, OSError) else repr(error)
            os.write(last_words, f"a part of the engine ended: {said}\n".encode())
        finally:
            os._exit(1)

    def has(self, pid: int) -> bool:
        """Tell whether a child has yet to be reaped."""
        return pid in self._ends

    def reap(self) -> None:
        """Take every child that has ended."""
        with suppress(ChildProcessError):
            while self._reap_one(os.WNOHANG):
                pass

    def wait_for(self, pid: int) -> None:
        """Wait until a child has ended, and take all others that end meanwhile.

        A PID namespace's first process ends only when every other process in it has been reaped,
        and those that were forked into it from here are our children too.
        """
        while pid in self._ends:
            self._reap_one()

    def _reap_one(self, options: int = 0) -> bool:
        pid, status = os.waitpid(-1, options)
        if pid:
            self._ends.pop(pid, _nobody_asked)(status)
        return pid != 0


def be_quiet() -> None:
    """Let go of standard input, output and error: a file that guests share is a channel."""
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)


def _nobody_asked(_status: int) -> None:
    """Take note of a child's end that nobody waits for."""
