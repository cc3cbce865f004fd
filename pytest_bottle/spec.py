"""What a bottle is, as frozen values.

A specification is complete and checked before anything is created: bad input never makes half a
bottle.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PORTS = (80, 443)
#: The alias and port of the networking spike (S18-S20).
SPIKE_ALIAS = "127.0.0.31"
SPIKE_PORT = 18080

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")


def _texts(value: Sequence[str], where: str = "egress") -> tuple[str, ...]:
    # A single string is a sequence too, of its letters: the classic slip.
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(
            "a list of strings is needed",
            where=where,
            expected='a list, such as ["allowed.test", "packages.test:8443"]',
            seen=repr(value),
        )
    return tuple(value)


def _split_port(text: str) -> tuple[str, tuple[int, ...]]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", text)
    if bracketed:
        host, port = bracketed.groups()
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:  # a bare name, or a bare IPv6 address
        host, port = text, None
    if port is None:
        return host, DEFAULT_PORTS
    if not port.isdecimal() or not port.isascii():
        raise _bad_route(text)
    _check_port(int(port), f"egress {text!r}", lowest=1)
    return host, (int(port),)


def _canonical_host(host: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.lower().removesuffix(".")
    if name == "*":
        return name
    labels = name.split(".")
    numeric = labels[-1].isdecimal()  # 1.2.3 or 2130706433: an odd spelling of an address
    if len(name) > 253 or numeric or not all(map(_LABEL.match, labels)):
        raise _bad_route(text)
    return name


def _bad_route(text: str) -> ConfigurationError:
    return ConfigurationError(
        "an egress route cannot be read",
        where="egress",
        expected="host, host:port, address or [IPv6 address]:port",
        seen=repr(text),
        next_step="write one exact host per entry, such as allowed.test or packages.test:8443",
    )


def _check_port(port: int, where: str, *, lowest: int) -> None:
    if not lowest <= port <= 65535:
        raise ConfigurationError(
            "a port is out of range", where=where, expected=f"{lowest}-65535", seen=str(port)
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

    @classmethod
    def parse(cls, text: str) -> EgressRoute:
        """Read ``host``, ``host:port``, ``address``, ``[v6]`` or ``[v6]:port``.

        Raises:
            ConfigurationError: the text is none of these.
        """
        host, ports = _split_port(text.strip())
        return cls(_canonical_host(host, text), ports)


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port that the sidecar publishes on a loopback address of the bottle's host.

    Attributes:
        address: a loopback address of the bottle's host; None lets the backend choose a free alias,
            ``127.0.0.31`` first (S18: the alias of the spike).
        port: the port there.
        machine_port: the port on 127.0.0.1 of the machine that runs the tests, for backends whose
            bottle has a host of its own; 0 lets the kernel choose.
    """

    address: str | None = None
    port: int = SPIKE_PORT
    machine_port: int = 0

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
        address, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal():
            raise ConfigurationError(
                "a published port cannot be read",
                where="publish",
                expected=f"address:port, such as {SPIKE_ALIAS}:{SPIKE_PORT}",
                seen=repr(text),
            )
        return cls(address, int(port), machine_port)


#: What the sidecar of a bottle lets through that says nothing about it.
DEFAULT_EGRESS = (EgressRoute("allowed.test"),)


@dataclass(frozen=True, slots=True)
class BottleSpec:
    """A whole bottle, before it exists.

    Attributes:
        egress: what the sidecar lets through; everything else is denied.
        publish: the sidecar's published port.
        command: the agent's own long-running command; empty means an idle agent.
        environment: variables of the agent, besides the proxy's.
        timeout: seconds for each single step of the way up.
    """

    egress: tuple[EgressRoute, ...] = DEFAULT_EGRESS
    publish: PublishedPort = PublishedPort()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0

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
        routes = DEFAULT_EGRESS if egress is None else tuple(map(EgressRoute.parse, _texts(egress)))
        port = (
            PublishedPort(machine_port=machine_port)
            if publish is None
            else PublishedPort.parse(publish, machine_port)
        )
        return cls(
            egress=routes,
            publish=port,
            command=_texts(command, "command"),
            environment=dict(environment or {}),
            timeout=timeout,
        )
