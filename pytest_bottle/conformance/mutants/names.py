"""Mutants of the DNS checks."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from pytest_bottle.backends.engine_backend import RESOLVER
from pytest_bottle.backends.engines.netns.client import interpreter
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.conformance.mutants.base import Leaky, NetnsBackend, mutant
from pytest_bottle.conformance.mutants.ipv6 import Version6
from pytest_bottle.errors import BringUpError

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import ExecResult, GuestInfo, Topology
    from pytest_bottle.backends.engines.contract import GuestRequest
    from pytest_bottle.spec import BottleSpec

_QUERIES = Rule(0, protocol="udp", port=53)
#: Seconds that a forwarder lives at most: longer than any test of a mutant.
_LIFETIME = 120
#: Passes a query on to a server of its own, and the answer back, or refuses it; ends after a while.
_FORWARDER = f"""
import select, socket, sys, time
here, upstream = socket.socket(2, 2), ({RESOLVER.host!r}, {RESOLVER.port})
here.bind((sys.argv[1], 53))
there, clients, end = socket.socket(2, 2), {{{{}}}}, time.monotonic() + {_LIFETIME}
while time.monotonic() < end:
    for sock in select.select([here, there], [], [], 1)[0]:
        data, peer = sock.recvfrom(4096)
        if data == b"end":
            sys.exit()
        if sock is there:
            here.sendto(data, clients.get(data[:2], peer))
        elif {{passes}}:
            clients[data[:2]] = peer
            there.sendto(data, upstream)
        else:
            here.sendto(data[:2] + b"\\x81\\x85" + data[4:], peer)
"""
_END = "import socket, sys; socket.socket(2, 2).sendto(b'end', (sys.argv[1], 53))"
_BOUND = "import sys; sys.exit(':0035 ' not in open('/proc/net/udp').read())"


@mutant("DNS-01", also={"DNS-04", "NET-05", "NET-10"})
class Queries(Leaky):
    """UDP to port 53 of any IPv4 address gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, _QUERIES)
        self.give_default_route(topology)


@mutant("DNS-01-M2", also={"HST-01", "IP6-01"})
class QueriesOfVersion6(Version6):
    """UDP to port 53 of any IPv6 address gets out, and nothing over IPv4."""

    def weaken(self, topology: Topology) -> None:
        self.open_version6(topology, _QUERIES)
        self.give_version6(topology)


class Forwards(NetnsBackend):
    """A forwarder of queries runs somewhere that the agent can reach."""

    #: Which queries it passes on: an expression of the query's ``data``.
    passes = "True"

    def __init__(self, engine: NetnsEngine | None = None) -> None:
        super().__init__(engine)
        self._forwarders: dict[str, tuple[str, str, threading.Thread]] = {}

    def forward(self, topology: Topology, guest: str, address: str) -> None:
        """Run the forwarder in a guest, at an address of it; return when it is there."""
        if guest == "host":
            self.add_rules(topology, Rule(10, iif="lo", to=topology.internal.subnet))

        program = _FORWARDER.format(passes=self.passes)

        def stay() -> None:
            with contextlib.suppress(Exception):  # cut off by the end of the session
                self._python(guest, program, address, timeout=_LIFETIME + 10)

        thread = threading.Thread(target=stay, daemon=True)
        thread.start()
        self._forwarders[topology.id] = (guest, address, thread)
        end = time.monotonic() + 5
        while not self._python(guest, _BOUND).ok:
            if time.monotonic() > end:
                raise BringUpError("the mutant's forwarder did not start", where=guest)

    def down(self, topology: Topology) -> None:
        if topology.id in self._forwarders:  # H outlives a bottle, and what runs there
            guest, address, thread = self._forwarders.pop(topology.id)
            self._python(guest, _END, address)
            thread.join(5)
        super().down(topology)

    def _python(self, guest: str, code: str, *arguments: str, timeout: float = 10) -> ExecResult:
        argv = [interpreter(), "-I", "-S", "-c", code, *arguments]
        return self.netns.exec(guest, argv, timeout=timeout)


class GivesResolver(NetnsEngine):
    """An engine that names the sidecar as the agent's resolver."""

    def __init__(self) -> None:
        super().__init__()
        self._inner: dict[str, str] = {}

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start a guest; the sidecar comes before its agent."""
        bottle, _, part = request.name.partition("-")
        if part == "agent":
            request = request._replace(resolver=self._inner.pop(bottle))
        guest = super().run_guest(request)
        if part == "sidecar":
            self._inner[bottle] = list(guest.addresses.values())[-1]
        return guest


@mutant("DNS-03", also={"DNS-04", "DNS-05", "DNS-07", "NET-03", "PXY-18"})
class EmbeddedResolver(Forwards):
    """The agent's own resolver, at the sidecar, asks upstream for whatever it is asked."""

    def __init__(self) -> None:
        super().__init__(GivesResolver())

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        self.forward(topology, topology.sidecar.name, topology.sidecar_address)
        return topology._replace(resolvers=(topology.sidecar_address,))


@mutant("DNS-04", also={"HST-01", "HST-05"})
class ResolverOfTheBridge(Forwards):
    """The bridge's own address forwards queries, and nobody told the agent of it.

    Nothing at H hears an internal network to which H has no way back: so it is given one.
    """

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        self.forward(topology, "host", topology.internal.gateway)
        return topology


class NamesTheSidecar(NetnsEngine):
    """An engine that puts the sidecar's name into half of the agent's proxy variables."""

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start a guest."""
        if request.name.endswith("-agent"):
            url = f"http://{request.name.removesuffix('agent')}sidecar:9099"
            variables = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), url)
            request = request._replace(environment={**request.environment, **variables})
        return super().run_guest(request)


@mutant("DNS-10")
def names_the_sidecar() -> NetnsBackend:
    """The agent gets the sidecar's name, where nothing resolves it.

    Only in the variables in capitals: the suite's own probe reads the others, and a bottle whose
    intended path is broken would leave every other check without its control.
    """
    return NetnsBackend(NamesTheSidecar())
