"""CTL: controls, checks on the suite itself. A red one makes negatives worth nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import conditions, ruling
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.firing import heard

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.survey import Evidence

_LAB = frozenset({Feature.LAB})


@check(
    "CTL-01",
    "Witness hears what is meant to get out",
    needs=_LAB,
    evidence=(
        "https://github.com/apple/container/issues/2062",
        "https://github.com/n8n-io/n8n-sandbox-service/pull/127",
        "https://github.com/AlexanderMattTurner/agent-glovebox/pull/3614",
    ),
)
def witness_hears(bench: Bench) -> str:
    """Before any negative check, every (family, protocol, port) that a negative check will claim
    blocked is heard by the witness when sent from a place that may send it.
    """
    evidence = bench.evidence
    unheard = evidence.unheard(evidence.before, evidence.window)
    if unheard:
        raise bench.violation(f"the witness did not hear {len(unheard)}: {', '.join(unheard[:5])}")
    return f"{len(evidence.before)} keys heard from the sidecar"


@check(
    "CTL-02",
    "The probe itself works inside the agent",
    witness=Witness.NOT_APPLICABLE,
    needs=_LAB,
    evidence=(
        "https://github.com/NVIDIA/NemoClaw/pull/2091",
        "https://github.com/poojakira/mcp-agent-security-gateway/pull/7",
        "https://github.com/kubernetes/kubernetes/pull/124424",
    ),
    stimuli=conditions.plan_self_test,
)
def probe_works(bench: Bench) -> str:
    """A 'blocked' verdict means the probe ran and the network said no, not that a tool was missing,
    exec failed or the image lacked Python.
    """
    broken = conditions.broken_probe(bench.evidence)
    if broken:
        raise bench.violation(broken)
    return "every kind of stimulus recorded on the agent's own loopback"


@check(
    "CTL-03",
    "Witness stays alive across each negative",
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=(
        "https://github.com/cilium/cilium/issues/36826",
        "https://github.com/cilium/cilium/issues/31492",
    ),
)
def witness_stays_alive(bench: Bench) -> str:
    """The witness could have heard a leak during the whole window in which silence was observed."""
    evidence = bench.evidence
    unheard = [
        *evidence.unheard(evidence.before, evidence.window),
        *evidence.unheard(evidence.after, evidence.tail),
    ]
    if unheard or evidence.lost:
        raise bench.violation(
            f"{len(unheard)} heartbeats unheard ({', '.join(unheard[:5])}), "
            f"{evidence.lost} packets lost"
        )
    if not _bracketed(evidence):
        raise bench.violation("the heartbeats do not lie on both sides of the window")
    seconds = (evidence.closed.time_ns - evidence.opened.time_ns) / 1e9
    return f"window of {seconds:.2f} s between heartbeats on {len(evidence.after)} keys, 0 lost"


def _bracketed(evidence: Evidence) -> bool:
    first = [r for b in evidence.before for r in heard(b, evidence.window.records)[:1]]
    last = [r for b in evidence.after for r in heard(b, evidence.tail.records)[:1]]
    return all(r.time_ns <= evidence.opened.time_ns for r in first) and all(
        r.time_ns >= evidence.closed.time_ns for r in last
    )


@check(
    "CTL-04",
    "Same bytes succeed from the open container",
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST}),
    evidence=(
        "https://github.com/anthropic-experimental/sandbox-runtime: blocked-domain.example",
        "https://github.com/openai/codex: managed_proxy.rs dials 192.0.2.1",
    ),
)
def same_bytes_get_out(bench: Bench) -> str:
    """For each negative target the identical probe, image and arguments reach the witness from a
    container that is not isolated.
    """
    evidence = bench.evidence
    claims = [one for one in evidence.plan.claims if one.ear is None and not one.optional]
    claims = [one for one in claims if one.witnessed]
    mirrors = list(dict.fromkeys(claim.mirror for claim in claims))
    failed = [mirror for mirror in mirrors if not ruling.reached(evidence, mirror)]
    if failed or not mirrors:
        first = failed[0].name if failed else "none was planned"
        raise bench.violation(
            f"{len(failed)} of {len(mirrors)} mirrored stimuli did not arrive; the first: {first}: "
            f"{evidence.volley.records.get(first)}"
        )
    return f"{len(mirrors)} mirrored stimuli arrived"


@check(
    "CTL-05",
    "The suite fails on a known-leaky backend",
    witness=Witness.NOT_APPLICABLE,
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST}),
    evidence=(
        "https://github.com/agentrust-io/cmcp/issues/659",
        "https://github.com/AlexanderMattTurner/agent-glovebox/pull/939",
    ),
)
def judges_see_leaks(bench: Bench) -> str:
    """In every run, each negative's judge is applied once more to the same stimuli sent from the
    open container (to a sweep's from the neighbour, and to those at a guest from the sidecar), and
    must come out LEAKED: the judge can see a leak here and now. A negative whose judge cannot is
    INCONCLUSIVE.
    """
    blind = {one.id: why for one in bench.claimants if (why := bench.blind(one))}
    if blind or not bench.claimants:
        told = "; ".join(f"{identity}: {why}" for identity, why in blind.items())
        raise bench.violation(told or "no check claims anything")
    return f"{len(bench.claimants)} judges call what the open container sent a leak"
