"""HST: a port published on the host's loopback, and who is beside the host."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Fault, Feature, Vantage
from pytest_bottle.conformance.checks.host import status_visitors
from pytest_bottle.conformance.encounters import NEARBY, Post, attempt, settle, some_port
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.errors import NotSupported
from pytest_bottle.firing import fire
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Endpoint, Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Operation

_NEEDS = frozenset({Feature.LAB, Feature.PUBLISH, Feature.HOST_EXEC, Feature.NEIGHBOUR})


@check(
    "HST-06",
    "Published loopback ports are closed to the neighbourhood",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_NEEDS | {Feature.OPEN_GUEST},
    evidence=(
        "CVE-2025-54388",
        "GHSA-x4rx-4gw3-53p4",
        "https://github.com/moby/moby/issues/41872",
        "https://github.com/moby/moby/issues/45610",
        "https://github.com/moby/moby/pull/49325",
    ),
    apart=True,
    alone=True,  # what it reloads is everybody's
)
def neighbours_cannot_use_published_ports(bench: Bench) -> str:
    """A port published on the host's loopback cannot be reached from the host's outer segment:
    neither by a packet for a loopback address with the host's link address, nor by any address of
    the host, nor by the sidecar's inner address with the host as next hop; and so it stays after
    the host's packet filter is reloaded, where it can be.
    """
    # The visitors are the backend's to write down, whatever the sidecar records of its decisions.
    if Feature.AUDIT not in bench.backend.describe().features:
        raise NotSupported("HST-06 needs the visitors of a published port", seen="without audit")
    why = bench.unmet()
    with bench.another() as topology:
        before = _closed(bench, topology, why)
        if Feature.FIREWALL_RELOAD not in bench.features:
            return f"{before}; not after a reload: the backend has no firewall-reload"
        bench.backend.fault(topology, Fault.RELOAD_FIREWALL)
        return f"{before}; after a reload: {_closed(bench, topology, why)}"


def _closed(bench: Bench, topology: Topology, why: str) -> str:
    """Let the neighbour try, and the host's canary and the sidecar's own record tell."""
    backend, port, published = bench.backend, some_port(), _published(topology)
    neighbour = backend.address(topology, Vantage.NEIGHBOUR)
    tries = [
        *_on_the_wire(topology, neighbour, port),
        *_at_the_host(bench, topology),
        *_behind_the_host(topology),
    ]
    visited = len(status_visitors(bench, topology))
    canary = _canary(bench, topology, port)
    everywhere = Post(  # the control of the way: what is published everywhere is reached by it
        *(backend, topology, Vantage.HOST, port + 1),
        callers=[(Vantage.NEIGHBOUR, topology.egress.gateway)],
    )
    with canary.open(patient=not why), everywhere.open(patient=not why):
        volley = fire(backend, topology, tries, NEARBY)
    strangers = status_visitors(bench, topology)[visited:]
    if strangers:
        raise bench.violation(f"the published port was visited by {', '.join(strangers)}")

    def heard(one: Operation) -> bool:
        # Whoever answers at the published port's number is taken for it.
        answered = volley.outcome(one.name) in ("connected", "answered")
        return answered or canary.book.names(one, neighbour)

    silent = _silent(bench, topology, published, visited)
    return settle(bench, volley, tries, heard, why or canary.deaf or everywhere.deaf or silent)


def _published(topology: Topology) -> Endpoint:
    assert topology.published is not None, "a backend that publishes says where"
    return topology.published


def _canary(bench: Bench, topology: Topology, port: int) -> Post:
    """Listen where the port is published, beside it: a packet's way is the same for both."""
    published = _published(topology)
    addresses = sorted({published.host, "127.0.0.1"})
    return Post(
        *(bench.backend, topology, Vantage.HOST, port),
        callers=[(Vantage.HOST, host) for host in addresses],
        addresses=addresses,
        more={"watch": [published.port]},
    )


def _on_the_wire(topology: Topology, neighbour: str, port: int) -> list[Operation]:
    """Packets for loopback addresses in frames with the host's own link address."""
    published = _published(topology)
    what = {"kind": "frame", "via": topology.egress.gateway, "sender": neighbour}
    doors = [
        (protocol, host, port)
        for protocol in ("tcp", "udp")
        for host in sorted({published.host, "127.0.0.1"})
    ]
    return [
        attempt(
            f"{protocol}/{number} to {host} in a frame to the host",
            Vantage.NEIGHBOUR,
            {**what, "protocol": protocol, "host": host, "port": number},
        )
        for protocol, host, number in [*doors, ("tcp", published.host, published.port)]
    ]


def _at_the_host(bench: Bench, topology: Topology) -> list[Operation]:
    """Connections to the published port's number at every address of the host."""
    record = bench.probe(Vantage.HOST, {"kind": "addresses"}, topology=topology)
    if "addresses" not in record:
        raise bench.inconclusive(f"the host does not tell its addresses: {record}")
    found = [ip_interface(f"{host}/{size}").ip for _, host, size in record["addresses"]]
    hosts = {str(ip) for ip in found if not ip.is_loopback and not ip.is_link_local}
    port = _published(topology).port
    return [_connect(host, port) for host in sorted({*hosts, topology.egress.gateway})]


def _connect(host: str, port: int, via: str = "") -> Operation:
    what = {"kind": "tcp", "host": host, "port": port, **({"via": via} if via else {})}
    return attempt(f"tcp/{port} to {host}{via and f' via {via}'}", Vantage.NEIGHBOUR, what)


def _behind_the_host(topology: Topology) -> list[Operation]:
    """Connections to the sidecar's inner address, with a route of our own by the host."""
    publish = topology.spec.publish
    ports = {_published(topology).port, publish.target if publish else 0} - {0}
    via = topology.egress.gateway
    return [_connect(topology.sidecar_address, port, via) for port in sorted(ports)]


def _silent(bench: Bench, topology: Topology, published: Endpoint, visited: int) -> str:
    """The control of the record: the host's own visit is answered, and written down."""
    url = f"http://{published}/{new_nonce()}"
    what = {"kind": "http", "url": url, "proxy": None}
    record = bench.probe(Vantage.HOST, what, topology=topology)
    if "status" not in record:
        return f"the published port does not even answer at the host itself: {record}"
    written = len(status_visitors(bench, topology)) == visited + 1
    return "" if written else "the sidecar did not write down the host's own visit"
