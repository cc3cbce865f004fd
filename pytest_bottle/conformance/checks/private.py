"""NET: what is near and private is as closed as the Internet, and whoever is refused is told so."""

from __future__ import annotations

import secrets
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import talks
from pytest_bottle.conformance.encounters import (
    NEARBY,
    Post,
    attempt,
    knocks,
    merge,
    settle,
    some_port,
)
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.firing import Operation, Volley, fire
from pytest_bottle.internet.web import METADATA_ADDRESSES, TOKEN
from pytest_bottle.stimulus import Tcp, Udp, new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

_DIRECT = frozenset({Feature.LAB, Feature.OPEN_GUEST})
_EVERYWHERE = _DIRECT | {Feature.EVERY_ADDRESS}

# -- private networks and groups -------------------------------------------------------------------

#: Of the networks of RFC 1918, RFC 6598 and RFC 3927 a part in which engines seldom have their own.
_PRIVATE = ("10.0.0.0/10", "172.16.0.0/16", "192.168.192.0/18", "100.64.0.0/10", "169.254.0.0/17")
#: What everybody on a LAN is asked by: mDNS (RFC 6762), SSDP (UPnP), DHCP (RFC 2131).
_GROUPS = (("224.0.0.251", 5353), ("239.255.255.250", 1900), ("255.255.255.255", 67))


def _somewhere(plan: Plan, network: str) -> str:
    """Draw an address of a private network that is on none of the bottle's own."""
    own = [ip_network(one.subnet) for one in (plan.topology.internal, plan.topology.egress)]
    whole = IPv4Network(network)
    while True:
        address = whole[1 + secrets.randbelow(whole.num_addresses - 2)]
        if not any(address in net for net in own):
            return str(address)


def _private_addresses(plan: Plan) -> None:
    for network in _PRIVATE:
        pairs = (_somewhere(plan, network), _somewhere(plan, network))
        plan.block_like("NET-10", *(Tcp(host, 80) for host in pairs))
        plan.block_like("NET-10", *(Udp(host, 53) for host in pairs))


@check(
    "NET-10",
    "No private, LAN or link-local destination, unicast or multicast",
    severity=Severity.HIGH,
    needs=_EVERYWHERE | {Feature.NEIGHBOUR},
    evidence=(
        "https://github.com/rappdw/sandy/pull/8",
        "https://github.com/docker/docs/pull/25819",
    ),
    stimuli=_private_addresses,
)
def no_private_destination(bench: Bench) -> str:
    """The agent reaches no private, shared or link-local address (RFC 1918, RFC 6598, RFC 3927) of
    the far side and no machine on the outer segment; and what it says to multicast groups or to
    everybody is not heard beyond the internal network.
    """
    return f"{bench.require_blocked()}; on the outer segment: {_beside(bench)}"


def _users(bench: Bench) -> list[User]:
    return [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]


def _to_groups(vantage: Vantage, user: User = User.AGENT) -> list[Operation]:
    return [
        attempt(
            f"udp/{port} to {host}",
            vantage,
            {"kind": "udp", "host": host, "port": port, "broadcast": True},
            user,
        )
        for host, port in _GROUPS
    ]


def _beside(bench: Bench) -> str:
    """Try the neighbour itself and the groups that it is in; the open guest is its control."""
    backend, topology, port, why = bench.backend, bench.topology, some_port(), bench.unmet()
    neighbour = backend.address(topology, Vantage.NEIGHBOUR)
    groups = [host for host, _ in _GROUPS if IPv4Address(host).is_multicast]
    post = Post(
        *(backend, topology, Vantage.NEIGHBOUR, port),
        callers=[(Vantage.OPEN, neighbour)],
        more={"groups": groups, "udp": [port, *(number for _, number in _GROUPS)]},
    )
    tries = [
        one
        for user in _users(bench)
        for one in (
            *knocks(Vantage.AGENT, neighbour, port, user=user),
            *_to_groups(Vantage.AGENT, user),
        )
    ]
    controls, volley, mark = _to_groups(Vantage.OPEN), Volley(), backend.internet.mark()
    with post.open(patient=not why):
        merge(volley, fire(backend, topology, tries, NEARBY))
        merge(volley, fire(backend, topology, controls, NEARBY))
    hearing = backend.internet.heard(mark)
    payloads = b"\n".join(record.payload for record in hearing.records)
    unheard = [one.name for one in controls if not post.book.names(one)]
    doubts = [
        why,
        post.deaf,
        f"the neighbour did not hear {', '.join(unheard)}" if unheard else "",
        f"the witness lost {hearing.lost} packets" if hearing.lost else "",
    ]

    def heard(one: Operation) -> bool:
        told = str(one.what["nonce"]).encode() in payloads
        return told or post.book.names(one, topology.agent_address)

    return settle(bench, volley, tries, heard, next(filter(None, doubts), ""))


# -- metadata --------------------------------------------------------------------------------------

_TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path


