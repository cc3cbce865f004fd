"""What a run comes to, as a pure function of what was planned and what was received."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.assessment import (
    FOUNDATIONS,
    PRINTED,
    VERDICTS,
    Assessment,
    FeatureResult,
    Flaw,
    Row,
    assess,
    flaws_of,
)
from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.registry import Level, all_checks

CHECKS = [one for one in all_checks() if one.level is not Level.TRANSPARENT]
GATING = [one for one in CHECKS if one.level is not Level.QUIRK]
(CORE, *_) = [one for one in GATING if one.id not in FOUNDATIONS]


def facts(identity: str, verdict: str, **more: Any) -> dict[str, Any]:
    """What the report of a check says."""
    return {"id": identity, "verdict": verdict, "genuine": True, "test": "t.py::t", **more}


def rows(*received: dict[str, Any], genuine: bool = True) -> tuple[Row, ...]:
    """Assess one check."""
    return assess([CORE], received, why_not=lambda _: "nobody knows", genuine=genuine)


def result(verdicts: dict[str, str], *flaws: Flaw) -> str:
    """The result of a run in which every gating check but these has passed."""
    made = [Row(check, verdicts.get(check.id, "passed")) for check in GATING]
    return Assessment("all", tuple(made), flaws).result


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("passed", "conformant"),
        ("waived", "partial"),
        ("not supported", "partial"),
        ("not run", "failed"),
        ("inconclusive", "failed"),
        ("violated", "failed"),
    ],
)
def test_one_verdict_decides(verdict: str, expected: str) -> None:
    """All but one have passed: the result is what that one allows."""
    assert result({CORE.id: verdict}) == expected


@given(st.dictionaries(st.sampled_from([one.id for one in GATING]), st.sampled_from(VERDICTS)))
def test_a_worse_verdict_never_improves_a_result(verdicts: dict[str, str]) -> None:
    """Whatever the others are: a check that does worse makes the result no better."""
    order = ("conformant", "partial", "failed")
    for verdict in VERDICTS:
        worse = VERDICTS[VERDICTS.index(verdict) :]
        base = order.index(result({**verdicts, CORE.id: verdict}))
        assert all(order.index(result({**verdicts, CORE.id: one})) >= base for one in worse)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        ("passed", "supported"),
        ("waived", "waived"),
        ("not run", "unproven"),
        ("inconclusive", "failed"),
        ("violated", "failed"),
    ],
)
def test_a_feature_is_worth_what_the_worst_check_behind_it_is(verdict: str, state: str) -> None:
    """All other checks that need it have passed, and a declaration alone is worth nothing."""
    (feature,) = (one for one in features({ON_IPV6.id: verdict}) if one.name == "ipv6")
    assert feature.state == state
    assert feature.passed == feature.checks - (verdict != "passed")


def test_a_feature_behind_which_nothing_ran_is_not_proven() -> None:
    """Whatever is not supported says nothing: neither for a feature nor against it."""
    behind = dict.fromkeys((c.id for c in GATING if Feature.IPV6 in c.needs), "not supported")
    (feature,) = (one for one in features(behind) if one.name == "ipv6")
    assert (feature.state, feature.checks, feature.passed) == ("unproven", 0, 0)


def test_a_feature_that_nobody_declared() -> None:
    """It is named, since a check needs it; and where no bottle came up, nobody knows of any."""
    assert {one.state for one in features({}, declared=())} == {"not declared"}
    assert Assessment("all", tuple(Row(check, "not run") for check in GATING)).features == ()


(ON_IPV6, *_) = [one for one in GATING if Feature.IPV6 in one.needs]
DECLARED = tuple(feature.value for feature in Feature)


def features(
    verdicts: dict[str, str], declared: tuple[str, ...] = DECLARED
) -> tuple[FeatureResult, ...]:
    """The features of a run in which every gating check but these has passed."""
    told = {"bench": {"features": declared}}
    made = [Row(check, verdicts.get(check.id, "passed"), told) for check in GATING]
    return Assessment("all", tuple(made)).features


def test_a_flaw_fails() -> None:
    """Something else that is wrong leaves no result but the worst."""
    assert result({}, Flaw("a waiver is not used")) == "failed"


def test_nothing_is_no_pass() -> None:
    """A run without any gating check has proven nothing."""
    assert Assessment("all", ()).result == "failed"


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_quirk_decides_nothing(verdict: str) -> None:
    """Whatever a quirk finds, the result is that of the others."""
    (quirk, *_) = [one for one in CHECKS if one.level is Level.QUIRK]
    made = (Row(CORE, "passed"), Row(quirk, verdict))

    assert Assessment("all", made).result == "conformant"


def test_all_six_are_counted() -> None:
    """Each verdict has a count, also one of zero."""
    counts = Assessment("all", (Row(CORE, "waived"),)).counts

    assert counts == {**dict.fromkeys(PRINTED, 0), "waived": 1}


# -- joining ---------------------------------------------------------------------------------------


@given(st.permutations(VERDICTS), st.integers(1, len(VERDICTS)))
def test_the_worst_report_counts(verdicts: list[str], many: int) -> None:
    """Of several reports of a check the worst one is its verdict, in whatever order they come."""
    (row,) = rows(*(facts(CORE.id, one) for one in verdicts[:many]))

    assert row.verdict == max(verdicts[:many], key=VERDICTS.index)


def test_no_report_is_not_run() -> None:
    """What was planned and not received is not run, and says why."""
    (row,) = rows(facts("XXX-01", "passed"))

    assert (row.verdict, row.reason) == ("not run", "nobody knows")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_rerun_is_inconclusive_at_best(verdict: str) -> None:
    """A second try that passes rescues nothing; a violation that was seen stays one."""
    (row,) = rows(facts(CORE.id, verdict, rerun=True), facts(CORE.id, "passed"))

    assert row.verdict == ("violated" if verdict == "violated" else "inconclusive")
    assert "run again" in row.reason


@pytest.mark.parametrize("verdict", VERDICTS)
def test_what_is_not_genuine_is_no_pass(verdict: str) -> None:
    """Behind a gate only the suite's own test can say something good."""
    said = facts(CORE.id, verdict, genuine=False)

    (strict,) = rows(said)
    (lenient,) = rows(said, genuine=False)

    bad = {"violated", "inconclusive", "not run"}
    assert strict.verdict == (verdict if verdict in bad else "inconclusive")
    assert lenient.verdict == verdict


@pytest.mark.parametrize("verdict", ["not supported", "waived"])
@pytest.mark.parametrize("identity", sorted(FOUNDATIONS))
def test_a_control_has_to_pass(identity: str, verdict: str) -> None:
    """Without the controls no block is proven, so none of them can be left out or waived."""
    (control,) = [one for one in CHECKS if one.id == identity]

    assert [identity in flaw.text for flaw in flaws_of([Row(control, verdict)])] == [True]
    assert flaws_of([Row(control, "passed")]) == []


def test_each_contradiction_is_told_once() -> None:
    """Every worker finds it; it is one flaw, and it is red in any run."""
    said = {"contradictions": ["no ipv6 is declared"]}
    made = [Row(one, "passed", {"bench": said}) for one in GATING[:3]]

    (flaw,) = flaws_of(made)
    assert flaw.always
    assert "no ipv6" in flaw.text
