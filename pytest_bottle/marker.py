"""What ``@pytest.mark.bottle(...)`` says, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.spec import BottleSpec

#: What a marker can stand on, the smallest first; only hooks can mark a session.
_PLACES = {
    "function": pytest.Item,
    "class": pytest.Class,
    "module": pytest.Module,
    "package": pytest.Package,
    "session": pytest.Session,
}


def spec_for(node: pytest.Collector | pytest.Item, over: BottleSpec) -> BottleSpec:
    """Lay the words of the marker that is closest to a node over the session's specification."""
    mark = node.get_closest_marker("bottle")
    if mark is None:
        return over
    from pytest_bottle.words import read  # only for who marks something

    return read(mark.kwargs, over, folder_of(node))


def folder_of(node: Any) -> str:
    """Find what the relative paths of a node are relative to: the folder of its file."""
    path = node.path
    return str(path if path.is_dir() else path.parent)


def problems(items: Iterable[pytest.Item], scope: str, over: BottleSpec) -> list[str]:
    """Say what is wrong with the markers of all items, each marker once."""
    found: dict[int, list[str]] = {}
    for item in items:
        for node, mark in item.iter_markers_with_node("bottle"):
            if id(mark) not in found:
                found[id(mark)] = _problems(node, mark, over) or _misplaced(item, node, scope)
    return list(dict.fromkeys(line for lines in found.values() for line in lines))


def _problems(node: Any, mark: pytest.Mark, over: BottleSpec) -> list[str]:
    reasons = _refusals(node, mark, over)
    if mark.args:
        from pytest_bottle.words import MARKER_WORDS

        seen = ", ".join(map(repr, mark.args))
        reasons = [f"expected keywords only ({', '.join(MARKER_WORDS)}), seen {seen}", *reasons]
    return [f"{node.nodeid}: @pytest.mark.bottle: {reason}" for reason in reasons]


def _refusals(node: Any, mark: pytest.Mark, over: BottleSpec) -> list[str]:
    from pytest_bottle.words import read

    try:
        read(mark.kwargs, over, folder_of(node))
    except ConfigurationError as error:
        return [*error.lines]
    return []


def _misplaced(item: pytest.Item, node: Any, scope: str) -> list[str]:
    if scope == "class" and item.getparent(pytest.Class) is None:
        return []  # outside of classes pytest takes the function for the class
    place = next((name for name, kind in _PLACES.items() if isinstance(node, kind)), "session")
    if list(_PLACES).index(place) >= list(_PLACES).index(scope):
        return []
    remedy = "use make_bottle" if scope == "session" else f"put the marker on the {scope}"
    return [
        f"{node.nodeid}: @pytest.mark.bottle stands on the {place}, and a bottle lives for the "
        f"{scope} (bottle_scope), which does not see it; {remedy}, or choose a smaller scope"
    ]