def _metadata_addresses(features: Iterable[Feature]) -> list[str]:
    """Where there may be such a service: by IPv6 only where the far side speaks that."""
    version6 = Feature.IPV6 in features
    return [host for host in METADATA_ADDRESSES if version6 or ":" not in host]


def _ask_for_token(host: str, vantage: Vantage, user: User = User.AGENT) -> Operation:
    """Ask a metadata service for a session's token, as version 2 of EC2's wants it."""
    authority = f"[{host}]" if ":" in host else host
    what = {
        "kind": "http",
        "url": f"http://{authority}{_TOKEN_PATH}",
        "method": "PUT",
        "headers": {"X-aws-ec2-metadata-token-ttl-seconds": "60"},
        "proxy": None,
        "nonce": new_nonce(),
    }
    return Operation(f"NET-11 {vantage.value} as {user.value}: {host}", vantage, what, user)


def _asked(features: frozenset[Feature]) -> dict[str, list[Operation]]:
    """The agent's questions, by the address that they go to."""
    users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in features else [])]
    return {
        host: [_ask_for_token(host, Vantage.AGENT, user) for user in users]
        for host in _metadata_addresses(features)
    }


def _metadata(plan: Plan) -> None:
    # Everybody's address is the same here: the controls go first, and are over by then.
    plan.first += [_ask_for_token(h, Vantage.OPEN) for h in _metadata_addresses(plan.features)]
    plan.during += [one for tries in _asked(plan.features).values() for one in tries]


@check(
    "NET-11",
    "No cloud metadata",
    needs=_EVERYWHERE,
    evidence=(
        "https://github.com/vibed-project/vibeD/pull/87",
        "https://github.com/las-team/lastest/pull/34",
    ),
    stimuli=_metadata,
)
def no_cloud_metadata(bench: Bench) -> str:
    """The addresses at which clouds keep their instance metadata cannot be reached directly, though
    a service answers there: the open guest gets a token from each of them.
    """
    evidence, asked = bench.evidence, _asked(bench.evidence.plan.features)
    names = {one.name: host for host, tries in asked.items() for one in tries}
    heard = {record.dst for record in talks.news(evidence)} & set(asked)
    without = [
        f"the open guest got no token from {host}: {record}"
        for host in asked
        for record in [evidence.volley.records.get(_ask_for_token(host, Vantage.OPEN).name, {})]
        if TOKEN not in str(record.get("body"))
    ]
    why = talks.deaf(bench) or "; ".join(without)
    tries = [one for several in asked.values() for one in several]
    return settle(bench, evidence.volley, tries, lambda one: names[one.name] in heard, why)


# -- how a block shows -----------------------------------------------------------------------------

_TIMES, _BOUND = 20, 1.0
#: What says at once that there is no way.
_CLEAR = frozenset({"ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EPERM"})


@check(
    "NET-12",
    "Blocks are fast and unambiguous",
    level=Level.QUIRK,
    severity=Severity.LOW,
    witness=Witness.NO,
    needs=_DIRECT,
    evidence=(
        "https://github.com/2witstudios/PageSpace/pull/1736",
        "NVIDIA/OpenShell e2e/rust/tests/bypass_detection.rs",
    ),
    apart=True,
)
def blocks_are_fast(bench: Bench) -> str:
    """A refused destination fails within a second (95 of 100 times) and always with the same error
    number, one that says so, that agents need not hang and tests need not guess. It is no proof of
    isolation: a refusal may come from a live host.
    """
    port, internet = some_port(), bench.backend.internet
    host = internet.fresh_address()
    internet.listen(tcp=[port])
    what = {"kind": "tcp", "host": host, "port": port, "deadline": 2 * _BOUND}
    tries = [attempt(f"attempt {n}", Vantage.AGENT, what) for n in range(_TIMES)]
    control = attempt("control", Vantage.OPEN, what)
    # In a bottle of its own: a kernel says no to one sender only so often a second (icmp(7)), and
    # elsewhere the other checks have asked already.
    with bench.another() as topology:
        volley = fire(bench.backend, topology, [*tries, control])
    if bench.unmet() or not volley.echo(control.name):
        seen = volley.records.get(control.name) or volley.failures
        raise bench.inconclusive(bench.unmet() or f"nobody answers there at all: {seen}")
    records = [volley.records.get(one.name, {}) for one in tries]
    if any(record.get("outcome") in (None, "tool-error") for record in records):
        raise bench.inconclusive(f"attempts without a record: {records} {volley.failures}")
    slow = sorted(float(record["elapsed"]) for record in records)[_TIMES * 95 // 100 - 1]
    errors = {str(record.get("errno", record["outcome"])) for record in records}
    if slow >= _BOUND or len(errors) > 1 or not errors <= _CLEAR:
        raise bench.violation(f"tcp/{port} to {host}: {', '.join(errors)}, 95 % in {slow:.3f} s")
    return f"{_TIMES}x {errors.pop()}, 95 % in {slow * 1000:.1f} ms"
