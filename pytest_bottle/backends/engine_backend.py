"""A backend out of any engine: the only place that knows how a bottle is put together.

The egress network comes first, for the sidecar's first network gives its default route and takes
the published ports (S11, S22); addresses are read back after every start (S17); the agent gets the
proxy as an address, never as a name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_bottle.backends import kinds, own_sidecar, readiness
from pytest_bottle.backends.contract import Endpoint, Fault, Feature, Topology, User, Vantage
from pytest_bottle.backends.engines.contract import (
    ForwardRequest,
    GuestRequest,
    PortTakenError,
    Publishing,
    SidecarRequest,
)
from pytest_bottle.errors import BringUpError, ConfigurationError, NotSupported, TransportError
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_bottle.backends.contract import (
        BackendInfo,
        ExecResult,
        GuestInfo,
        NetworkInfo,
        Resource,
    )
    from pytest_bottle.backends.engines.contract import Engine
    from pytest_bottle.backends.far_side import GuestInternet
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.spec import EgressRoute, PublishedPort

#: The bottle's own host, as engines call it.
HOST = "host"
#: The egress network that bottles share where there is no far side; no bottle is named so.
_EGRESS = "egress"
#: Where the reference sidecar looks for routes that replace those it was started with.
ROUTES_FILE = "/run/bottle-routes.json"
#: The resolver that the reference sidecar asks; any address answers in the lab.
RESOLVER = Endpoint("192.88.99.53", 53)
#: The variables by which programs find the authorities they trust.
_TRUST_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
#: After so many aliases that turned out to be taken it is no accident.
_ALIASES_TRIED = 5
#: How long the agent's own command must live to count as started, in seconds.
_SETTLE = 0.25
_VERSION = "import sys; print('new enough' if sys.version_info >= (3, 8) else sys.version)"
#: Guests of the suite's own that have NET_ADMIN and NET_RAW.
_PRIVILEGED = (
    *(Vantage.PRIVILEGED, Vantage.BYSTANDER, Vantage.NEIGHBOUR),
    *(Vantage.STRANGER, Vantage.COMPANION),
)
#: What takes the lab: a guest owns the addresses of its network, and those are IPv4.
_NOT_BY_A_GUEST = frozenset({Feature.EVERY_ADDRESS, Feature.IPV6})
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NO_PROXY = "localhost,127.0.0.1,::1"


@dataclass
class _Parts:
    """What there is of a bottle.

    Attributes:
        lock: held while something is attached, or all is removed.
        guests: those at its vantage points.
        networks: their names, those that may not have come to be as well.
        alias: where at the host it publishes; empty for nowhere.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    guests: dict[Vantage, GuestInfo] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)
    alias: str = ""


