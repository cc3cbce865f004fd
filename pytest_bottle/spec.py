"""What a bottle is, as frozen values.

A specification is complete and checked before anything is created: bad input never makes half a
bottle.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import DenialForm
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.guest.policy import ANY_HOST, canonical_host, split_authority
from pytest_bottle.waiting import Condition, Port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.rows import Row

DEFAULT_PORTS = (80, 443)
#: The alias and port of the networking spike (S18-S20).
SPIKE_ALIAS = "127.0.0.31"
SPIKE_PORT = 18080
#: Who a command of the user's can run as, by the values of ``User``.
USERS = ("agent", "root")
#: Seconds that a file or an option may give each step of the way up.
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 0.1, 3600
_PUBLISHED = re.compile(
    r"(?P<address>[^:]*|\[[^\]]*\]):(?P<port>[0-9]{1,5})(?::(?P<target>[0-9]{1,5}))?\Z"
)
_CIDR = re.compile(r"[0-9.]+/[0-9]{1,2}\Z")
#: RFC 1918; what :mod:`ipaddress` calls private holds much more, and loopback too.
_PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_LARGEST, _SMALLEST = 16, 29


def _canonical(host: str, text: str) -> str:
    try:
        return host if host == ANY_HOST else canonical_host(host)
    except ValueError:
        raise _bad_route(text) from None


def _bad_route(text: str) -> ConfigurationError:
    return ConfigurationError(
        "an egress route cannot be read",
        where="egress",
        expected="host, host:port, address or [IPv6 address]:port",
        seen=repr(text),
        next_step="write one exact host per entry, such as allowed.test or packages.test:8443",
    )


def _check_port(port: int, where: str, *, lowest: int) -> None:
    if type(port) is not int or not lowest <= port <= 65535:
        raise ConfigurationError(
            "a port is out of range", where=where, expected=f"{lowest}-65535", seen=repr(port)
        )


def _check_user(user: str, where: str) -> None:
    if user not in USERS:
        raise ConfigurationError(
            "a user is not known", where=where, expected=" or ".join(USERS), seen=repr(user)
        )


def subnet(text: str, where: str) -> ipaddress.IPv4Network:
    """Read the subnet of a network: private (RFC 1918), /16 to /29, without bits of a host.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        network = ipaddress.IPv4Network(text) if _CIDR.match(text) else None
    except (TypeError, ValueError):
        network = None
    if (
        network is None
        or not _LARGEST <= network.prefixlen <= _SMALLEST
        or not any(map(network.subnet_of, _PRIVATE))
    ):
        raise ConfigurationError(
            "a subnet will not do",
            where=where,
            expected=f"a private IPv4 network of /{_LARGEST} to /{_SMALLEST}, such as 10.89.0.0/24",
            seen=repr(text),
        )
    return network


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class EgressRoute:
    """One destination that the sidecar lets through: an exact host name or address, and its ports.

    ``host`` is lower case and without a trailing dot. ``"*"`` lets every host through: no sane
    bottle asks for it, the mutant of PXY-02 does.
    """

    host: str
    ports: tuple[int, ...] = DEFAULT_PORTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _canonical(self.host, self.host))
        for port in self.ports:
            _check_port(port, f"egress {self.host!r}", lowest=1)

    @classmethod
    def parse(cls, text: str) -> EgressRoute:
        """Read ``host``, ``host:port``, ``address``, ``[v6]`` or ``[v6]:port``.

        Raises:
            ConfigurationError: the text is none of these.
        """
        bare = text.strip()
        try:
            address = bare.count(":") > 1 and not bare.startswith("[")
            host, port = (bare, None) if address else split_authority(bare)
        except ValueError:
            raise _bad_route(text) from None
        return cls(_canonical(host, text), DEFAULT_PORTS if port is None else (port,))


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port that the sidecar publishes on a loopback address of the bottle's host.

    Attributes:
        address: a loopback address of the bottle's host; None lets the backend choose a free alias,
            ``127.0.0.31`` first (S18: the alias of the spike).
        port: the port there.
        machine_port: the port on 127.0.0.1 of the machine that runs the tests, for backends whose
            bottle has a host of its own; 0 lets the kernel choose.
        target: the port in a sidecar of the user's own that it leads to; 0 where it leads to the
            reference sidecar's status service.
    """

    address: str | None = None
    port: int = SPIKE_PORT
    machine_port: int = 0
    target: int = 0

    def __post_init__(self) -> None:
        if self.address is not None and not _is_loopback(self.address):
            raise ConfigurationError(
                "a published port must sit on a loopback address",
                where="publish",
                expected=f"an address in 127.0.0.0/8, such as {SPIKE_ALIAS}",
                seen=repr(self.address),
                next_step="publishing to other addresses would let the neighbourhood in",
            )
        _check_port(self.port, "publish", lowest=1)
        _check_port(self.machine_port, "machine_port", lowest=0)
        _check_port(self.target, "publish", lowest=0)

    @classmethod
    def parse(cls, text: str, machine_port: int = 0) -> PublishedPort:
        """Read ``address:port``, or ``address:port:target`` for a port of the user's own sidecar.

        Raises:
            ConfigurationError: the text is no loopback address with a port.
        """
        found = _PUBLISHED.match(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigurationError(
                "a published port cannot be read",
                where="publish",
                expected=f"address:port, such as {SPIKE_ALIAS}:{SPIKE_PORT}",
                seen=repr(text),
            )
        target = found["target"]
        if target is not None:
            _check_port(int(target), "publish", lowest=1)
        return cls(found["address"], int(found["port"]), machine_port, int(target or 0))


#: What the sidecar of a bottle lets through that says nothing about it.
DEFAULT_EGRESS: tuple[EgressRoute, ...] = (EgressRoute("allowed.test"),)


@dataclass(frozen=True, slots=True)
class SidecarSpec:
    """The egress sidecar: the reference one, or a program or image of the user's own.

    A program of the user's own finds in its environment, besides ``environment``: ``BOTTLE_PORT``
    (``port``), ``BOTTLE_ADDRESS`` (the guest's internal address), ``BOTTLE_ROUTES`` (the egress
    routes, ``host:port`` separated by blanks) and ``BOTTLE_RESOLVER`` (a DNS server's address).

    Attributes:
        command: the program and its arguments; empty, without an image: the reference sidecar.
        image: what engines that have images run instead; its own entry point, without a command.
        port: where it listens for the agent, on its internal address.
        user: ``agent`` or ``root``, whom its command runs as.
        files: texts to write into the guest before the command starts, by absolute path.
        environment: its variables.
        wait: when it counts as ready.
        denial: how it denies by policy.
        tls_opaque: declares that it does not look into the tunnels that it opens (PXY-07).
    """

    command: tuple[str, ...] = ()
    image: str = ""
    port: int = 9099
    user: str = "agent"
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    wait: Condition = Port()
    denial: DenialForm = DenialForm()
    tls_opaque: bool = False

    def __post_init__(self) -> None:
        _check_port(self.port, "sidecar.port", lowest=1)
        _check_user(self.user, "sidecar.user")

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference sidecar."""
        return not (self.command or self.image)


@dataclass(frozen=True, slots=True)
class BottleSpec:
    """A whole bottle, before it exists.

    Attributes:
        egress: what the sidecar lets through; everything else is denied.
        publish: the sidecar's published port; None publishes none.
        command: the agent's own long-running command; empty means an idle agent.
        user: ``agent`` or ``root``, whom that command runs as.
        environment: variables of the agent, besides the proxy's.
        image: what the guests are made of, on engines that have images; empty for the engine's own.
        rootfs: a folder of this machine to make the guests' file system of, on the netns engine.
        sidecar: the egress sidecar.
        internal_subnet: the internal network's, in CIDR form; empty lets the engine choose.
        egress_subnet: the egress network's, likewise.
        timeout: seconds for each single step of the way up.
        policy: what the conformance suite is to judge besides its own checks.
    """

    egress: tuple[EgressRoute, ...] = DEFAULT_EGRESS
    publish: PublishedPort | None = PublishedPort()
    command: tuple[str, ...] = ()
    user: str = "agent"
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    rootfs: str = ""
    sidecar: SidecarSpec = SidecarSpec()
    internal_subnet: str = ""
    egress_subnet: str = ""
    timeout: float = 30.0
    policy: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        if not number or not 0 < self.timeout < math.inf:
            raise ConfigurationError(
                "a timeout is no number of seconds",
                where="timeout",
                expected="a number above 0",
                seen=repr(self.timeout),
            )
        _check_user(self.user, "user")
        self._check_origin()
        self._check_networks()
        self._check_target()

    @property
    def spare(self) -> BottleSpec:
        """What a further bottle like this one is: what two cannot share is chosen anew."""
        publish = self.publish and replace(self.publish, address=None, machine_port=0)
        return replace(self, publish=publish, internal_subnet="", egress_subnet="")

    def _check_origin(self) -> None:
        if self.image and self.rootfs:
            raise ConfigurationError(
                "guests are made of one thing",
                where="rootfs",
                expected="an image or a rootfs",
                seen=f"both, {self.image!r} and {self.rootfs!r}",
            )

    def _check_networks(self) -> None:
        texts = {"internal": self.internal_subnet, "egress": self.egress_subnet}
        given = [subnet(text, f"networks.{name}") for name, text in texts.items() if text]
        if len(given) == 2 and given[0].overlaps(given[1]):
            raise ConfigurationError(
                "the networks of a bottle overlap",
                where="networks",
                expected="subnets that have no address in common",
                seen=f"{given[0]} and {given[1]}",
            )

    def _check_target(self) -> None:
        if self.publish and self.publish.target and self.sidecar.is_reference:
            raise ConfigurationError(
                "the reference sidecar publishes its status service and nothing else",
                where="publish",
                expected="address:port, or a sidecar of your own with command or image",
                seen=f"port {self.publish.target} of the sidecar",
            )


#: What a bottle is if nobody says anything about it.
PLAIN = BottleSpec()
