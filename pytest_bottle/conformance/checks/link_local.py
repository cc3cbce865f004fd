"""IP6: the addresses that every IPv6 link has by itself."""

from __future__ import annotations

import time
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance.checks.lateral import users
from pytest_bottle.conformance.checks.proxy_doors import USUAL_UDP
from pytest_bottle.conformance.encounters import NEARBY, Post, knocks, settle, some_port
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.firing import Operation, fire
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench

#: Seconds for which answers to a call are awaited.
_CALLING = 0.4
#: Seconds for the privileged probe and the bystander to hear each other by IPv6.
_PATIENCE = 8.0
#: Seconds that a sweep of every door may take: who drops what comes is waited for at each.
_SWEEPING = 120.0
_PORTS = 65535


@check(
    "IP6-03",
    "No link-local IPv6 to the host",
    level=Level.STRICT,
    severity=Severity.HIGH,
    witness=Witness.AT_HOST,
    needs=frozenset(
        {Feature.LAB, Feature.IPV6, Feature.HOST_EXEC, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE}
    ),
    evidence=(
        "https://github.com/linuxarena/control-tower/pull/1955",
        "https://github.com/moby/moby/pull/49262",
    ),
    apart=True,
)
def no_link_local_host(bench: Bench) -> str:
    """The host's link-local address on the internal network, and that of anything else there,
    accepts nothing but what the sidecar's proxy does: neither from the agent nor from a privileged
    probe beside it that has IPv6 on. The host is judged by a canary of its own, and whoever answers
    on the link by a sweep of every TCP port and the usual ones of UDP, which must first find the
    one door that the suite opens at its bystander there.
    """
    why = bench.unmet()
    with bench.another() as topology:
        link = _look_around(bench, topology)
        note = _try_host(bench, topology, link, why or link.mute)
        _require_closed(bench, topology, link)
        doors = f", none with a door of {_PORTS}" if link.others else ""
        return f"{len(link.others)} others answer on the link{doors}; the host: {note}"


class _Link(NamedTuple):
    """Who has which link-local address, who answers a call from where, and the gateway's other one.

    ``gateway`` is what the host's link address on the internal network would make (RFC 4291).
    """

    addresses: Mapping[Vantage, frozenset[str]]
    responders: Mapping[Vantage, frozenset[str]]
    gateway: str

    @property
    def mute(self) -> str:
        """Why no answer on the link is worth nothing; empty if it is worth something."""
        heard = self.responders[Vantage.PRIVILEGED] & self.addresses[Vantage.BYSTANDER]
        return "" if heard else "the privileged probe does not even reach the bystander by IPv6"

    @property
    def others(self) -> list[str]:
        """Who answers on the internal network, besides the agent and the suite's own guests."""
        inside = (Vantage.AGENT, Vantage.PRIVILEGED, Vantage.BYSTANDER)
        own = frozenset[str]().union(*(self.addresses[vantage] for vantage in inside))
        found = self.responders[Vantage.AGENT] | self.responders[Vantage.PRIVILEGED]
        return sorted(found - own)

    @property
    def targets(self) -> list[str]:
        """Where the host might be found."""
        return sorted({*self.addresses[Vantage.HOST], *self.others, self.gateway} - {""})


#: Who tells its addresses, and who calls.
_TOLD = (
    *(Vantage.AGENT, Vantage.SIDECAR, Vantage.HOST),
    *(Vantage.PRIVILEGED, Vantage.BYSTANDER),
)
_CALLERS = (Vantage.AGENT, Vantage.PRIVILEGED, Vantage.OPEN)


def _look_around(bench: Bench, topology: Topology) -> _Link:
    """Turn IPv6 on at the probe and at the bystander, and look until they hear each other."""
    conf = "net/ipv6/conf/eth0"
    values = [(f"{conf}/accept_dad", "0"), (f"{conf}/disable_ipv6", "0")]
    for vantage in (Vantage.PRIVILEGED, Vantage.BYSTANDER):
        bench.probe(vantage, {"kind": "set", "values": values}, topology=topology)
    end = time.monotonic() + _PATIENCE
    while True:
        link = _look(bench, topology)
        if not link.mute or time.monotonic() > end:
            return link