class EngineBackend:
    """A :class:`~pytest_bottle.backends.contract.Backend` over an engine.

    Args:
        engine: makes networks and guests; it is closed if no backend can be made of it.
        internet: ``lab``, the engine's own far side; ``guest``, one that is a guest of the engine;
            ``guest,live``, likewise, and literal public addresses may be sent to; ``none``, none of
            ours: the engine's egress networks lead where they lead, and nobody listens there.

    Raises:
        BottleError: the far side could not be made.
    """

    def __init__(self, engine: Engine, internet: str = "lab") -> None:
        self.engine = engine
        self._kind = internet
        self._far_side: GuestInternet | None = None
        #: The egress network of all bottles, where each has not its own.
        self._egress: NetworkInfo | None = None
        try:
            self._make_far_side()
        except BaseException:
            engine.close()
            raise
        self._numbers = itertools.count(1)
        self._edits = itertools.count(1)
        self._bottles: dict[str, _Parts] = {}
        self._lock = threading.Lock()  # of the bottles' dict, for a moment at a time

    def _make_far_side(self) -> None:
        if self._kind == kinds.NONE:
            # There is something of a session as soon as it is open, whoever looks from outside.
            self.engine.create_network(_EGRESS, internal=False)
            (self._egress,) = self.engine.networks((_EGRESS,))
        elif self._kind != kinds.LAB:
            from pytest_bottle.backends.far_side import GuestInternet

            self._far_side = GuestInternet(self.engine, literals=kinds.LIVE in self._kind)
            self._far_side.make()
            self._egress = self._far_side.network

    def describe(self) -> BackendInfo:
        """Name the engine and what it makes possible."""
        info = self.engine.info()
        features = info.features
        if self._far_side is not None:
            features = features - _NOT_BY_A_GUEST | {Feature.LAB}
        return info._replace(features=features, detail=f"{info.detail}, {self._kind} internet")

    @property
    def internet(self) -> Internet:
        """What the engine's egress networks lead to.

        Raises:
            NotSupported: the engine has no far side.
        """
        internet = self._far_side or self.engine.internet
        if internet is None:
            raise NotSupported("the engine has no far side", where=self.engine.info().name)
        return internet

    # -- up and down -------------------------------------------------------------

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up, or leave nothing of it.

        Raises:
            BottleError: what the engine says.
        """
        if not spec.sidecar.is_reference:
            own_sidecar.check(spec)
        if self._far_side is not None:
            self._far_side.check(spec)
        self.engine.check(spec)
        name = f"b{next(self._numbers)}"
        try:
            topology = self._build(name, spec)
            self._complete(topology)
        except BaseException:
            # An engine that is gone took everything with it; what it died of is the error.
            with contextlib.suppress(TransportError):
                self._remove(name)
            raise
        return topology

    def _build(self, name: str, spec: BottleSpec) -> Topology:
        parts = _Parts()
        with self._lock:
            self._bottles[name] = parts
        names: dict[str, str] = {}

        def network(role: str, subnet: str) -> None:
            if role == "egress" and self._egress is not None and not subnet:
                names[role] = self._egress.name
            else:
                names[role] = self._network(name, role, subnet)

        self.engine.together(
            lambda: network("egress", spec.egress_subnet),
            lambda: network("internal", spec.internal_subnet),
        )
        python = self.engine.python(spec)
        request = GuestRequest(
            f"{name}-sidecar",
            (names["egress"], names["internal"]),
            f"{name}-sidecar",
            trusting(self.engine.authorities),
            resolver=RESOLVER.host,
            timeout=spec.timeout,
            rootfs=spec.rootfs,
            image=spec.sidecar.image,
            serves=spec.sidecar.is_reference,
        )
        made: list[NetworkInfo] = []
        sidecars: list[tuple[GuestInfo, Endpoint | None]] = []
        self.engine.together(
            lambda: made.extend(self.engine.networks((names["egress"], names["internal"]))),
            lambda: sidecars.append(self._run_sidecar(parts, spec, request)),
        )
        (egress, internal), ((sidecar, published),) = made, sidecars
        self._require_apart(sidecar)
        proxy = Endpoint(sidecar.addresses[internal.name], spec.sidecar.port)
        trust = trusting(self.engine.authorities)
        environment = {**_agent_environment(proxy, trust), **spec.environment}
        wanted = GuestRequest(
            f"{name}-agent",
            (internal.name,),
            f"{name}-agent",
            environment,
            timeout=spec.timeout,
            rootfs=spec.rootfs,
            image=spec.image,
        )
        agents: list[GuestInfo] = []
        served: list[Endpoint | None] = []
        # The agent first: where calls are quick the two guests start beside each other.
        self.engine.together(
            lambda: agents.append(self.engine.run_guest(wanted)),
            lambda: served.append(self._serve(sidecar.name, spec, proxy, published)),
        )
        (agent,), (machine,) = agents, served
        self.engine.settle((sidecar.name, agent.name))
        parts.guests.update({Vantage.AGENT: agent, Vantage.SIDECAR: sidecar})
        return Topology(
            id=name,
            spec=spec,
            internal=internal,
            egress=egress,
            agent=agent,
            sidecar=sidecar,
            proxy=proxy,
            published=published,
            machine_published=machine,
            environment=environment,
            python=python,
            denial=spec.sidecar.denial,
            lacks=_lacks(spec, published),
            tls_opaque=spec.sidecar.tls_opaque,
        )

    def _run_sidecar(
        self, parts: _Parts, spec: BottleSpec, request: GuestRequest
    ) -> tuple[GuestInfo, Endpoint | None]:
        """Start the sidecar's guest; tells where at the host it is going to publish, if anywhere.

        An alias that nobody had may be somebody's by then; of our own choice there are others.
        """
        tried: set[str] = set()
        while True:
            published = self._published(parts, spec, tried)
            try:
                wanted = request._replace(publishes=_publishing(spec, published))
                return self.engine.run_guest(wanted), published
            except PortTakenError:
                publish = spec.publish
                if published is None or publish is None or len(tried) == _ALIASES_TRIED:
                    raise
                if publish.address or publish.machine_port:  # it may be what the user asked for
                    raise
                tried.add(published.host)
                self.engine.remove_guests((request.name,))

    def _published(
        self, parts: _Parts, spec: BottleSpec, tried: Collection[str]
    ) -> Endpoint | None:
        """Where at the host a port is published: the user's own sidecar has to say which."""
        publish = spec.publish
        if publish is None or not (publish.target or spec.sidecar.is_reference):
            return None
        alias = self._alias(parts, publish, tried)
        return Endpoint(alias, publish.port) if alias else None

    def _serve(
        self, guest: str, spec: BottleSpec, proxy: Endpoint, published: Endpoint | None
    ) -> Endpoint | None:
        """Run the reference sidecar, or publish a port of what will run instead."""
        machine_port = 0 if spec.publish is None else spec.publish.machine_port
        if spec.sidecar.is_reference:
            request = SidecarRequest(
                _proxy_config(spec), proxy, published, machine_port, spec.timeout
            )
            return self.engine.run_sidecar(guest, request)
        if published is None or spec.publish is None:
            return None
        # As with a real engine's address translation, it must not matter what it listens on.
        target = spec.publish.target
        targets = (Endpoint("127.0.0.1", target), Endpoint(proxy.host, target))
        return self.engine.forward(
            guest, ForwardRequest(targets, published, machine_port, spec.timeout)
        )

    def _complete(self, topology: Topology) -> None:
        """Start what runs in the guests, in this order; it may take its time, and nobody waits."""
        spec = topology.spec
        if spec.rootfs or spec.image:
            self._try_python(topology)
        if not spec.sidecar.is_reference:
            part = self._part(topology)
            own_sidecar.start(part, spec.sidecar.files)
            readiness.wait(part, spec.sidecar.wait, spec.timeout)
        if spec.command:
            self._start_agent(topology)

    def _part(self, topology: Topology) -> readiness.Part:
        spec = topology.spec
        return readiness.Part(
            self.engine,
            topology.sidecar.name,
            topology.agent.name,
            topology.proxy,
            topology.python,
            spec.sidecar.command,
            spec.sidecar.user,
            own_sidecar.variables(spec, topology.proxy, RESOLVER.host),
        )

    def _start_agent(self, topology: Topology) -> None:
        """Run the agent's own command in the background; it must outlive its first moments."""
        guest, command = topology.agent.name, topology.spec.command
        self.engine.start(guest, command, user=topology.spec.user)
        end = self.engine.ended(guest, _SETTLE)
        if end is not None:
            output = self.engine.output(guest)[-500:].decode(errors="replace")
            raise BringUpError(
                "a guest's command ended at once",
                where=f"{guest}: {' '.join(command)}",
                expected=f"a program that exists and runs for more than {_SETTLE:g} s",
                seen=f"{end}; output: {output!r}",
                next_step="give the agent a long-running command, or none",
            )

    def _try_python(self, topology: Topology) -> None:
        """Make sure that the interpreter which somebody else put there can run the probe."""
        seen, argv = "", (topology.python, "-I", "-S", "-c", _VERSION)
        try:
            result = self.engine.exec(topology.agent.name, argv)
            seen = result.out if result.ok else result.err[-500:]
        except TransportError as error:
            seen = error.seen
        if seen != "new enough":
            raise BringUpError(
                "the guests' Python cannot run the probe",
                where=f"{topology.python} in {topology.agent.name}",
                expected="Python 3.8 or newer, with its standard library",
                seen=seen,
            )

    def _network(self, bottle: str, role: str, subnet: str) -> str:
        """Make a network of a bottle's; gives its name."""
        name = f"{bottle}-{role}"
        # First: it may exist though we never hear of it.
        self._bottles[bottle].networks.append(name)
        self.engine.create_network(name, internal=role == "internal", subnet=subnet)
        return name

    def _alias(self, parts: _Parts, publish: PublishedPort, tried: Collection[str]) -> str:
        """Choose a loopback alias: what the specification says, or the first free one.

        bot-bottle's pool is 127.0.0.16 to .31 (S23); the spike's .31 comes first, and last what
        every host has. A host may have none that is free: then nothing is published.
        """
        pool = (f"127.0.{block}.{n}" for block in range(16) for n in range(31, 15, -1))
        with self._lock:
            taken = {other.alias for other in self._bottles.values()} | set(tried)
            parts.alias = publish.address or self.engine.loopback(
                [alias for alias in (*pool, "127.0.0.1") if alias not in taken], publish.port
            )
            return parts.alias

    def down(self, topology: Topology) -> None:
        """Take a bottle down with everything that was attached to it."""
        self._remove(topology.id)

    def _remove(self, name: str) -> None:
        parts = self._bottles.get(name)
        if parts is None:
            return
        with parts.lock:  # whoever attaches something now is waited for, and it goes too
            guests = {f"{name}-agent", f"{name}-sidecar"} | {g.name for g in parts.guests.values()}
            self.engine.remove_guests(sorted(guests))
            self.engine.delete_networks(parts.networks)
            with self._lock:  # last, lest somebody else gets an alias that is still listened on
                self._bottles.pop(name, None)

    # -- vantage points ------------------------------------------------------------

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: User = User.AGENT,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a command at a vantage point."""
        guest, who = self._place(topology, vantage, user)
        if guest == HOST and argv[0] == topology.python:  # the host is the engine's own, no guest
            argv = (self.engine.python(BottleSpec()), *argv[1:])
        return self.engine.exec(
            guest, argv, stdin=stdin, user=who, environment=environment, timeout=timeout
        )

    def _place(self, topology: Topology, vantage: Vantage, user: User) -> tuple[str, str]:
        if vantage is Vantage.HOST:
            return HOST, user.value
        if vantage in _PRIVILEGED:
            return self._guest(topology, vantage).name, "privileged"
        return self._guest(topology, vantage).name, user.value

    def address(self, topology: Topology, vantage: Vantage) -> str:
        """Tell the address of a vantage point: the inner one where it has two."""
        guest = self._guest(topology, vantage)
        return list(guest.addresses.values())[-1]

    def _guest(self, topology: Topology, vantage: Vantage) -> GuestInfo:
        parts = self._bottles.get(topology.id) or _Parts()
        with parts.lock:
            if self._bottles.get(topology.id) is not parts:
                raise TransportError(
                    "the bottle is down", where=f"bottle {topology.id}", expected="a running bottle"
                )
            if vantage not in parts.guests:
                parts.guests[vantage] = self._attach(topology, vantage)
            return parts.guests[vantage]

    def _attach(self, topology: Topology, vantage: Vantage) -> GuestInfo:
        name, rootfs = f"{topology.id}-{vantage.value}", topology.spec.rootfs
        networks: tuple[str, ...]
        if vantage in (Vantage.PRIVILEGED, Vantage.BYSTANDER):
            networks = (topology.internal.name,)
            request = GuestRequest(name, networks, name, rootfs=rootfs)
        elif vantage in (Vantage.OPEN, Vantage.NEIGHBOUR):
            networks = (topology.egress.name,)
            trust = trusting(self.engine.authorities)
            request = GuestRequest(name, networks, name, trust, RESOLVER.host, rootfs=rootfs)
        elif vantage in (Vantage.STRANGER, Vantage.COMPANION):
            networks = (self._strangers(topology),)
            request = GuestRequest(name, networks, name, rootfs=rootfs)
        elif vantage is Vantage.REVERSED:
            networks = (topology.internal.name, topology.egress.name)
            request = GuestRequest(name, networks, name, rootfs=rootfs)
        else:
            raise ConfigurationError("nothing can be attached there", where=vantage.value)
        image = topology.spec.image
        request = request._replace(image=image, privileged=vantage in _PRIVILEGED)
        try:
            guest = self.engine.run_guest(request)
            self._require_apart(guest)
            self.engine.settle((name,))
        except BaseException:
            with contextlib.suppress(TransportError):
                self.engine.remove_guests((name,))
            raise
        return guest

    def _require_apart(self, guest: GuestInfo) -> None:
        if self._far_side is not None:
            self._far_side.require_apart(guest)

    def _strangers(self, topology: Topology) -> str:
        """Give the network beside a bottle's own; make it first if need be."""
        name = f"{topology.id}-strangers"
        if name not in self._bottles[topology.id].networks:
            self._network(topology.id, "strangers", "")
        return name

    # -- the rest ---------------------------------------------------------------------

    def audit(self, topology: Topology) -> Sequence[Mapping[str, object]]:
        """Read the sidecar's record of its decisions, oldest first."""
        lines = self.engine.logs(topology.sidecar.name).splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def logs(self, topology: Topology) -> Mapping[str, bytes]:
        """Read what the bottle's own guests wrote: services' records and commands' output."""
        sidecar, agent, spec = topology.sidecar.name, topology.agent.name, topology.spec
        found = {"sidecar": self.engine.logs(sidecar)}
        if not spec.sidecar.is_reference:
            found["sidecar output"] = self.engine.output(sidecar)
        if spec.command:
            found["agent output"] = self.engine.output(agent)
        return {part: text for part, text in found.items() if text}

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Do harm to the sidecar, or let something happen to the agent or the host."""
        guests = {
            Fault.RESTART_AGENT: topology.agent.name,
            Fault.STOP_AGENT: topology.agent.name,
            Fault.CONNECT_AGENT: topology.agent.name,
            Fault.RELOAD_FIREWALL: HOST,
        }
        guest = guests.get(fault, topology.sidecar.name)
        self.engine.fault(guest, fault, topology.egress.name)

    def reload(self, topology: Topology, egress: Sequence[EgressRoute]) -> None:
        """Put another list into the reference sidecar, and wait until it says that it holds."""
        edit = next(self._edits)
        routes = [[route.host, list(route.ports)] for route in egress]
        put = ["sh", "-c", f"cat > {ROUTES_FILE}.new && mv {ROUTES_FILE}.new {ROUTES_FILE}"]
        guest = topology.sidecar.name
        said = json.dumps({"edit": edit, "routes": routes}).encode()
        result = self.engine.exec(guest, put, stdin=said, user="root")
        end = time.monotonic() + topology.spec.timeout
        while result.ok and time.monotonic() < end:
            if any(event.get("edit") == edit for event in self.audit(topology)):
                return
            time.sleep(0.01)
        raise TransportError(
            "the sidecar did not take the new routes",
            where=guest,
            expected=f"its word within {topology.spec.timeout:g} s",
            seen=result.err or "none",
        )

    @property
    def session(self) -> str:
        """What the engine's session can be told by."""
        return self.engine.session

    def residue(self, session: str) -> frozenset[Resource]:
        """List what there is of a session."""
        return self.engine.residue(session)

    def sweep(self, session: str) -> None:
        """Remove what there is of a dead session."""
        self.engine.sweep(session)

    def trust(self) -> str:
        """Make the far side's certificates valid in every guest."""
        return self.engine.trust() if self._far_side is None else self._far_side.trust()

    def inventory(self) -> frozenset[Resource]:
        """List what exists on the host."""
        with contextlib.nullcontext() if self._far_side is None else self._far_side.quiet():
            return self.engine.inventory()

    def close(self, *, keep: bool = False) -> str:
        """End the engine's session, or keep it and say how to enter it."""
        if self._far_side is not None:
            self._far_side.close()
        return self.engine.close(keep=keep)


