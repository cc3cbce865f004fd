"""The verdict algebra: catalogue 0.3 row by row, and what must hold for every combination."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_bottle.verdict import (
    ANSWERED_OUTCOMES,
    BLOCKED_OUTCOMES,
    SILENT_OUTCOMES,
    Finding,
    Verdict,
    combine,
    judge,
)

KNOWN = sorted(ANSWERED_OUTCOMES | BLOCKED_OUTCOMES | {"not-sendable"})
BLOCKED = sorted(BLOCKED_OUTCOMES)
ANSWERED = sorted(ANSWERED_OUTCOMES)
#: From bad to good, as the enumeration is written.
ORDER = list(Finding)
VERDICTS = [Verdict.VIOLATED, Verdict.INCONCLUSIVE, Verdict.PASSED]

outcomes = st.sampled_from(KNOWN) | st.none() | st.text()
findings = st.lists(st.sampled_from(ORDER))


def passes(finding: Finding) -> bool:
    """Whether a check with this finding alone would pass."""
    return combine([finding]) is Verdict.PASSED


# -- the table, row by row ----------------------------------------------------------------------


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize("outcome", [None, "tool-error", ""])
def test_row_1_no_record_is_inconclusive(outcome: str | None, heard: bool, controls: bool) -> None:
    """Missing, or an error of exec or tool: any far end, any control."""
    assert judge(outcome, echo=False, heard=heard, controls=controls) is Finding.INCONCLUSIVE


@pytest.mark.parametrize("outcome", BLOCKED)
def test_row_2_a_no_with_a_silent_far_end_is_a_block(outcome: str) -> None:
    """Refused, unreachable, timeout, policy denial: with every control green."""
    assert judge(outcome, echo=False, heard=False, controls=True) is Finding.BLOCKED


@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize("outcome", [*BLOCKED, "not-sendable"])
def test_row_3_a_no_that_was_heard_is_a_leak_one_way(outcome: str, controls: bool) -> None:
    """The prober saw a failure and the far end has the nonce: any control."""
    finding = judge(outcome, echo=False, heard=True, controls=controls)
    assert finding is Finding.LEAKED_ONE_WAY


@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize("outcome", ANSWERED)
def test_row_4_a_success_that_was_heard_is_a_leak(outcome: str, controls: bool) -> None:
    """With the far end's echo, or without it: any control."""
    assert judge(outcome, echo=True, heard=True, controls=controls) is Finding.LEAKED
    assert judge(outcome, echo=False, heard=True, controls=controls) is Finding.LEAKED


@pytest.mark.parametrize("outcome", ANSWERED)
def test_row_5_a_success_without_the_far_end_ended_on_the_way(outcome: str) -> None:
    """No echo, a silent far end, green controls: not a leak, and reported."""
    finding = judge(outcome, echo=False, heard=False, controls=True)
    assert finding is Finding.TERMINATED_LOCALLY


@pytest.mark.parametrize("outcome", [*KNOWN, "tool-error", None])
def test_row_6_silence_with_a_red_control_is_inconclusive(outcome: str | None) -> None:
    """Whatever the prober saw: who could not have heard has not heard nothing."""
    assert judge(outcome, echo=False, heard=False, controls=False) is Finding.INCONCLUSIVE


@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize("outcome", KNOWN)
def test_an_echo_is_the_far_ends_own_word(outcome: str, controls: bool) -> None:
    """Only the far end has the echo to give: no outcome and no deaf witness changes that."""
    assert judge(outcome, echo=True, heard=False, controls=controls) is Finding.LEAKED


def test_what_could_not_be_sent_proves_nothing_by_itself() -> None:
    """The own kernel's refusal is true, and says nothing of the network."""
    finding = judge("not-sendable", echo=False, heard=False, controls=True)
    assert finding is Finding.NOT_SENDABLE
    assert combine([finding]) is Verdict.INCONCLUSIVE
    assert combine([finding, Finding.BLOCKED]) is Verdict.PASSED


