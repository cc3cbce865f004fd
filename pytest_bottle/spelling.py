"""What is said about a word that is not known: which one may be meant, and which are known."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def unknown(value: object, known: Iterable[str]) -> str:
    """Say that a value is not known, which one may be meant, and which ones are known."""
    known = tuple(known)
    close = near(str(value), known)
    return f"{value!r} is not known{close} (known: {', '.join(known)})"


def unknown_word(key: str, known: Collection[str]) -> tuple[str, str]:
    """Say that there is no such word, and which there are."""
    return f"there is no such word{near(key, known)}", f"one of: {', '.join(known)}"


def near(value: str, known: Iterable[str]) -> str:
    """Ask whether the nearest known one was meant; empty if none is near."""
    close = difflib.get_close_matches(value[:80], tuple(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
