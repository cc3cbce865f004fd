"""HST: the host. Its loopback is judged at the bottle's own host, wherever pytest runs."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import conditions, encounters
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.encounters import Party, attempt, knocks
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.errors import NotSupported
from pytest_bottle.firing import Operation, fire
from pytest_bottle.stimulus import new_nonce
from pytest_bottle.verdict import BLOCKED_OUTCOMES

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Endpoint, Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

_CANARY = frozenset({Feature.LAB, Feature.HOST_EXEC, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE})
#: Everybody on the link: the limited broadcast (RFC 919), and all hosts by multicast (RFC 1112).
_EVERYBODY = ("255.255.255.255", "224.0.0.1")


def _host_addresses(bench: Bench) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    """Ask the host which addresses it has; those of its loopback are HST-02's."""
    record = bench.probe(Vantage.HOST, {"kind": "addresses"})
    if "addresses" not in record:
        raise bench.inconclusive(f"the host does not tell its addresses: {record}")
    found = [ipaddress.ip_interface(f"{host}/{size}") for _, host, size in record["addresses"]]
    return [one for one in found if not one.ip.is_loopback and not one.ip.is_link_local]


def _agents(bench: Bench) -> list[User]:
    root = [User.ROOT] if Feature.EXEC_ROOT in bench.features else []
    return [User.AGENT, *root]


def _settle(
    bench: Bench,
    tries: list[Operation],
    port: int,
    callers: list[tuple[Vantage, str]],
    addresses: list[str],
    doubt: str = "",
) -> str:
    """Make the attempts while the host's canary listens, and judge them by who came to it."""
    why = bench.unmet() or doubt
    canary = encounters.Post(
        *(bench.backend, bench.topology, Vantage.HOST, port), callers=callers, addresses=addresses
    )
    with canary.open(patient=not why):
        volley = fire(bench.backend, bench.topology, tries, encounters.NEARBY)
    privileged = bench.backend.address(bench.topology, Vantage.PRIVILEGED)
    sources = {Vantage.AGENT: bench.topology.agent_address, Vantage.PRIVILEGED: privileged}
    return encounters.settle(
        bench,
        volley,
        tries,
        lambda one: canary.book.names(one, sources[one.vantage]),
        why or canary.deaf,
    )


def _attempts_on(bench: Bench, host: str, port: int) -> list[Operation]:
    """Try an address from everywhere on the internal network, by the gateway where that helps."""
    gateway = bench.topology.internal.gateway
    tries = [one for user in _agents(bench) for one in knocks(Vantage.AGENT, host, port, user=user)]
    via = gateway if host != gateway and ":" not in host else ""
    return [*tries, *knocks(Vantage.PRIVILEGED, host, port, via=via)]


def _broadcasts(bench: Bench, hosts: set[str], port: int) -> list[Operation]:
    what = {"kind": "udp", "port": port, "broadcast": True}
    places = [(Vantage.AGENT, user) for user in _agents(bench)]
    return [
        attempt(f"udp/{port} to {host}", vantage, {**what, "host": host}, user)
        for vantage, user in [*places, (Vantage.PRIVILEGED, User.AGENT)]
        for host in sorted({*hosts, *_EVERYBODY})
    ]


@check(
    "HST-01",
    "Host services on all interfaces are unreachable",
    level=Level.STRICT,
    severity=Severity.HIGH,
    witness=Witness.AT_HOST,
    needs=_CANARY,
    evidence=(
        "https://github.com/moby/libnetwork/issues/1151",
        "https://github.com/moby/libnetwork/issues/2261",
        "https://github.com/moby/moby/pull/49262",
        "https://github.com/agentcage/agentcage/pull/210",
    ),
)
def host_services_are_unreachable(bench: Bench) -> str:
    """A listener that the host binds on 0.0.0.0 and [::] cannot be reached from the agent, its root
    or a privileged probe on its network by any address of the host, nor by a broadcast that names
    its sender.
    """
    port, topology = encounters.some_port(), bench.topology
    addresses = _host_addresses(bench)
    hosts = {str(one.ip) for one in addresses} | {topology.internal.gateway}
    many = {str(o.network.broadcast_address) for o in addresses if o.version == 4}
    tries = [one for host in sorted(hosts) for one in _attempts_on(bench, host, port)]
    tries += _broadcasts(bench, many, port)
    everywhere = ["0.0.0.0", *(["::"] if any(o.version == 6 for o in addresses) else [])]
    # From a container on a normal bridge its gateway answers.
    callers = [(Vantage.OPEN, topology.egress.gateway)]
    note = _settle(bench, tries, port, callers, everywhere)
    return f"{len(hosts)} addresses; {note}"


#: Where user-space networks put their host: slirp4netns, pasta and gvisor-tap-vsock.
_TRANSLATED = ("10.0.2.2", "10.0.2.3", "169.254.1.1", "169.254.1.2")
_LOOPBACKS = ("127.0.0.1", "127.0.0.53")


