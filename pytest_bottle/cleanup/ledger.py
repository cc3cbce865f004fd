"""The ledger: what a session is going to make, on disk before it is made.

One JSON object a line. The first says who can undo the rest; then ``{"make": KIND, "name": NAME}``
before something is made, and ``{"gone": KIND, "name": NAME}`` when it is certain to be gone. A last
line that was cut short is the word of a process that died while it wrote: nothing had been made.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Entry(NamedTuple):
    """A thing with a name, of a kind that the undertaker knows."""

    kind: str
    name: str


class Ledger:
    """A session's ledger, open for writing; safe for threads.

    Args:
        session: what the file is named after.
        head: the first line: ``undertaker`` names a module whose ``bury(head, entries)`` undoes
            what is left.
    """

    def __init__(self, session: str, head: Mapping[str, object]) -> None:
        folder = os.path.join(tempfile.gettempdir(), f"pytest-bottle-{os.getuid()}")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.path = os.path.join(folder, f"{session}.ledger")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        self._lock = threading.Lock()
        self._left: list[Entry] = []
        self._write({**head, "session": session})

    def make(self, kind: str, name: str) -> None:
        """Write down what is going to be made; it is on disk on return."""
        with self._lock:
            self._write({"make": kind, "name": name})
            self._left.append(Entry(kind, name))

    def gone(self, kind: str, *names: str) -> None:
        """Write down that things are gone, or never came to be; all by one write to the disk."""
        with self._lock:
            self._write(*({"gone": kind, "name": name} for name in names))
            for entry in (Entry(kind, name) for name in names):
                if entry in self._left:
                    self._left.remove(entry)

    @property
    def left(self) -> tuple[Entry, ...]:
        """What may exist, newest first."""
        with self._lock:
            return tuple(reversed(self._left))

    def _write(self, *lines: Mapping[str, object]) -> None:
        os.write(self._file, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; the watchdog removes it when nothing is left."""
        os.close(self._file)


def read(path: str) -> tuple[dict[str, object], tuple[Entry, ...]]:
    """Read a ledger; returns its head, and what may exist, newest first.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ledger.
    """
    with open(path, "rb") as file:
        *whole, _ = file.read().split(b"\n")  # behind the last newline: nothing, or half a line
    if not whole:
        raise ValueError("not even its first line is whole")
    head, *lines = (json.loads(line) for line in whole)
    return head, _left(lines)


def _left(lines: Sequence[Mapping[str, str]]) -> tuple[Entry, ...]:
    left: list[Entry] = []
    for line in lines:
        if "make" in line:
            left.append(Entry(line["make"], line["name"]))
        elif (entry := Entry(line["gone"], line["name"])) in left:
            left.remove(entry)
    return tuple(reversed(left))
