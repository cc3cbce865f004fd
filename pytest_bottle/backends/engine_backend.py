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
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import (
    Endpoint,
    GuestRequest,
    SidecarRequest,
    Topology,
    User,
    Vantage,
)
from pytest_bottle.errors import ConfigurationError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import (
        BackendInfo,
        Engine,
        ExecResult,
        Fault,
        GuestInfo,
        NetworkInfo,
        Resource,
    )
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.spec import BottleSpec

#: Where the sidecar listens for the agent: bot-bottle's egress port.
PROXY_PORT = 9099
#: The resolver that the reference sidecar asks; any address answers in the lab.
RESOLVER = Endpoint("192.88.99.53", 53)
#: Where programs look for the authorities they trust, each in its own variable.
_TRUST = dict.fromkeys(
    (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
    ),
    "/etc/ssl/certs/ca-certificates.crt",
)
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_NO_PROXY = "localhost,127.0.0.1,::1"


class EngineBackend:
    """A :class:`~pytest_bottle.backends.contract.Backend` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._numbers = itertools.count(1)
        self._attached: dict[str, dict[Vantage, GuestInfo]] = {}
        self._networks: dict[str, list[str]] = {}
        self._aliases: dict[str, str] = {}
        self._lock = threading.RLock()

    def describe(self) -> BackendInfo:
        """Name the engine and what it makes possible."""
        return self.engine.info()

    @property
    def internet(self) -> Internet:
        """What the engine's egress networks lead to."""
        return self.engine.internet

    # -- up and down -------------------------------------------------------------

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up, or leave nothing of it.

        Raises:
            BottleError: what the engine says.
        """
        with self._lock:
            name = f"b{next(self._numbers)}"
            try:
                return self._build(name, spec)
            except BaseException:
                # An engine that is gone took everything with it; what it died of is the error.
                with contextlib.suppress(TransportError):
                    self._remove(name)
                raise

    def _build(self, name: str, spec: BottleSpec) -> Topology:
        egress = self._network(name, "egress", internal=False)
        internal = self._network(name, "internal", internal=True)
        sidecar = self.engine.run_guest(
            GuestRequest(
                f"{name}-sidecar",
                (egress.name, internal.name),
                f"{name}-sidecar",
                _TRUST,
                resolver=RESOLVER.host,
                timeout=spec.timeout,
            )
        )
        proxy = Endpoint(sidecar.addresses[internal.name], PROXY_PORT)
        assert spec.publish is not None
        published = Endpoint(self._alias(name, spec), spec.publish.port)
        machine = self.engine.run_sidecar(
            sidecar.name,
            SidecarRequest(
                _proxy_config(spec), proxy, published, spec.publish.machine_port, spec.timeout
            ),
        )
        environment = {**_agent_environment(proxy), **spec.environment}
        agent = self.engine.run_guest(
            GuestRequest(
                f"{name}-agent",
                (internal.name,),
                f"{name}-agent",
                environment,
                spec.command,
                timeout=spec.timeout,
            )
        )
        self._attached[name] = {Vantage.AGENT: agent, Vantage.SIDECAR: sidecar}
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
            python=self.engine.python,
        )

    def _network(self, bottle: str, role: str, *, internal: bool) -> NetworkInfo:
        name = f"{bottle}-{role}"
        self._networks.setdefault(bottle, [])
        self._networks[bottle].append(name)  # first: it may exist though we never hear of it
        return self.engine.create_network(name, internal=internal)

    def _alias(self, bottle: str, spec: BottleSpec) -> str:
        """Choose a loopback alias: what the specification says, or the first free one.

        bot-bottle's pool is 127.0.0.16 to .31 (S23); the spike's .31 comes first.
        """
        assert spec.publish is not None
        if spec.publish.address is not None:
            return spec.publish.address
        pool = (f"127.0.{block}.{n}" for block in range(16) for n in range(31, 15, -1))
        taken = set(self._aliases.values())
        self._aliases[bottle] = next(alias for alias in pool if alias not in taken)
        return self._aliases[bottle]

    def down(self, topology: Topology) -> None:
        """Take a bottle down with everything that was attached to it."""
        with self._lock:
            self._remove(topology.id)

    def _remove(self, name: str) -> None:
        attached = self._attached.pop(name, {})
        self._aliases.pop(name, None)
        guests = {f"{name}-agent", f"{name}-sidecar"} | {g.name for g in attached.values()}
        self.engine.remove_guests(sorted(guests))
        self.engine.delete_networks(self._networks.pop(name, []))

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
        return self.engine.exec(
            guest, argv, stdin=stdin, user=who, environment=environment, timeout=timeout
        )

    def _place(self, topology: Topology, vantage: Vantage, user: User) -> tuple[str, str]:
        if vantage is Vantage.HOST:
            return "host", user.value
        if vantage in (Vantage.PRIVILEGED, Vantage.NEIGHBOUR):
            return self._guest(topology, vantage).name, "privileged"
        return self._guest(topology, vantage).name, user.value

    def address(self, topology: Topology, vantage: Vantage) -> str:
        """Tell the address of a vantage point: the inner one where it has two."""
        guest = self._guest(topology, vantage)
        return list(guest.addresses.values())[-1]

    def _guest(self, topology: Topology, vantage: Vantage) -> GuestInfo:
        with self._lock:
            attached = self._attached.get(topology.id)
            if attached is None:
                raise TransportError(
                    "the bottle is down", where=f"bottle {topology.id}", expected="a running bottle"
                )
            if vantage not in attached:
                attached[vantage] = self._attach(topology, vantage)
            return attached[vantage]

    def _attach(self, topology: Topology, vantage: Vantage) -> GuestInfo:
        name = f"{topology.id}-{vantage.value}"
        if vantage is Vantage.PRIVILEGED:
            return self.engine.run_guest(GuestRequest(name, (topology.internal.name,), name))
        if vantage in (Vantage.OPEN, Vantage.NEIGHBOUR):
            return self.engine.run_guest(
                GuestRequest(name, (topology.egress.name,), name, _TRUST, resolver=RESOLVER.host)
            )
        raise ConfigurationError("nothing can be attached there", where=vantage.value)

    # -- the rest ---------------------------------------------------------------------

    def audit(self, topology: Topology) -> Sequence[Mapping[str, object]]:
        """Read the sidecar's record of its decisions, oldest first."""
        lines = self.engine.logs(topology.sidecar.name).splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def logs(self, topology: Topology) -> Mapping[str, bytes]:
        """Read what the bottle's own guests wrote: services' records and commands' output."""
        return {"sidecar": self.engine.logs(topology.sidecar.name)}

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Do harm to the sidecar."""
        raise NotImplementedError

    @property
    def session(self) -> str:
        """What the engine's session can be told by."""
        raise NotImplementedError

    def residue(self, session: str) -> frozenset[Resource]:
        """List what there is of a session."""
        raise NotImplementedError

    def sweep(self, session: str) -> None:
        """Remove what there is of a dead session."""
        raise NotImplementedError

    def trust(self) -> str:
        """Make the far side's certificates valid in every guest."""
        return self.engine.trust()

    def inventory(self) -> frozenset[Resource]:
        """List what exists on the host."""
        return self.engine.inventory()

    def close(self, *, keep: bool = False) -> str:
        """End the engine's session, or keep it and say how to enter it."""
        return self.engine.close(keep=keep)


def _proxy_config(spec: BottleSpec) -> dict[str, object]:
    return {
        "routes": [[route.host, list(route.ports)] for route in spec.egress],
        "resolver": [RESOLVER.host, RESOLVER.port],
    }


def _agent_environment(proxy: Endpoint) -> dict[str, str]:
    """The agent's variables: the proxy's in both cases, for programs differ in which they read."""
    url = f"http://{proxy}"
    variables = dict.fromkeys(_PROXY_VARIABLES, url) | {"NO_PROXY": _NO_PROXY}
    return {
        **variables,
        **{name.lower(): value for name, value in variables.items()},
        **_TRUST,
    }
