"""What a bottle is, as frozen values.

A specification is complete and checked before anything is created: bad input never makes half a
bottle.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_bottle.backends.contract import DenialForm
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.guest.policy import ANY_HOST, canonical_host, split_authority
from pytest_bottle.waiting import Condition, Port

DEFAULT_PORTS = (80, 443)
#: The alias and port of the networking spike (S18-S20).
SPIKE_ALIAS = "127.0.0.31"
SPIKE_PORT = 18080


def _texts(value: Sequence[str], where: str, example: str) -> tuple[str, ...]:
    # A single string is a sequence too, of its letters: the classic slip.
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(item, str) and "\0" not in item for item in value)
    ):
        raise ConfigurationError(
            "a list of strings is needed",
            where=where,
            expected=f"a list, such as {example}",
            seen=repr(value),
        )
    return tuple(value)


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

    @classmethod
    def parse(cls, text: str, machine_port: int = 0) -> PublishedPort:
        """Read ``address:port``, as in ``127.0.0.31:18080``.

        Raises:
            ConfigurationError: the text is no loopback address with a port.
        """
        try:
            address, port = split_authority(text)
        except (TypeError, ValueError):
            port = None
        if port is None:
            raise ConfigurationError(
                "a published port cannot be read",
                where="publish",
                expected=f"address:port, such as {SPIKE_ALIAS}:{SPIKE_PORT}",
                seen=repr(text),
            )
        return cls(address, port, machine_port)


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
    """

    command: tuple[str, ...] = ()
    image: str = ""
    port: int = 9099
    user: str = "agent"
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    wait: Condition = Port()
    denial: DenialForm = DenialForm()

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

    def __post_init__(self) -> None:
        number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        if not number or not 0 < self.timeout < math.inf:
            raise ConfigurationError(
                "a timeout is no number of seconds",
                where="timeout",
                expected="a number above 0",
                seen=repr(self.timeout),
            )

    @classmethod
    def from_words(
        cls,
        *,
        egress: Sequence[str] | None = None,
        publish: str | None = None,
        machine_port: int = 0,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> BottleSpec:
        """Build a specification from the words of ``@pytest.mark.bottle(...)``.

        Raises:
            ConfigurationError: a word has a value that makes no sense.
        """
        routes = DEFAULT_EGRESS
        if egress is not None:
            texts = _texts(egress, "egress", '["allowed.test", "packages.test:8443"]')
            routes = tuple(map(EgressRoute.parse, texts))
        port = PublishedPort(machine_port=machine_port)
        if publish is not None:
            port = PublishedPort.parse(publish, machine_port)
        return cls(
            egress=routes,
            publish=port,
            command=_texts(command, "command", '["sleep", "1000"]'),
            environment=_environment({} if environment is None else environment),
            timeout=timeout,
        )


def _environment(value: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(map(_is_variable, value.items())):
        raise ConfigurationError(
            "variables cannot be read",
            where="environment",
            expected='names and texts, such as {"NAME": "value"}',
            seen=repr(value),
        )
    return dict(value)


def _is_variable(item: tuple[str, str]) -> bool:
    name, text = item
    texts = isinstance(name, str) and isinstance(text, str)
    return texts and name != "" and not {"=", "\0"} & {*name} and "\0" not in text