def _by_alias(bench: Bench, port: int) -> list[Operation]:
    return [
        attempt(
            f"http to {name}:{port}",
            Vantage.AGENT,
            {"kind": "http", "url": f"http://{name}:{port}/%s", "proxy": None},
            user,
        )
        for name in encounters.HOST_ALIASES
        for user in _agents(bench)
    ]


def _on_the_wire(bench: Bench, port: int) -> list[Operation]:
    """Packets for 127.0.0.1 in frames with the host's own link address (CVE-2020-8558)."""
    gateway = bench.topology.internal.gateway
    what = {
        "kind": "frame",
        "to": bench.evidence.plan.neighbours.get(gateway, "ff:ff:ff:ff:ff:ff"),
        "sender": bench.backend.address(bench.topology, Vantage.PRIVILEGED),
        "port": port,
    }
    return [
        attempt(
            f"{protocol}/{port} to {host} in a frame to {what['to']}",
            Vantage.PRIVILEGED,
            {**what, "protocol": protocol, "host": host},
        )
        for protocol in ("tcp", "udp")
        for host in _LOOPBACKS
    ]


@check(
    "HST-02",
    "Host loopback services are unreachable",
    witness=Witness.AT_HOST,
    needs=_CANARY,
    evidence=(
        "CVE-2020-8558",
        "https://github.com/kubernetes/kubernetes/issues/92315",
        "https://github.com/podman-container-tools/podman/issues/2642",
        "https://github.com/podman-container-tools/podman/pull/8489",
    ),
)
def host_loopback_is_unreachable(bench: Bench) -> str:
    """A listener bound to the host's 127.0.0.1, 127.0.0.53 or ::1 cannot be reached by any
    translation: neither by the addresses and names that engines give their host, nor by the
    gateway, nor by a packet for 127.0.0.1 on the wire with the host's link address.
    """
    port, topology = encounters.some_port(), bench.topology
    record = bench.probe(Vantage.HOST, {"kind": "addresses"})
    version6 = any(host == "::1" for _, host, _ in record.get("addresses", ()))
    here = [*_LOOPBACKS, *(["::1"] if version6 else [])]
    # Where nobody of ours owns these, what is sent to them may leave the machine.
    translated = _TRANSLATED if Feature.EVERY_ADDRESS in bench.features else ()
    hosts = (*translated, topology.internal.gateway, topology.egress.gateway)
    tries = [one for host in hosts for one in _attempts_on(bench, host, port)]
    tries += [*_by_alias(bench, port), *_on_the_wire(bench, port)]
    callers = [(Vantage.HOST, host) for host in here]
    # TCP to everybody's link address is dropped by any host: the gateway's own must be known.
    return _settle(bench, tries, port, callers, here, conditions.unseen_link(bench.evidence))


_NEEDS = frozenset({Feature.PUBLISH, Feature.HOST_EXEC})


def status_visitors(bench: Bench, topology: Topology | None = None) -> list[str]:
    """Who came to the published port, as the sidecar wrote down: address and port."""
    return [
        str(record["client"])
        for record in bench.backend.audit(topology or bench.topology)
        if record.get("event") == "status"
    ]


def _published(bench: Bench) -> Endpoint:
    assert bench.topology.published is not None, "a backend that publishes says where"
    return bench.topology.published


def _fetch(bench: Bench, host: str) -> dict[str, object]:
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{_published(bench).port}/{new_nonce()}"
    return {"kind": "http", "url": url, "proxy": None}


def _get(bench: Bench, vantage: Vantage, host: str) -> Record:
    return bench.probe(vantage, _fetch(bench, host))


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
    before = status_visitors(bench)
    targets = (
        topology.internal.gateway,
        topology.egress.gateway,
        published.host,
        "127.0.0.1",
    )
    seen = []
    visits = [Operation(target, Vantage.AGENT, _fetch(bench, target)) for target in targets]
    places = {"agent": topology, "sibling": bench.sibling}
    parties = [Party(place, visits) for place in places.values()]
    volleys = encounters.fire_all(bench.backend, *parties, deadline=encounters.NEARBY)
    for who, volley in zip(places, volleys, strict=True):
        for target in targets:
            record = volley.records.get(target, {"outcome": str(volley.failures)})
            if "status" in record:
                raise bench.violation(
                    f"{who} got an answer from {target}:{published.port}: {record['status']}"
                )
            if record["outcome"] not in BLOCKED_OUTCOMES:
                raise bench.inconclusive(f"{who} could not ask {target}: {record}")
            seen.append(str(record["outcome"]))
    strangers = status_visitors(bench)[len(before) :]
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
    if len(status_visitors(bench)) != visits + 1:
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
