"""The server's children: forked with no files but their own, reaped by whoever waits for them."""

from __future__ import annotations

import os
import selectors
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns import confine, linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds a part may take to say that it is there.
STARTUP = 10.0


class Refused(Exception):  # noqa: N818 - an answer
    """A request that cannot be met, in the keyword fields of an error of the owner's."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields
        super().__init__(fields.get("what", ""))


class Lost(Refused):
    """The server cannot go on: it says so, and ends, and everything that it made with it."""

    def __init__(self, **fields: str) -> None:
        super().__init__(**{**fields, "next_step": "the session is lost; start pytest again"})


def words(error: OSError) -> str:
    """Say what the kernel said, without Python's ornaments."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {said}" if error.filename else said


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


class Ready:
    """A pipe on which a new part says ``ready``, or why it is not."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe2(os.O_CLOEXEC)
        self._open = {self._read, self.write}

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.discard(fd)
            os.close(fd)

    def close(self) -> None:
        """Let go of the pipe; idempotent."""
        self._close(self._read)
        self._close(self.write)

    def wait(self, who: str, timeout: float = STARTUP) -> None:
        """Wait for the word, so many seconds at most; closes the pipe.

        Raises:
            Refused: the part said something else, nothing, or nothing in time.
        """
        self._close(self.write)
        try:
            self._wait(who, timeout)
        finally:
            self.close()

    def wait_for_exec(self, who: str, timeout: float = STARTUP) -> None:
        """Wait until the part has exec'd, which closes its end without a word.

        Raises:
            Refused: it said why not, or nothing happened in time.
        """
        self._close(self.write)
        try:
            said = _until_closed(self._read, time.monotonic() + timeout)
        finally:
            self.close()
        if said is None:
            raise _late(who, timeout, "nothing")
        if said:
            raise Refused(what=f"{who} did not start", seen=said.decode())

    def _wait(self, who: str, timeout: float) -> None:
        end, said = time.monotonic() + timeout, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while said != b"ready":
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise _late(who, timeout, said.decode() or "nothing")
                part = os.read(self._read, 4096)
                if not part:
                    raise Refused(
                        what=f"{who} did not start", seen=said.decode() or "it ended at once"
                    )
                said += part


def _until_closed(fd: int, end: float) -> bytes | None:
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            part = os.read(fd, 4096)
            if not part:
                return said
            said += part
    return None


def _late(who: str, timeout: float, seen: str) -> Refused:
    return Refused(
        what=f"{who} was not ready in time",
        expected=f"its word within {timeout:g} s",
        seen=seen,
        next_step="give it more by --bottle-timeout, or free the machine",
    )
