"""One call of the command line, as the daemon sees it: who asks, and where the answer goes."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle.emulator import faults, shapes
from pytest_bottle.emulator.values import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.emulator.grammar import Parsed


class Caller(NamedTuple):
    """A client's call.

    Attributes:
        parsed: its command line.
        version: of the client.
        files: its standard input, output and error.
        folder: where it was called.
        environment: its variables.
        switched_on: the faults in force, the daemon's and its own.
    """

    parsed: Parsed
    version: str
    files: Sequence[int]
    folder: str
    environment: Mapping[str, str]
    switched_on: frozenset[str]

    def say(self, *lines: str) -> None:
        """Print lines on its standard output."""
        for line in lines:
            write(self.files[1], f"{line}\n".encode())

    def log(self, *lines: str) -> None:
        """Print lines on its standard error."""
        for line in lines:
            write(self.files[2], f"{line}\n".encode())

    def show(self, value: Any, rows: Sequence[Sequence[str]], *, names: bool = False) -> None:
        """Print a list in the format that was asked for; ``-q`` is for tables only.

        Args:
            value: it, for JSON.
            rows: it, as a table with its head.
            names: whether ``-q`` prints the first column alone.
        """
        form = self.parsed.one("--format", "table")
        if form == "toml":
            raise RefusedError("the format toml is not emulated")
        if form in ("json", "yaml"):  # JSON is YAML too
            self.say_json(shapes.compact(value))
        elif names and self.parsed.has("--quiet"):
            self.say(*(row[0] for row in rows[1:]))
        else:
            self.say(shapes.table(rows))

    def say_json(self, text: str) -> None:
        """Print JSON, of which a fault may swallow the end."""
        if faults.TRUNCATED_JSON in self.switched_on:
            write(self.files[1], text.encode()[: max(1, len(text) * 2 // 3)])
        else:
            self.say(text)


def write(fd: int, data: bytes) -> None:
    """Write it all; whoever does not read any more is none of ours."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
