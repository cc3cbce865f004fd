"""What ``@pytest.mark.bottle(...)`` says, and what is wrong with it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.errors import ConfigurationError
from pytest_bottle.settings import unknown
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What a marker can stand on, the smallest first; only hooks can mark a session.
_PLACES = {
    "function": pytest.Item,
    "class": pytest.Class,
    "module": pytest.Module,
    "package": pytest.Package,
    "session": pytest.Session,
}
#: The timeout is a setting of the whole run.
_WORDS = [name for name in inspect.signature(BottleSpec.from_words).parameters if name != "timeout"]


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


def _problem(node: Any, mark: pytest.Mark) -> str:
    reason = _misuse(mark) or _refusal(mark)
    return reason and f"{node.nodeid}: @pytest.mark.bottle: {reason}"


def _misuse(mark: pytest.Mark) -> str:
    if mark.args:
        seen = ", ".join(map(repr, mark.args))
        return f"expected keywords only ({', '.join(_WORDS)}), seen {seen}"
    return next((unknown(name, _WORDS) for name in mark.kwargs if name not in _WORDS), "")


def _refusal(mark: pytest.Mark) -> str:
    try:
        BottleSpec.from_words(**mark.kwargs)
    except ConfigurationError as error:
        return f"{error.where}: {error.what}: expected {error.expected}, seen {error.seen}"
    return ""


def _misplaced(item: pytest.Item, node: Any, scope: str) -> str:
    if scope == "class" and item.getparent(pytest.Class) is None:
        return ""  # outside of classes pytest takes the function for the class
    place = next((name for name, kind in _PLACES.items() if isinstance(node, kind)), "session")
    if list(_PLACES).index(place) >= list(_PLACES).index(scope):
        return ""
    remedy = "use make_bottle" if scope == "session" else f"put the marker on the {scope}"
    return (
        f"{node.nodeid}: @pytest.mark.bottle stands on the {place}, and a bottle lives for the "
        f"{scope} (bottle_scope), which does not see it; {remedy}, or choose a smaller scope"
    )
