"""The owner's wait for the parts of its bottles, each in the thread that its bottle belongs to."""

from __future__ import annotations

from typing import NamedTuple

from pytest_bottle.backends.engines.netns.answers import Refused, words
from pytest_bottle.backends.engines.netns.ready import Word
from pytest_bottle.errors import BringUpError


class _Part(NamedTuple):
    """A part that has been started: who it is, its pipe, and the seconds that it may take."""

    who: str
    word: Word
    timeout: float
    execs: bool

    def wait(self) -> None:
        """Wait until it is there."""
        wait = self.word.wait_for_exec if self.execs else self.word.wait
        try:
            wait(self.who, self.timeout)
        except Refused as refused:
            raise BringUpError(**refused.fields) from None
        except OSError as error:
            raise BringUpError(
                "a part of a bottle could not be waited for", where=self.who, seen=words(error)
            ) from error


class Awaited:
    """Parts that have been started and have yet to say that they are there, by guest.

    Threads may share it, as long as each guest is one thread's matter.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[_Part]] = {}

    def add(self, guest: str, who: str, fd: int, timeout: float, *, execs: bool = False) -> None:
        """Remember a part.

        Args:
            guest: where it is.
            who: how an error calls it.
            fd: its pipe's end to read from, ours to close.
            timeout: how many seconds it may take, from when it is waited for.
            execs: it says nothing, and closes its end by its exec.
        """
        self._parts.setdefault(guest, []).append(_Part(who, Word(fd), timeout, execs))

    def wait(self, guest: str) -> None:
        """Wait until every part in a guest is there, oldest first.

        Raises:
            BringUpError: one is not, in its own words, or not in time.
        """
        while parts := self._parts.get(guest):
            parts.pop(0).wait()
        self._parts.pop(guest, None)

    def drop(self, guest: str) -> None:
        """Wait no longer for what is in a guest."""
        for part in self._parts.pop(guest, ()):
            part.word.close()

    def close(self) -> None:
        """Wait for nothing any more."""
        for guest in list(self._parts):
            self.drop(guest)