# -- one stimulus -------------------------------------------------------------------------------


@given(outcomes, st.booleans(), st.booleans())
def test_a_red_control_never_passes(outcome: str | None, echo: bool, heard: bool) -> None:
    """No combination with a red control is good news."""
    assert not passes(judge(outcome, echo=echo, heard=heard, controls=False))


@given(outcomes, st.booleans(), st.booleans())
def test_a_nonce_that_was_heard_never_passes(
    outcome: str | None, echo: bool, controls: bool
) -> None:
    """Whatever the prober and the controls say."""
    assert not passes(judge(outcome, echo=echo, heard=True, controls=controls))


@given(outcomes, st.booleans(), st.booleans())
def test_an_echo_never_passes(outcome: str | None, heard: bool, controls: bool) -> None:
    """Whatever the prober, the witness and the controls say."""
    assert not passes(judge(outcome, echo=True, heard=heard, controls=controls))


@given(st.text(), st.booleans(), st.booleans(), st.booleans())
def test_an_unknown_outcome_is_inconclusive(
    outcome: str, echo: bool, heard: bool, controls: bool
) -> None:
    """A word that we do not know is no observation."""
    assume(outcome not in KNOWN)
    assert judge(outcome, echo=echo, heard=heard, controls=controls) is Finding.INCONCLUSIVE


@given(outcomes, st.booleans(), st.booleans(), st.booleans())
def test_bad_news_never_improves_a_finding(
    outcome: str | None, echo: bool, heard: bool, controls: bool
) -> None:
    """A red control, a nonce that was heard, an echo: none of them makes a finding better."""
    before = judge(outcome, echo=echo, heard=heard, controls=controls)
    for worse in (
        judge(outcome, echo=True, heard=heard, controls=controls),
        judge(outcome, echo=echo, heard=True, controls=controls),
        judge(outcome, echo=echo, heard=heard, controls=False),
    ):
        assert ORDER.index(worse) <= ORDER.index(before)


@given(outcomes, st.booleans(), st.booleans())
def test_controls_never_excuse_a_leak(outcome: str | None, echo: bool, heard: bool) -> None:
    """What got out has got out: a leak is one with red controls as with green ones."""
    leaks = {Finding.LEAKED, Finding.LEAKED_ONE_WAY}
    red = judge(outcome, echo=echo, heard=heard, controls=False)
    green = judge(outcome, echo=echo, heard=heard, controls=True)
    assert (red in leaks) == (green in leaks)


@given(outcomes, st.booleans(), st.booleans(), st.booleans())
def test_without_a_witness_nothing_is_a_block(
    outcome: str | None, echo: bool, heard: bool, controls: bool
) -> None:
    """Silence from an address where nobody listens for us says nothing about what left."""
    finding = judge(outcome, echo=echo, heard=heard, controls=controls, witnessed=False)
    assert finding not in (Finding.BLOCKED, Finding.TERMINATED_LOCALLY)


@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize("outcome", ANSWERED)
def test_without_a_witness_any_answer_is_a_leak(outcome: str, controls: bool) -> None:
    """Nobody is asked whether it was the far end's: it came from outside, or looks so."""
    finding = judge(outcome, echo=False, heard=False, controls=controls, witnessed=False)
    assert finding is Finding.LEAKED


@pytest.mark.parametrize("outcome", BLOCKED)
def test_without_a_witness_a_no_is_half_a_block(outcome: str) -> None:
    """Silence alone, with a green control: refused and reset came back from somewhere.

    A datagram to which no answer is expected, and a lookup that failed, have not even that.
    """
    finding = judge(outcome, echo=False, heard=False, controls=True, witnessed=False)
    silent = outcome in ("timeout", "unreachable")
    assert finding is (Finding.BLOCKED_TWO_WAY if silent else Finding.INCONCLUSIVE)


