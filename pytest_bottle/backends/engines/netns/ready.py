"""A new part's word that it is there, by a pipe: its own end, and the end of whoever waits."""

from __future__ import annotations

import os
import selectors
import time

from pytest_bottle.backends.engines.netns.answers import Refused

#: Seconds a part may take to say that it is there.
STARTUP = 10.0


class Word:
    """The end of a pipe from which a new part's word is read: ``ready``, or why it is not.

    Args:
        fd: is closed when the word has been heard, or will not be.
    """

    def __init__(self, fd: int) -> None:
        self._read = fd
        self._open = {fd}

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.discard(fd)
            os.close(fd)

    def close(self) -> None:
        """Let go of the pipe; idempotent."""
        for fd in list(self._open):
            self._close(fd)

    def wait(self, who: str, timeout: float = STARTUP) -> None:
        """Wait for the word, so many seconds at most; closes the pipe.

        Raises:
            Refused: the part said something else, nothing, or nothing in time.
        """
        said, ended = self._hear(timeout, b"ready")
        if said == b"ready":
            return
        if not ended:
            raise _late(who, timeout, said.decode() or "nothing")
        raise Refused(what=f"{who} did not start", seen=said.decode() or "it ended at once")

    def wait_for_exec(self, who: str, timeout: float = STARTUP) -> None:
        """Wait until the part has exec'd, which closes its end without a word.

        Raises:
            Refused: it said why not, or nothing happened in time.
        """
        said, ended = self._hear(timeout)
        if not ended:
            raise _late(who, timeout, said.decode() or "nothing")
        if said:
            raise Refused(what=f"{who} did not start", seen=said.decode())

    def _hear(self, timeout: float, awaited: bytes | None = None) -> tuple[bytes, bool]:
        """Read until the part has said what is awaited, or closed its end, or the time is over.

        Returns:
            what it said, and whether its end is closed.
        """
        end, said = time.monotonic() + timeout, b""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._read, selectors.EVENT_READ)
                while said != awaited and selector.select(max(0.0, end - time.monotonic())):
                    part = os.read(self._read, 4096)
                    if not part:
                        return said, True
                    said += part
                return said, False
        finally:
            self.close()


class Ready(Word):
    """Both ends of such a pipe; the part gets ``write``."""

    def __init__(self) -> None:
        read, self.write = os.pipe2(os.O_CLOEXEC)
        super().__init__(read)
        self._open.add(self.write)

    def hand_over(self) -> int:
        """Let go of the pipe, but for the end to read from: that is the caller's now."""
        self._open.discard(self._read)
        self.close()
        return self._read

    def _hear(self, timeout: float, awaited: bytes | None = None) -> tuple[bytes, bool]:
        self._close(self.write)  # or its other end would never be closed
        return super()._hear(timeout, awaited)


def _late(who: str, timeout: float, seen: str) -> Refused:
    return Refused(
        what=f"{who} was not ready in time",
        expected=f"its word within {timeout:g} s",
        seen=seen,
        next_step="give it more by --bottle-timeout, or free the machine",
    )
