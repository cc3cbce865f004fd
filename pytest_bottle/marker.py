"""What ``@pytest.mark.bottle(...)`` says, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_bottle.errors import ConfigurationError
from pytest_bottle.settings import SCOPES, unknown
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_NODES = (pytest.Item, pytest.Class, pytest.Module)


class _Word(NamedTuple):
    """A word of the marker: an example, and what a value must look like."""

    example: str
    fits: Callable[[Any], bool]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and _are_texts([*value, *value.values()])


_WORDS = {
    "egress": _Word('["packages.test:443"]', _are_texts),
    "publish": _Word('"127.0.0.31:18080"', lambda value: isinstance(value, str)),
    "machine_port": _Word("8080", lambda value: type(value) is int),
    "command": _Word('["sleep", "1000"]', _are_texts),
    "environment": _Word('{"NAME": "value"}', _is_environment),
}


def spec_for(node: pytest.Collector | pytest.Item, timeout: float) -> BottleSpec:
    """Read the marker that is closest to a node; without one the bottle is the plain one."""
    mark = node.get_closest_marker("bottle")
    return BottleSpec.from_words(**(mark.kwargs if mark else {}), timeout=timeout)


def problems(items: Iterable[pytest.Item], scope: str) -> list[str]:
    """Say what is wrong with the markers of all items, each marker once."""
    found: dict[int, str] = {}
    for item in items:
        for node, mark in item.iter_markers_with_node("bottle"):
            if id(mark) not in found:
                found[id(mark)] = _problem(node, mark) or _misplaced(item, node, scope)
    return list(dict.fromkeys(filter(None, found.values())))


def misuse(words: Mapping[str, object]) -> str:
    """Say which word is none of ours, or holds something of another kind; empty if none."""
    for name, value in words.items():
        if name not in _WORDS:
            return unknown(name, _WORDS)
        if not _WORDS[name].fits(value):
            return f"{name}: expected something like {_WORDS[name].example}, seen {value!r}"
    return ""


def _problem(node: Any, mark: pytest.Mark) -> str:
    reason = _positional(mark) or misuse(mark.kwargs) or _refusal(mark)
    return reason and f"{node.nodeid}: @pytest.mark.bottle: {reason}"


def _positional(mark: pytest.Mark) -> str:
    if not mark.args:
        return ""
    words = ", ".join(f"{name}={word.example}" for name, word in _WORDS.items())
    return f"expected keywords only ({words}), seen {', '.join(map(repr, mark.args))}"


def _refusal(mark: pytest.Mark) -> str:
    try:
        BottleSpec.from_words(**mark.kwargs)
    except ConfigurationError as error:
        return f"{error.where}: {error.what}: expected {error.expected}, seen {error.seen}"
    return ""


def _misplaced(item: pytest.Item, node: Any, scope: str) -> str:
    if scope == "class" and item.getparent(pytest.Class) is None:
        return ""  # outside of classes pytest takes the function for the class
    rank = next((n for n, kind in enumerate(_NODES) if isinstance(node, kind)), len(_NODES))
    if rank >= SCOPES.index(scope):
        return ""
    return (
        f"{node.nodeid}: @pytest.mark.bottle stands on the {SCOPES[rank]}, and a bottle lives for "
        f"the {scope} (bottle_scope); put the marker on the {scope}, or choose a smaller scope"
    )