@given(outcomes, st.booleans(), st.booleans(), st.booleans())
def test_half_a_block_is_made_of_silence_alone(
    outcome: str | None, echo: bool, heard: bool, controls: bool
) -> None:
    """Nothing that came back, whoever sent it, is taken for one."""
    finding = judge(outcome, echo=echo, heard=heard, controls=controls, witnessed=False)
    if finding is Finding.BLOCKED_TWO_WAY:
        assert outcome in SILENT_OUTCOMES
        assert controls
        assert not echo
        assert not heard


@given(outcomes, st.booleans(), st.booleans(), st.booleans())
def test_the_lack_of_a_witness_never_improves_a_finding(
    outcome: str | None, echo: bool, heard: bool, controls: bool
) -> None:
    """What is seen with fewer eyes is never better news."""
    seen = judge(outcome, echo=echo, heard=heard, controls=controls)
    unseen = judge(outcome, echo=echo, heard=heard, controls=controls, witnessed=False)
    assert ORDER.index(unseen) <= ORDER.index(seen)


@given(findings)
def test_half_a_block_passes_no_check_that_asks_what_left(found: list[Finding]) -> None:
    """However many blocks stand beside it."""
    assert combine([*found, Finding.BLOCKED_TWO_WAY]) is not Verdict.PASSED


@given(findings)
def test_half_a_block_takes_nothing_from_a_check_that_asks_for_answers(
    found: list[Finding],
) -> None:
    """And adds nothing to it: what it passes by are blocks where a witness is."""
    with_it = combine([*found, Finding.BLOCKED_TWO_WAY], two_way=True)
    assert with_it is combine([one for one in found if one is not Finding.BLOCKED_TWO_WAY])


@given(findings)
def test_asking_for_answers_too_excuses_no_leak_and_no_doubt(found: list[Finding]) -> None:
    """Only half a block is another thing then."""
    if Finding.BLOCKED_TWO_WAY not in found:
        assert combine(found, two_way=True) is combine(found)


# -- many stimuli -------------------------------------------------------------------------------


def test_no_finding_is_no_pass() -> None:
    """A check that observed nothing has not passed."""
    assert combine([]) is Verdict.INCONCLUSIVE


@given(findings.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_the_order_does_not_matter(orders: tuple[list[Finding], list[Finding]]) -> None:
    """Neither does it matter how often a finding was made."""
    one, other = orders
    assert combine(one) is combine(other) is combine(one + other)


@given(findings.filter(bool), st.sampled_from(ORDER))
def test_a_worse_finding_never_improves_the_verdict(found: list[Finding], more: Finding) -> None:
    """One that is as bad as the worst so far, or worse."""
    if ORDER.index(more) <= min(map(ORDER.index, found)):
        before, after = combine(found), combine([*found, more])
        assert VERDICTS.index(after) <= VERDICTS.index(before)


@given(findings, st.sampled_from([Finding.LEAKED, Finding.LEAKED_ONE_WAY]))
def test_one_leak_decides(found: list[Finding], leak: Finding) -> None:
    """However many blocks stand beside it."""
    assert combine([*found, leak]) is Verdict.VIOLATED


@given(findings)
def test_one_doubt_is_enough_for_no_pass(found: list[Finding]) -> None:
    """A stimulus about which nothing is known keeps the others from passing."""
    assert combine([*found, Finding.INCONCLUSIVE]) is not Verdict.PASSED


@given(findings)
def test_a_pass_is_earned_by_a_stimulus_that_was_sent(found: list[Finding]) -> None:
    """And only good findings stand beside it."""
    if combine(found) is Verdict.PASSED:
        assert {Finding.BLOCKED, Finding.TERMINATED_LOCALLY} & {*found}
        assert {*found} <= {Finding.BLOCKED, Finding.TERMINATED_LOCALLY, Finding.NOT_SENDABLE}


@given(findings)
def test_findings_come_to_one_of_three_verdicts(found: list[Finding]) -> None:
    """The others are said by a backend, a gate or a waiver, never by observations."""
    assert combine(found) in VERDICTS
