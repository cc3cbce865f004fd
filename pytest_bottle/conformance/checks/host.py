"""HST: the host. Its loopback is judged at the bottle's own host, wherever pytest runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.errors import NotSupported
from pytest_bottle.stimulus import new_nonce
from pytest_bottle.verdict import BLOCKED_OUTCOMES

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Endpoint, Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

_NEEDS = frozenset({Feature.PUBLISH, Feature.HOST_EXEC})


def _status_visitors(bench: Bench) -> list[str]:
    """Who came to the published port, as the sidecar wrote down: address and port."""
    return [
        str(record["client"])
        for record in bench.backend.audit(bench.topology)
        if record.get("event") == "status"
    ]


def _published(bench: Bench) -> Endpoint:
    assert bench.topology.published is not None, "a backend that publishes says where"
    return bench.topology.published


def _get(bench: Bench, vantage: Vantage, host: str, *, topology: Topology | None = None) -> Record:
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{_published(bench).port}/{new_nonce()}"
    return bench.probe(vantage, {"kind": "http", "url": url, "proxy": None}, topology=topology)


@check(
    "HST-03",
    "A port published on host loopback is not a way back in",
    severity=Severity.MEDIUM,
    needs=_NEEDS | {Feature.LAB},
    evidence=("bot-bottle spike S20", "https://github.com/moby/moby/pull/53723"),
)
def published_port_is_no_way_in(bench: Bench) -> str:
    """Ports that the sidecar publishes on the host's loopback are not reachable from the agent or
    from another bottle: neither by the gateways, nor by the alias, nor by 127.0.0.1.
    """
    # The visitors are the backend's to write down, whatever the sidecar records of its decisions.
    if Feature.AUDIT not in bench.backend.describe().features:
        raise NotSupported("HST-03 needs the visitors of a published port", seen="without audit")
    topology, published = bench.topology, _published(bench)
    before = _status_visitors(bench)
    targets = (
        topology.internal.gateway,
        topology.egress.gateway,
        published.host,
        "127.0.0.1",
    )
    seen = []
    for who, place in (("agent", topology), ("sibling", bench.sibling)):
        for target in targets:
            record = _get(bench, Vantage.AGENT, target, topology=place)
            if "status" in record:
                raise bench.violation(
                    f"{who} got an answer from {target}:{published.port}: {record['status']}"
                )
            if record["outcome"] not in BLOCKED_OUTCOMES:
                raise bench.inconclusive(f"{who} could not ask {target}: {record}")
            seen.append(str(record["outcome"]))
    strangers = _status_visitors(bench)[len(before) :]
    if strangers:
        raise bench.violation(f"the published port was visited by {', '.join(strangers)}")
    _require_answer_at_host(bench, len(before))
    return ", ".join(f"{seen.count(outcome)}x {outcome}" for outcome in sorted(set(seen)))


def _require_answer_at_host(bench: Bench, visits: int) -> None:
    """The controls: the port answers at the host, its visitors are written down, the agent lives.

    They come last, so that they speak for the whole window.
    """
    unmet = bench.unmet()
    if unmet:
        raise bench.inconclusive(unmet)
    page = {"kind": "http", "url": f"http://{ALLOWED}/{new_nonce()}", "proxy": "environment"}
    record = bench.probe(Vantage.AGENT, page, topology=bench.sibling)
    if record.get("status") != 200:
        raise bench.inconclusive(f"the sibling does not even get {ALLOWED} by its proxy: {record}")
    record = _get(bench, Vantage.HOST, _published(bench).host)
    if "status" not in record:
        raise bench.inconclusive(
            f"the published port does not even answer at the host itself: {record}"
        )
    if len(_status_visitors(bench)) != visits + 1:
        raise bench.inconclusive("the sidecar did not write down the host's own visit")


@check(
    "HST-04",
    "Loopback publish answers where the platform says",
    level=Level.QUIRK,
    severity=Severity.LOW,
    witness=Witness.NO,
    needs=_NEEDS,
    evidence=(
        "bot-bottle spike S18, S19",
        "https://github.com/apple/container/issues/2067",
        "https://github.com/apple/container/issues/2029",
    ),
)
def publish_answers_on_its_alias(bench: Bench) -> str:
    """The published alias answers at the host, at once and again, and every other loopback address
    refuses on that port.
    """
    alias = _published(bench)
    for _ in range(2):
        record = _get(bench, Vantage.HOST, alias.host)
        if "status" not in record:
            raise bench.violation(f"{alias} does not answer at the host: {record['outcome']}")
    # Not 127.0.0.16-31: those are the pool of other bottles' aliases (S23).
    others = [h for h in ("127.0.0.1", "127.0.0.2", "127.1.2.3", "::1") if h != alias.host]
    outcomes = {host: str(_get(bench, Vantage.HOST, host)["outcome"]) for host in others}
    answered = [host for host, outcome in outcomes.items() if outcome != "refused"]
    if answered:
        raise bench.violation(
            f"besides {alias}: {', '.join(f'{h} {outcomes[h]}' for h in answered)}"
        )
    return f"{alias} answers; refused on {', '.join(others)}"