def _look(bench: Bench, topology: Topology) -> _Link:
    gateway = topology.internal.gateway
    knock = {"kind": "tcp", "host": gateway, "port": 9, "nonce": new_nonce(), "deadline": _CALLING}
    call = {"kind": "ping-all", "nonce": new_nonce(), "deadline": _CALLING}
    tell = [Operation(f"addresses {v.value}", v, {"kind": "addresses"}) for v in _TOLD]
    calls = [
        Operation(f"call {v.value}", v, {**call, "raw": v is Vantage.PRIVILEGED}) for v in _CALLERS
    ]
    meet = Operation("knock", Vantage.PRIVILEGED, knock)
    volley = fire(bench.backend, topology, [*tell, *calls, meet])
    silent = [one.name for one in tell if "addresses" not in volley.records.get(one.name, {})]
    if silent:
        raise bench.inconclusive(f"no answer: {', '.join(silent)} {volley.failures}")
    known = bench.probe(Vantage.PRIVILEGED, {"kind": "neighbours"}, topology=topology)
    address = known.get("neighbours", {}).get(gateway, "")
    return _Link(
        {o.vantage: _link_local(volley.records[o.name]["addresses"]) for o in tell},
        {o.vantage: frozenset(volley.records.get(o.name, {}).get("responders", ())) for o in calls},
        _by_link_address(address) if address else "",
    )


def _link_local(rows: Iterable[tuple[str, str, int]]) -> frozenset[str]:
    found = (host for _, host, _ in rows if ":" in host)
    return frozenset(host for host in found if ip_address(host).is_link_local)


def _by_link_address(link: str) -> str:
    raw = bytes.fromhex(link.replace(":", ""))
    suffix = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + suffix))


def _try_host(bench: Bench, topology: Topology, link: _Link, why: str) -> str:
    """Try the host's canary at every address; the open guest is its control, on its own network."""
    port = some_port()
    there = sorted(link.responders[Vantage.OPEN] & link.addresses[Vantage.HOST])
    if not there:
        seen = link.responders[Vantage.OPEN]
        raise bench.inconclusive(f"the open guest finds no host on its own link: {seen}")
    tries = [
        one
        for host in (f"{target}%eth0" for target in link.targets)
        for one in (
            *(o for u in users(bench) for o in knocks(Vantage.AGENT, host, port, user=u)),
            *knocks(Vantage.PRIVILEGED, host, port),
        )
    ]
    post = Post(
        *(bench.backend, topology, Vantage.HOST, port),
        callers=[(Vantage.OPEN, f"{there[0]}%eth0")],
        addresses=["::"],
    )
    with post.open(patient=not why):
        volley = fire(bench.backend, topology, tries, NEARBY)
    sources = link.addresses[Vantage.PRIVILEGED]

    def heard(one: Operation) -> bool:
        return any(post.book.names(one, source) for source in sources)

    return settle(bench, volley, tries, heard, why or post.deaf)


def _require_closed(bench: Bench, topology: Topology, link: _Link) -> None:
    """Require that whoever answers on the link has no open door, but the sidecar its proxy's."""
    if not link.others:
        return
    _require_sight(bench, topology, link)
    sweeps = [Operation(host, Vantage.PRIVILEGED, _sweep(host)) for host in link.others]
    volley = fire(bench.backend, topology, sweeps)
    opened: list[str] = []
    for host in link.others:
        record = volley.records.get(host, {})
        own = {topology.proxy.port} if host in link.addresses[Vantage.SIDECAR] else set()
        opened += [f"{host} tcp/{port}" for port in record.get("open", ()) if port not in own]
        opened += [f"{host} udp/{port}" for port in record.get("answered", ())]
    if opened:
        raise bench.violation(f"doors on the link: {', '.join(opened)}")
    for host in link.others:
        seen = volley.records.get(host, {})
        if seen.get("count") != _PORTS:
            why = seen or volley.failures
            raise bench.inconclusive(f"the sweep of {host} is not complete: {why}")


def _require_sight(bench: Bench, topology: Topology, link: _Link) -> None:
    """Require that a sweep finds a door that there is, at the bystander, who has IPv6 on."""
    port = some_port()
    host = min(link.addresses[Vantage.BYSTANDER] & link.responders[Vantage.PRIVILEGED])
    post = Post(
        *(bench.backend, topology, Vantage.BYSTANDER, port),
        callers=[(Vantage.PRIVILEGED, f"{host}%eth0")],
        addresses=["::"],
    )
    look = Operation("look", Vantage.PRIVILEGED, {**_sweep(host), "first": port, "last": port})
    with post.open():
        volley = fire(bench.backend, topology, [look])
    seen = volley.records.get("look", {})
    if post.deaf or seen.get("open") != [port]:
        raise bench.inconclusive(post.deaf or f"a sweep does not find the bystander's door: {seen}")


def _sweep(host: str) -> dict[str, object]:
    return {
        "kind": "doors",
        "host": f"{host}%eth0",
        "udp": [*USUAL_UDP],
        "deadline": _SWEEPING,
    }
