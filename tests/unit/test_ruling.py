"""What the survey's evidence comes to, whatever was seen and heard: no pass for a wrong reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.conformance.plan import Claim, Plan, Sweep
from pytest_bottle.conformance.ruling import judge_claims, judge_sweeps, mirrored, rule
from pytest_bottle.conformance.survey import Evidence
from pytest_bottle.firing import Operation, Volley
from pytest_bottle.internet.lab import Hearing, Mark
from pytest_bottle.internet.records import Heard
from pytest_bottle.stimulus import Shot, Tcp, Udp, aimed_at
from pytest_bottle.verdict import ANSWERED_OUTCOMES, BLOCKED_OUTCOMES, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

START, OPENED, CLOSED = Mark(0, 0, 0), Mark(10, 10, 0), Mark(50, 50, 0)
ORDER = [Verdict.VIOLATED, Verdict.INCONCLUSIVE, Verdict.PASSED]
OUTCOMES = sorted(BLOCKED_OUTCOMES | ANSWERED_OUTCOMES | {"tool-error", "not-sendable"})


def packet(shot: Shot, seq: int) -> Heard:
    """A shot's packet as the witness writes it down."""
    key = shot.stimulus.key
    number = {"tcp": 6, "udp": 17}[key.protocol]
    nonce = shot.nonce.encode()
    ends = ("198.18.0.2", shot.stimulus.host, 1, key.port)
    return Heard(seq, seq, 4, number, *ends, 2, None, nonce, link=False)


def claims() -> list[Claim]:
    """Two claims of one check."""
    found = []
    for number, (make, port) in enumerate(((Tcp, 443), (Udp, 53))):
        shot = Shot(f"{port}", Vantage.AGENT, make(f"192.175.48.{number}", port), User.AGENT)
        mirror = Shot(f"{port} o", Vantage.OPEN, make(f"192.31.196.{number}", port), User.AGENT)
        found.append(Claim("NET-01", shot, mirror))
    return found


def sweep() -> Sweep:
    """A sweep of every port, and its control of one."""
    every = {"host": "192.175.48.9", "nonce": "a" * 32, "ports": []}
    few = {"host": "192.31.196.9", "nonce": "b" * 32, "ports": [8448]}
    return Sweep(
        "NET-01",
        "tcp",
        Operation("sweep", Vantage.PRIVILEGED, every),
        Operation("few", Vantage.NEIGHBOUR, few),
    )


def sound() -> Evidence:
    """The evidence of a bottle that is isolated, with every control green."""
    made, swept = claims(), sweep()
    beats = {
        when: [
            Shot(
                f"{when} {one.shot.name}",
                Vantage.SIDECAR,
                aimed_at(one.shot.stimulus, f"192.52.193.{place}"),
                User.AGENT,
            )
            for one in made
        ]
        for place, when in enumerate(("before", "after"))
    }
    volley = Volley()
    for claim in made:
        volley.records[claim.shot.name] = {"outcome": "unreachable"}
        volley.records[claim.mirror.name] = {"outcome": "sent", "echo": True}
    volley.records["sweep"] = {"outcome": "sent", "count": 65535}
    volley.records["few"] = {"outcome": "sent", "count": 1}
    plan = Plan(cast("Any", None), cast("Any", None), frozenset(), {}, {})
    plan.claims, plan.sweeps = made, [swept]
    control = Shot("few", Vantage.NEIGHBOUR, Tcp("192.31.196.9", 8448), User.AGENT)
    return Evidence(
        plan=plan,
        volley=volley,
        opened=OPENED,
        closed=CLOSED,
        before=beats["before"],
        after=beats["after"],
        window=heard([*beats["before"]], 1, [claim.mirror for claim in made], 20),
        swept=heard([], 0, [control], 60),
        tail=heard([], 0, beats["after"], 80),
        claimed={},
        controlled={},
        rounds=None,
    )


def heard(early: Iterable[Shot], first: int, late: Iterable[Shot], then: int) -> Hearing:
    """A hearing of some packets from one number on, and of others from another."""
    records = [packet(shot, first + n) for n, shot in enumerate(early)]
    records += [packet(shot, then + n) for n, shot in enumerate(late)]
    return Hearing(tuple(records), CLOSED, 0, 0)


def verdict(evidence: Evidence, unmet: str = "") -> Verdict:
    """What the check's claims and sweeps come to."""
    judged = judge_claims(evidence, "NET-01", unmet)
    return rule(judged, judge_sweeps(evidence, "NET-01", unmet)).verdict


def altered(evidence: Evidence, part: str, hearing: Hearing) -> Evidence:
    """The same evidence with another hearing in one place."""
    parts: dict[str, Any] = {part: hearing}
    return replace(evidence, **parts)


def without(hearing: Hearing, number: int) -> Hearing:
    """A hearing that lacks one of its packets."""
    return replace_records(hearing, [r for n, r in enumerate(hearing.records) if n != number])


def replace_records(hearing: Hearing, records: list[Heard]) -> Hearing:
    """A hearing with other packets."""
    return Hearing(tuple(records), hearing.end, hearing.missed, hearing.lost)


def test_isolation_with_green_controls_passes() -> None:
    """Else all that follows would be about nothing."""
    assert verdict(sound()) is Verdict.PASSED


