"""DNS: names, and who carries them out."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import conditions
from pytest_bottle.conformance.checks.ipv6 import block_frame
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.lookups import (
    PATIENCE,
    ZONE,
    about,
    fired,
    mark_of,
    plan_lookup,
    record_of,
    require_lookups_heard,
    require_unheard,
    resolve,
    users,
)
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.firing import Operation, fire
from pytest_bottle.guest import dnswire
from pytest_bottle.stimulus import Frame, Udp, new_nonce

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Record, Volley

_LAB = frozenset({Feature.LAB})
_DIRECT = _LAB | {Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE, Feature.NEIGHBOUR}


def _query() -> tuple[str, str]:
    """A question about a name: what stands before and behind the nonce in it, in hex."""
    hole = "x" * len(new_nonce())
    before, _, behind = dnswire.build_query(f"{hole}.{ZONE}", dnswire.A, 0x0D01).partition(
        hole.encode()
    )
    return before.hex(), behind.hex()


def _straight(plan: Plan) -> None:
    before, behind = _query()
    for family in (4, 6) if Feature.IPV6 in plan.features else (4,):
        for source in (0, 53):
            target = plan.target(family)
            query = Udp(target, 53, before, suffix=behind, source=source)
            plan.block("DNS-01", Vantage.AGENT, query)
        frame = Frame(plan.target(family), "udp", 53, before, behind, source=53)
        block_frame(plan, "DNS-01", frame, plan.topology.internal.gateway)


@check(
    "DNS-01",
    "No query straight to an outside resolver (UDP 53, IPv4 and IPv6)",
    needs=_DIRECT,
    evidence=(
        "https://github.com/anthropics/claude-code/issues/36907",
        "https://github.com/github/gh-aw-firewall/issues/9",
        "https://github.com/agentcage/agentcage/pull/217",
        "https://github.com/github/gh-aw-firewall/pull/68",
    ),
    stimuli=_straight,
)
def no_query_straight_out(bench: Bench) -> str:
    """The agent cannot speak DNS to an address of its choosing: a query that it makes by hand,
    from any port and from port 53, reaches no resolver; nor does one that a privileged probe hands
    to the gateway.
    """
    note = bench.require_blocked()
    return note if Feature.IPV6 in bench.features else f"{note}; IPv4 only, there is no other"


# -- resolvers that carry names out ----------------------------------------------------------------

#: Where platforms keep helpers: Docker, systemd-resolved, slirp4netns, podman, clouds.
_HELPERS = ("127.0.0.11", "127.0.0.1", "127.0.0.53")
#: Only where the far side owns every address, for else a question to them may leave the machine.
_HELPERS_BEYOND = ("10.0.2.3", "169.254.1.1", "169.254.169.253")
_ASKED, _FAR = "DNS-03 agent", "DNS-04 sidecar"


def _given_resolver(plan: Plan) -> None:
    for user in users(plan):
        name = f"{_ASKED} as {user.value}"
        plan.during.append(Operation(name, Vantage.AGENT, resolve(ZONE), user))
    plan_lookup(plan)


@check(
    "DNS-03",
    "The given resolver does not carry denied names out",
    needs=_LAB,
    evidence=(
        "CVE-2024-29018",
        "GHSA-mq39-4gv4-mvpx",
        "https://github.com/moby/moby/issues/47333",
        "https://github.com/containers/aardvark-dns/pull/447",
        "https://github.com/podman-container-tools/podman/issues/22827",
        "https://github.com/agentcage/agentcage/issues/213",
        "https://github.com/superradcompany/microsandbox/issues/675",
        "https://github.com/anthropic-experimental/sandbox-runtime/issues/88",
    ),
    stimuli=_given_resolver,
)
def resolver_carries_nothing_out(bench: Bench) -> str:
    """Asking the configured resolver for a name off the list causes no query to leave the bottle,
    whatever it answers.
    """
    operations = fired(bench, _ASKED)
    require_unheard(bench, {str(o.what[key]) for o in operations for key in ("raw", "name")})
    require_lookups_heard(bench)
    seen = set()
    for operation in operations:
        record = record_of(bench, operation)
        servers = ", ".join(record["servers"]) or "none, so 127.0.0.1"
        seen.add(f"servers: {servers}; {', '.join(sorted(set(record['raw'].values())))}")
    return " / ".join(sorted(seen))


def _resolvers_nearby(plan: Plan) -> list[str]:
    """Every address that might resolve names for the agent: what is on its link, and helpers.

    Nobody is asked who did not answer ARP: the kernel's own notice of that, seconds later, would
    count as a packet that came to the agent.
    """
    topology = plan.topology
    near = {*plan.neighbours, topology.internal.gateway, topology.sidecar_address}
    beyond = {topology.egress.gateway, topology.sidecar_outer_address, *topology.resolvers}
    if topology.internal.subnet6:
        beyond.add(str(ip_network(topology.internal.subnet6)[1]))
    if Feature.EVERY_ADDRESS in plan.features:
        beyond.update(_HELPERS_BEYOND)
    return sorted({*near, *beyond, *_HELPERS})


def _sweep(hosts: list[str]) -> dict[str, object]:
    # The place in the list stands before the nonce, as a label of its own.
    name = f"{new_nonce()}.{ZONE}"
    return {"kind": "dns-sweep", "udp": hosts, "tcp": hosts, "name": name, "deadline": PATIENCE}


def _everybody(plan: Plan) -> None:
    plan_lookup(plan)
    hosts = _resolvers_nearby(plan)
    for user in users(plan):
        name = f"DNS-04 agent as {user.value}"
        plan.during.append(Operation(name, Vantage.AGENT, _sweep(hosts), user))
    plan.during.append(Operation(_FAR, Vantage.SIDECAR, _sweep([plan.target()])))


@check(
    "DNS-04",
    "No recursion from any address on the link",
    needs=_LAB | {Feature.PRIVILEGED_PROBE},
    evidence=(
        "https://github.com/agentcage/agentcage/issues/213",
        "https://github.com/brightwave-inc/tidebreak/issues/1346",
    ),
    stimuli=_everybody,
)
def no_recursion_nearby(bench: Bench) -> str:
    """Every host that answers on port 53 inside the bottle obeys DNS-03, and they are just those
    that the topology declares.
    """
    operations = fired(bench, "DNS-04 agent")
    require_unheard(bench, (str(o.what["name"]) for o in operations))
    found = {
        host
        for operation in operations
        for hosts in bench.evidence.volley.records.get(operation.name, {})
        .get("answered", {})
        .values()
        for host in hosts
    }
    declared = set(bench.topology.resolvers)
    if found - declared:
        raise bench.violation(f"resolvers that nobody declared: {', '.join(sorted(found))}")
    require_lookups_heard(bench)
    unseen = conditions.unseen_link(bench.evidence)
    if unseen:
        raise bench.inconclusive(f"not everybody was asked: {unseen}")
    for operation in operations:
        record_of(bench, operation)
    _require_far_sweep(bench)
    if found != declared:
        raise bench.violation(f"declared {sorted(declared)}, and only {sorted(found)} answer")
    asked = len(operations[0].what["udp"]) if operations else 0  # type: ignore[arg-type]
    return f"{asked} addresses asked over UDP and TCP, {len(found)} resolvers, none carries out"


def _require_far_sweep(bench: Bench) -> None:
    """The control: the same sweep finds a resolver where there is one, and is heard there."""
    (far,) = fired(bench, _FAR)
    answered = record_of(bench, far)["answered"]
    if answered["udp"] != far.what["udp"] or answered["tcp"] != far.what["tcp"]:
        raise bench.inconclusive(f"the sweep finds no resolver at the far side: {answered}")
    if not about(bench, [mark_of(str(far.what["name"]))]):
        raise bench.inconclusive("the sweep of the far side was not heard there")


# -- finding the sidecar ---------------------------------------------------------------------------


@check(
    "DNS-10",
    "Finding the sidecar needs no engine DNS, and the sidecar can resolve",
    level=Level.QUIRK,
    severity=Severity.LOW,
    witness=Witness.NO,
    needs=_LAB,
    evidence=(
        "bot-bottle spike S17",
        "https://github.com/apple/container/issues/1986",
        "https://github.com/podman-container-tools/podman/issues/29175",
        "https://github.com/podman-container-tools/podman/issues/22807",
    ),
)
def sidecar_is_found_by_address(bench: Bench) -> str:
    """The bottle passes the sidecar as an address; names that the engine does not serve are not
    relied on; the sidecar resolves allowed names with the servers that it was given. `localhost`
    counts as an address, since nobody is asked for it (RFC 6761).
    """
    volley = fire(bench.backend, bench.topology, _finding(bench))
    named = _names_in_proxy_variables(bench, volley)
    if named:
        raise bench.violation(f"the agent's proxy is given by name: {', '.join(named)}")
    unmet = bench.unmet()
    if unmet:
        raise bench.inconclusive(unmet)
    proxy, reached = bench.topology.proxy, _told(bench, volley, "proxy")
    if reached["outcome"] not in ("connected", "answered"):
        raise bench.violation(f"the agent does not reach {proxy}: {reached['outcome']}")
    own, explicit = (_told(bench, volley, name) for name in ("own", "explicit"))
    if own.get("library", {}).get("outcome") != "answered":
        raise bench.violation(f"the sidecar cannot resolve {ALLOWED}: {own}")
    if not explicit.get("answered", {}).get("udp"):
        raise bench.violation(f"the sidecar cannot ask a server of its choice: {explicit}")
    found = _told(bench, volley, "name").get("library", {}).get("addresses", ())
    by_name = ", ".join(found) or "not found"
    return f"{proxy} connects; by the name {bench.topology.sidecar.name}: {by_name}"


def _finding(bench: Bench) -> list[Operation]:
    """What the agent is told of its proxy, and makes of it; whom the sidecar can ask.

    As the sidecar's own programs do, and by hand at a server that we name.
    """
    topology, far = bench.topology, bench.backend.internet.addresses_of(ALLOWED)[0]
    proxy = {"host": topology.proxy.host, "port": topology.proxy.port, "nonce": new_nonce()}
    names = [f"{scheme}_proxy" for scheme in ("http", "https", "all")]
    agent: dict[str, Mapping[str, object]] = {
        "variables": {"kind": "variables", "names": [*names, *map(str.upper, names)]},
        "proxy": {"kind": "tcp", **proxy},
        "name": {**resolve(ZONE), "name": topology.sidecar.name},
    }
    sidecar: dict[str, Mapping[str, object]] = {"own": resolve(ALLOWED), "explicit": _sweep([far])}
    return [
        *(Operation(name, Vantage.AGENT, what) for name, what in agent.items()),
        *(Operation(name, Vantage.SIDECAR, what) for name, what in sidecar.items()),
    ]


def _told(bench: Bench, volley: Volley, name: str) -> Record:
    if name not in volley.records:
        raise bench.inconclusive(f"the probe did not report {name}: {volley.failures}")
    return volley.records[name]


def _names_in_proxy_variables(bench: Bench, volley: Volley) -> list[str]:
    """The agent's own proxy variables whose host is no address."""
    record = _told(bench, volley, "variables")
    variables: dict[str, str | None] = record.get("variables", {})
    proxies = {name: url for name, url in variables.items() if url}
    if not proxies:
        raise bench.inconclusive(f"the agent has no proxy variables: {record}")
    hosts = {name: _host_of(url) for name, url in sorted(proxies.items())}
    return [f"{name} names {host!r}" for name, host in hosts.items() if not _is_literal(host)]


def _host_of(url: str) -> str:
    """Take the host of a URL, and leave the credentials that may stand beside it."""
    return urlsplit(url if "://" in url else f"http://{url}").hostname or ""


def _is_literal(host: str) -> bool:
    """Tell an address, or the one name that is never looked up (RFC 6761, section 6.3)."""
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
