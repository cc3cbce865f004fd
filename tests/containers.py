"""What tests of the container engine share: the raw command, and the grammar's judgement."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.backends.engines import cli
from pytest_bottle.emulator import grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_bottle.emulator import Emulator

#: The versions that the engine is made for: the first and the newest that was read.
VERSIONS = ("1.0.0", "1.2.2")
#: What only a version that has it is given, 1.2.1 or newer; the rest of its line is for all.
_NEWER = ("--read-only-path", "NONE")
#: Words that take what is not ours, or a terminal that there is not.
_FORBIDDEN = ("prune", "-t", "--tty")
_NEVER_ALL = ("stop", "kill", "delete", "network", "image")


def refusals(lines: Sequence[Sequence[str]]) -> list[str]:
    """Tell which command lines a version would refuse, or which could touch others' things."""
    found = []
    for argv in {tuple(line) for line in lines}:
        shown = " ".join(argv)[:200]
        for version in VERSIONS:
            try:
                parsed = grammar.validate(version, argv if version != VERSIONS[0] else _older(argv))
            except grammar.UsageError as error:
                found.append(f"{version}: {shown}: {error}")
                continue
            words = [*parsed.options, *parsed.command.split()]
            if any(word in _FORBIDDEN for word in words):
                found.append(f"forbidden: {shown}")
            if argv[0] in _NEVER_ALL and "--all" in parsed.options:
                found.append(f"everybody's: {shown}")
    return found


def _older(argv: Sequence[str]) -> list[str]:
    """Give a line as it is for the first version."""
    line = list(argv)
    for place in reversed(range(len(line))):
        if tuple(line[place : place + 2]) == _NEWER:
            del line[place : place + 2]
    return line


@contextmanager
def recording(path: Path) -> Iterator[Callable[[], list[list[str]]]]:
    """Record every command line meanwhile, of whichever process, and hold it to Apple's grammar.

    Gives what tells the lines so far: whoever opens an engine asserts that there are some.
    """

    def lines() -> list[list[str]]:
        found = map(json.loads, path.read_text().splitlines() if path.exists() else [])
        return [one["argv"] for one in found if one["program"].endswith("container")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cli.RECORD, str(path))
        yield lines
    assert refusals(lines()) == []


def ask(emulator: Emulator, *argv: str) -> str:
    """Call the command by hand; it has to succeed."""
    line = [str(emulator.path), *argv]
    variables = {**os.environ, **emulator.environment}
    done = subprocess.run(line, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def shown(emulator: Emulator, *argv: str) -> list[dict[str, Any]]:
    """Call the command by hand, for JSON."""
    found: list[dict[str, Any]] = json.loads(ask(emulator, *argv, "--format", "json"))
    return found


def names(emulator: Emulator) -> set[str]:
    """Name all containers and networks but Apple's own."""
    found = [*shown(emulator, "list", "--all"), *shown(emulator, "network", "list")]
    return {one["id"] for one in found} - {"default"}
