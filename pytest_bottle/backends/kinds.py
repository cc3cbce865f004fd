"""The kinds of far side, as on the command line, and which backend can have which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_bottle.spelling import unknown

if TYPE_CHECKING:
    from collections.abc import Collection

LAB, GUEST, LIVE, NONE = "lab", "guest", "live", "none"
GUEST_LIVE: Final = f"{GUEST},{LIVE}"
#: Backends of a machine on which the lab cannot be had: there the far side is a guest.
WITHOUT_LAB: Final = frozenset({"macos-container", "macos-container-emulated"})
#: Backends that can have a guest for their far side.
_BY_A_GUEST: Final = frozenset({"netns", *WITHOUT_LAB})


def read(text: str) -> str:
    """Read a choice in whichever order of its words: one of the kinds, or ``guest,live``.

    Raises:
        ValueError: a word is not known, or they do not go together; it says why.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in (LAB, GUEST, LIVE, NONE):
            raise ValueError(unknown(word, (LAB, GUEST, GUEST_LIVE, NONE)))
    if words == [LIVE]:
        raise ValueError(
            "'live' alone has no witness, and silence from the real Internet proves no block; "
            f"choose {GUEST_LIVE!r}"
        )
    if LAB in words and len(words) > 1:
        raise ValueError(
            f"'lab' goes with nothing else, seen {text!r}: in the lab every address is its own, "
            "and no packet can get to a real one"
        )
    if NONE in words and len(words) > 1:
        raise ValueError(f"'none' goes with nothing else, seen {text!r}")
    if len(words) != len(set(words)):
        raise ValueError(f"a word twice, seen {text!r}")
    return ",".join(sorted(words))


def default(backend: str) -> str:
    """Tell what a backend has if nobody chose."""
    return GUEST if backend in WITHOUT_LAB else LAB


def impossible(internet: str, backend: str, *, mutant: bool) -> str:
    """Say why a backend cannot have such a far side; empty if it can."""
    if internet == LAB:
        why = "the lab is made of Linux namespaces, and its guests cannot be put there"
        return f"{backend!r} cannot lead to the lab: {why}; choose guest" * (backend in WITHOUT_LAB)
    if internet == NONE and backend not in WITHOUT_LAB:
        return f"{backend!r} has a far side of its own; without one are {_listed(WITHOUT_LAB)} only"
    if mutant:
        return "mutants lead to the lab; leave one of the two out"
    if backend not in _BY_A_GUEST:
        return (
            f"{backend!r} brings a far side of its own; a guest plays it on "
            f"{_listed(_BY_A_GUEST)} only"
        )
    return ""


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
