"""What a check sends, in words: read off its plan on paper, nothing is touched."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.conformance import paper
from pytest_bottle.conformance.plan import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.firing import Operation
    from pytest_bottle.stimulus import Shot

#: How many stimuli to one place are printed.
_MOST = 16


def sent(check: Check) -> list[str]:
    """Describe what a check sends, a line for each vantage point; its plan on paper tells."""
    if check.stimuli is None:
        where = "on bottles, or in runs of pytest, of its own" if check.apart else "when it runs"
        return [f"not with the survey: it looks and tries by itself, {where}"]
    plan, sheet = paper.plan_of(check)
    told = _Told(sheet.words)
    lines = [*told.claims(plan), *told.sweeps(plan), *told.rows(plan), *told.operations(plan)]
    return lines or ["nothing of its own"]


class _Told:
    """The parts of a plan in words: some stand for the addresses of a bottle on paper."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = words

    def claims(self, plan: Plan) -> Iterator[str]:
        pairs = ((c.shot.vantage, _shot(c.shot)) for c in plan.claims)
        for vantage, texts in self._grouped(pairs):
            root = ", as root too where there is one" if vantage is Vantage.AGENT else ""
            yield f"{vantage.value}: {texts}; none may arrive{root}"
        if plan.claims:
            places = dict.fromkeys(c.mirror.vantage.value for c in plan.claims)
            yield f"{' and '.join(places)}: the same, as the control that has to arrive"

    def sweeps(self, plan: Plan) -> Iterator[str]:
        for sweep in plan.sweeps:
            via = self._in_words(str(sweep.operation.what["via"]))
            yield f"privileged: a packet to each of the 65535 {sweep.protocol} ports, via {via}"

    def rows(self, plan: Plan) -> Iterator[str]:
        for vantage, texts in self._grouped((a.shot.vantage, _shot(a.shot)) for a in plan.asked):
            yield f"{vantage.value}: {texts}"
        if plan.asked:
            yield "open: the same before and after, as the control that has to arrive"

    def operations(self, plan: Plan) -> Iterator[str]:
        every = [*plan.first, *plan.during]
        for vantage, texts in self._grouped((o.vantage, _operation(o)) for o in every):
            yield f"{vantage.value}: {texts}"

    def _in_words(self, line: str) -> str:
        for address in sorted(self._words, key=len, reverse=True):
            pattern = rf"(?<![\w.:]){re.escape(address)}(?![\w.])(?!:\w)"
            line = re.sub(pattern, self._words[address], line)
        return re.sub(r"[0-9a-f]{32}", "NONCE", line)

    def _grouped(self, pairs: Iterable[tuple[Vantage, str]]) -> Iterator[tuple[Vantage, str]]:
        """Put together what goes from one place, and of that what goes to one place."""
        found: dict[Vantage, dict[str, dict[str, None]]] = {}
        for vantage, text in pairs:
            what, to, place = self._in_words(text).partition(" to ")
            found.setdefault(vantage, {}).setdefault(to + place, {})[what] = None
        for vantage, places in found.items():
            yield vantage, "; ".join(_some([*what]) + place for place, what in places.items())


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + more


def _shot(shot: Shot) -> str:
    return describe(shot.stimulus) + (shot.via and f" via {shot.via}")


def _operation(operation: Operation) -> str:
    """Name an operation of the probe by its kind, and by where it goes."""
    what = operation.what
    talks = what.get("talks")
    if isinstance(talks, list):
        return f"{len(talks)} conversations with a proxy in raw bytes"
    place = str(what.get("url") or what.get("host") or what.get("name") or "")
    if what["kind"] == "http":
        return f"{what.get('method', 'GET')} {place}{' by the proxy' if what.get('proxy') else ''}"
    return f"{what['kind']} {place}".strip()