def trusting(file: str) -> dict[str, str]:
    """Give the variables by which programs find a file of authorities, each by its own."""
    return dict.fromkeys(_TRUST_VARIABLES, file)


def _publishing(spec: BottleSpec, published: Endpoint | None) -> Publishing | None:
    if published is None or spec.publish is None:
        return None
    return Publishing(published, spec.publish.machine_port)


def _lacks(spec: BottleSpec, published: Endpoint | None) -> frozenset[Feature]:
    """What a bottle does not have that others of its backend have."""
    audited, seen = spec.sidecar.is_reference, published is not None
    missing = {
        Feature.AUDIT: not audited,
        Feature.RELOAD: not audited,
        Feature.PUBLISH: not seen,
    }
    return frozenset(feature for feature, lacking in missing.items() if lacking)


def _proxy_config(spec: BottleSpec) -> dict[str, object]:
    return {
        "routes": [[route.host, list(route.ports)] for route in spec.egress],
        "resolver": [RESOLVER.host, RESOLVER.port],
        "routes_file": ROUTES_FILE,
    }


def _agent_environment(proxy: Endpoint, trust: Mapping[str, str]) -> dict[str, str]:
    """The agent's variables: the proxy's in both cases, for programs differ in which they read."""
    url = f"http://{proxy}"
    variables = dict.fromkeys(_PROXY_VARIABLES, url) | {"NO_PROXY": _NO_PROXY}
    return {
        **variables,
        **{name.lower(): value for name, value in variables.items()},
        **trust,
    }
