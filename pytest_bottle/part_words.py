"""The words that every part of a bottle takes: its image, its command, whom it runs as."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pytest_bottle.reading import Word
from pytest_bottle.spec import USERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def either(fields: Mapping[str, Word], one: str, other: str) -> None:
    """Refuse two words of which one excludes the other."""
    if one in fields and other in fields:
        fields[other].refuse(f"this goes without {one}", f"{one} or {other}", "both")


def image(word: Word) -> str:
    """Read the name of an image."""
    text = word.text("agent:latest")
    if text and re.search(r"[\s\x00-\x1f]|\A-", text):
        word.refuse("this is no name of an image", "a name, such as agent:latest")
    return text


def status_of(path: str, kind: Callable[[int], bool]) -> os.stat_result | None:
    """Look at a file of this machine; None if it is none of this kind."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found if kind(found.st_mode) else None


def argv(word: Word) -> tuple[str, ...]:
    """Read a program and its arguments."""
    example = '["sleep", "1000"]'
    texts = [one.text(example, empty=n > 0) for n, one in enumerate(word.entries(example))]
    return tuple(texts)


def user(word: Word) -> str:
    """Read whom a command runs as."""
    return word.choice(*USERS)


def environment(word: Word) -> dict[str, str]:
    """Read variables."""
    variables = {}
    for name, one in word.pairs('{NAME: "value"}'):
        if not name or {"=", "\0"} & {*name}:
            one.refuse("this is no name of a variable", "a name without = and NUL", repr(name))
        variables[name] = one.text('"value"', empty=True)
    return variables


def env(word: Word) -> dict[str, str]:
    """Read bot-bottle's own word; what it would ask for or look up is nobody's to know here."""
    variables = environment(word)
    for name, text in variables.items():
        if text.startswith("?") or "${" in text:
            one = Word(text, (*word.path, name), word.report)
            one.refuse("only bot-bottle asks and looks up", "a placeholder of your own")
    return variables


def port_or_0(word: Word) -> int:
    """Read a port, or 0 for one that somebody else chooses."""
    return word.integer("port", 0, 65535)
