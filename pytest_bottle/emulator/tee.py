"""What a container's first process writes: to its log, and to whoever is attached."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds for what is left in the pipes of a process that has ended.
_DRAIN: Final = 0.3


class Tee:
    """The three files of a first process.

    Entered for as long as ``theirs`` are needed here.

    Args:
        log: an open file to append to, ours to close.
        attached: standard input, output and error of a caller; None leaves the process to itself.
    """

    def __init__(self, log: int, attached: Sequence[int] | None) -> None:
        self._thread: threading.Thread | None = None
        self._log = log
        if attached is None:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            self.theirs: tuple[int, ...] = (nothing, log, log)
            return
        self._ways: dict[int, int] = {}
        ends = []
        for fd in attached[1:3]:
            read, write = os.pipe()
            self._ways[read] = os.dup(fd)
            ends.append(write)
        self.theirs = (os.dup(attached[0]), *ends)
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in set(self.theirs):
            os.close(fd)

    def wait(self) -> None:
        """Wait until all has been passed on, for a moment."""
        if self._thread is not None:
            self._thread.join(_DRAIN)

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            for fd in self._ways:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    part = os.read(key.fd, 1 << 16)
                    _write(self._log, part)
                    _write(self._ways[key.fd], part)
                    if not part:
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        os.close(self._ways[key.fd])
        os.close(self._log)


def _write(fd: int, data: bytes) -> None:
    """Write it all; whoever does not read any more is none of ours."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
