"""What a run of the conformance suite comes to: a verdict for each planned check, and a result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle.conformance import profiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_bottle.conformance.registry import Check

    Facts = Mapping[str, Any]

#: The six verdicts, the best first: of two reports of a check the worse one counts.
VERDICTS = ("passed", "waived", "not supported", "not run", "inconclusive", "violated")
#: The same as they are counted in print.
PRINTED = ("passed", "violated", "inconclusive", "not supported", "not run", "waived")
#: What every result of a whole profile stands on: without them a block proves nothing.
FOUNDATIONS = frozenset({"CTL-01", "CTL-02", "CTL-03", "CTL-04", "PXY-01"})
_RED = frozenset({"violated", "inconclusive", "not run"})
_NOTHING: Facts = {}


@dataclass(frozen=True, slots=True)
class Row:
    """A planned check and what became of it.

    Attributes:
        facts: what its report said; empty if there was none.
        reason: why it did not run, or why its verdict is not the one that was reported.
    """

    check: Check
    verdict: str
    facts: Facts = field(default_factory=dict)
    reason: str = ""

    @property
    def gating(self) -> bool:
        """Whether it can fail a profile."""
        return profiles.gates(self.check)

    @property
    def counts(self) -> bool:
        """Whether it counts against the profile."""
        return self.gating and self.verdict in _RED


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with a run that is no verdict of a check; ``always``: also without a gate."""

    text: str
    always: bool = False


class FeatureResult(NamedTuple):
    """What became of one feature: of the gating checks that need it and could run.

    Attributes:
        state: ``supported`` (it is declared, and every check behind it ran and passed), ``waived``
            (some are excused), ``failed`` (some are red), ``unproven`` (some did not run, or there
            is none), or ``not declared``. As for gateway-api's features, a declaration alone is
            worth nothing (kubernetes-sigs/gateway-api#3651).
        checks: how many there are behind it; ``passed``: how many of them have.
    """

    name: str
    state: str
    checks: int
    passed: int


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a run comes to.

    Attributes:
        profile: its name.
        rows: one for each planned check, in the order of IDs.
        flaws: what else is wrong.
    """

    profile: str
    rows: tuple[Row, ...]
    flaws: tuple[Flaw, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have each verdict, all six."""
        counted = Counter(row.verdict for row in self.rows)
        return {verdict: counted[verdict] for verdict in PRINTED}

    @property
    def complete(self) -> bool:
        """Whether every check has run, or cannot on this backend."""
        return not self.counts["not run"]

    @property
    def result(self) -> str:
        """``conformant``, ``partial`` (something is waived or not supported) or ``failed``."""
        gating = [row for row in self.rows if row.gating]
        if not gating or self.flaws or any(row.counts for row in gating):
            return "failed"
        return "conformant" if all(row.verdict == "passed" for row in gating) else "partial"

    @property
    def bench(self) -> Facts:
        """What the suite's bottle said of its backend; empty if none came up."""
        return next((row.facts["bench"] for row in self.rows if row.facts.get("bench")), _NOTHING)

    @property
    def features(self) -> tuple[FeatureResult, ...]:
        """What became of each feature that a planned check needs; none if no bottle came up."""
        if "features" not in self.bench:
            return ()
        needed = {feature.value for row in self.rows if row.gating for feature in row.check.needs}
        return tuple(self._feature(name) for name in sorted(needed))

    def _feature(self, name: str) -> FeatureResult:
        # A check that is not supported lacks another feature, and says nothing about this one.
        verdicts = [
            row.verdict
            for row in self.rows
            if row.gating and row.verdict != "not supported" and name in _needs(row)
        ]
        if name not in self.bench["features"]:
            state = "not declared"
        else:
            worst = max(verdicts, key=VERDICTS.index, default="not run")
            state = _STATES[worst]
        return FeatureResult(name, state, len(verdicts), verdicts.count("passed"))

    @property
    def foreign(self) -> list[str]:
        """The fixtures around checks that are not the suite's."""
        return sorted({name for row in self.rows for name in row.facts.get("foreign", ())})


_STATES = {
    "passed": "supported",
    "waived": "waived",
    "not run": "unproven",
    "inconclusive": "failed",
    "violated": "failed",
}


def _needs(row: Row) -> set[str]:
    return {feature.value for feature in row.check.needs}


def assess(
    planned: Iterable[Check],
    received: Iterable[Facts],
    *,
    why_not: Callable[[str], str],
    genuine: bool,
) -> tuple[Row, ...]:
    """Join what was planned with what was received.

    Args:
        planned: every check that has to have a verdict.
        received: the facts of reports, of any check and in any order.
        why_not: tells why a check has no verdict.
        genuine: believe only what the suite's own test found with the suite's own bottle.
    """
    rows: dict[str, Row] = {}
    checks = {check.id: check for check in planned}
    for facts in received:
        if facts["id"] in checks:
            row = _row(checks[facts["id"]], facts, genuine=genuine)
            rows[row.check.id] = max(rows.get(row.check.id, row), row, key=_badness)
    return tuple(
        rows.get(identity) or Row(check, "not run", reason=why_not(identity))
        for identity, check in sorted(checks.items())
    )


def _badness(row: Row) -> int:
    return VERDICTS.index(row.verdict)


def _row(check: Check, facts: Facts, *, genuine: bool) -> Row:
    verdict = facts["verdict"]
    if facts.get("rerun"):
        # Isolation that needs a second try is none; a violation was seen, and stays one.
        reason = f"it was run again after it had ended as {verdict}"
        return Row(check, max(verdict, "inconclusive", key=VERDICTS.index), facts, reason)
    if genuine and not facts.get("genuine") and verdict not in _RED:
        reason = f"{facts['test']} said {verdict}, and that is not the suite's own test"
        return Row(check, "inconclusive", facts, reason)
    return Row(check, verdict, facts, facts.get("message", "") if verdict == "not run" else "")


def flaws_of(rows: Sequence[Row]) -> list[Flaw]:
    """Name what is wrong with a run beside its verdicts, as far as its reports tell."""
    benches = [row.facts["bench"] for row in rows if row.facts.get("bench")]
    false = dict.fromkeys(line for bench in benches for line in bench["contradictions"])
    flaws = [Flaw(f"a declared feature is contradicted: {line}", always=True) for line in false]
    for row in rows:
        if row.check.id in FOUNDATIONS and row.verdict in ("not supported", "waived"):
            text = f"{row.check.id} is {row.verdict}: without this control no block is proven"
            flaws.append(Flaw(text))
    return flaws