@given(st.sampled_from(["window", "swept", "tail"]), st.integers(0, 3))
def test_a_control_that_was_not_heard_is_no_pass(part: str, number: int) -> None:
    """A beat before or after, a mirror, or a sweep's control: one missing packet is enough."""
    evidence = sound()
    hearing = getattr(evidence, part)
    lacking = without(hearing, number % len(hearing.records))
    assert verdict(altered(evidence, part, lacking)) is Verdict.INCONCLUSIVE


@given(st.sampled_from(["443", "53", "443 o", "53 o", "sweep"]), st.booleans())
def test_a_missing_record_is_no_pass(name: str, broken: bool) -> None:
    """Of a claim, of its mirror, or of a sweep; an error of the tool is no record either."""
    evidence = sound()
    del evidence.volley.records[name]
    if broken:
        evidence.volley.records[name] = {"outcome": "tool-error"}
    assert verdict(evidence) is Verdict.INCONCLUSIVE


@given(st.sampled_from(["window", "swept", "tail"]), st.integers(1, 9))
def test_a_packet_that_the_witness_lost_is_no_pass(part: str, lost: int) -> None:
    """Whenever it was: nobody knows what it was."""
    evidence = sound()
    hearing = getattr(evidence, part)
    deaf = Hearing(hearing.records, hearing.end, hearing.missed, lost)
    assert verdict(altered(evidence, part, deaf)) is Verdict.INCONCLUSIVE


def test_a_condition_of_the_whole_survey_is_one_of_each_claim() -> None:
    """The probe is broken, or the intended path: no claim and no sweep passes."""
    assert verdict(sound(), "the agent's probe is broken") is Verdict.INCONCLUSIVE


@given(
    st.sampled_from([0, 1]),
    st.sampled_from(["window", "swept", "tail"]),
    st.sampled_from(OUTCOMES),
    st.booleans(),
)
def test_a_claim_that_was_heard_never_passes(
    number: int, part: str, outcome: str, green: bool
) -> None:
    """However late, whatever the prober saw, and whatever the controls say."""
    evidence = sound()
    shot = evidence.plan.claims[number].shot
    evidence.volley.records[shot.name] = {"outcome": outcome}
    hearing = getattr(evidence, part)
    leaky = replace_records(hearing, [*hearing.records, packet(shot, 90)])
    found = verdict(altered(evidence, part, leaky), "" if green else "red")
    expected = Verdict.INCONCLUSIVE if outcome == "tool-error" else Verdict.VIOLATED
    assert found is expected


@given(st.integers(1, 65535), st.sampled_from(["swept", "tail"]))
def test_a_sweep_that_was_heard_at_any_port_is_a_leak(port: int, part: str) -> None:
    """One port of 65,535 is enough."""
    evidence = sound()
    hearing = getattr(evidence, part)
    bare = packet(Shot("x", Vantage.OPEN, Tcp("192.175.48.9", port), User.AGENT), 90)
    leaky = replace_records(hearing, [*hearing.records, bare._replace(payload=b"")])
    assert verdict(altered(evidence, part, leaky)) is Verdict.VIOLATED


@given(st.lists(st.sampled_from(["lost", "leak", "beat", "record"]), max_size=4), st.data())
def test_bad_news_never_improves_a_verdict(news: list[str], data: st.DataObject) -> None:
    """One after the other: each leaves it as it was or makes it worse."""
    evidence, before = sound(), Verdict.PASSED
    for one in news:
        evidence = worse(evidence, one, data.draw(st.sampled_from([0, 1])))
        after = verdict(evidence)
        # A leak without its prober's record is not known to be one.
        assert ORDER.index(after) <= ORDER.index(before) or one == "record"
        assert after is not Verdict.PASSED
        before = after


def worse(evidence: Evidence, news: str, number: int) -> Evidence:
    """The same evidence with one more thing that speaks against it."""
    shot = evidence.plan.claims[number].shot
    tail = evidence.tail
    if news == "lost":
        return replace(evidence, tail=Hearing(tail.records, tail.end, tail.missed, 1))
    if news == "leak":
        return replace(evidence, tail=replace_records(tail, [*tail.records, packet(shot, 95)]))
    if news == "beat":
        return replace(evidence, after=[*evidence.after, evidence.plan.claims[number].shot])
    records = {**evidence.volley.records, shot.name: {"outcome": "tool-error"}}
    return replace(evidence, volley=replace(evidence.volley, records=records))


def test_what_the_open_guest_got_out_is_called_a_leak() -> None:
    """The same judge that passes the bottle calls its mirror leaky (CTL-05)."""
    assert verdict(mirrored(sound())) is Verdict.VIOLATED


@given(st.sampled_from([0, 1]))
def test_an_optional_claim_without_its_control_does_not_count(number: int) -> None:
    """It takes no part in a pass, and by itself it is none."""
    evidence = sound()
    plan = evidence.plan
    plan.claims[number] = replace(plan.claims[number], optional=True)
    lacking = without(evidence.window, 2 + number)
    assert verdict(replace(evidence, window=lacking)) is Verdict.PASSED

    plan.claims, plan.sweeps = [plan.claims[number]], []
    assert verdict(replace(evidence, window=lacking)) is Verdict.INCONCLUSIVE
