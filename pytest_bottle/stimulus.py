"""What is sent, as data."""

from __future__ import annotations

import dataclasses
import ipaddress
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import User, Vantage


class Key(NamedTuple):
    """What a network can tell stimuli apart by: address family, protocol and port."""

    family: int
    protocol: str
    port: int


def _family(host: str) -> int:
    return 6 if ":" in host else 4


def _address(host: str) -> str:
    """The spelling in which the witness will write the destination down.

    A name, or an odd spelling, would be sent somewhere that nobody listens for: silence there would
    look like a block.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigurationError(
            "a stimulus needs an address to go to",
            where="stimulus",
            expected="an IPv4 or IPv6 address",
            seen=repr(host),
            next_step="for a name there is Web, whose nonce is in the name",
        ) from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)  # ::ffff:1.2.3.4 goes out as IPv4


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ConfigurationError(
            "a port is out of range", where="stimulus", expected="0-65535", seen=repr(port)
        )


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP connection to an address and a port, with a nonce that the far end echoes.

    ``mapped`` asks an IPv6 socket for the IPv4 address, as ``::ffff:…`` (RFC 4291, 2.5.5.2);
    ``source`` is the port it comes from, 0 for any; ``fast`` asks for TCP Fast Open (RFC 7413).
    """

    host: str
    port: int
    mapped: bool = False
    source: int = 0
    fast: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _address(self.host))
        _check_port(self.port)

    @property
    def key(self) -> Key:
        """Family, protocol and port."""
        return Key(_family(self.host), "tcp", self.port)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        what = {"kind": "tcp", "host": _spelled(self.host, self.mapped), "port": self.port}
        more = {"source": self.source, "fast": self.fast}
        return {**what, **{name: value for name, value in more.items() if value}}


@dataclass(frozen=True, slots=True)
class Udp:
    """A datagram to an address and a port; ``prefix`` stands before the nonce, in hex.

    ``answers`` says whether the far end is meant to reply; if not, only the witness can judge.
    ``suffix`` stands behind the nonce, in hex; ``source`` is the port it is sent from, 0 for any;
    ``mapped`` is as for :class:`Tcp`.
    """

    host: str
    port: int
    prefix: str = ""
    answers: bool = False
    suffix: str = ""
    source: int = 0
    mapped: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _address(self.host))
        _check_port(self.port)

    @property
    def key(self) -> Key:
        """Family, protocol and port."""
        return Key(_family(self.host), "udp", self.port)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        return {
            "kind": "udp",
            "host": _spelled(self.host, self.mapped),
            "port": self.port,
            "prefix": self.prefix,
            "suffix": self.suffix,
            "source": self.source,
            "answers": self.answers,
        }


@dataclass(frozen=True, slots=True)
class Icmp:
    """An ICMP or ICMPv6 echo request with a nonce, by a ping socket or a raw one."""

    host: str
    raw: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _address(self.host))

    @property
    def key(self) -> Key:
        """Family and protocol; there is no port."""
        return Key(_family(self.host), "icmp", 0)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        return {"kind": "icmp", "host": self.host, "raw": self.raw}


@dataclass(frozen=True, slots=True)
class Web:
    """An HTTPS request that goes direct, whatever the proxy variables say.

    ``host`` is the address it is sent to; empty lets the guest resolve ``name`` by itself. The
    nonce is the first label of the name, where TLS and DNS carry it in the clear. With
    ``variables`` it goes where they send it, together with those of the guest.
    """

    host: str
    name: str
    variables: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", self.host and _address(self.host))

    @property
    def key(self) -> Key:
        """Family, protocol and port."""
        return Key(_family(self.host), "tcp", 443)

    def operation(self) -> dict[str, object]:
        """What the probe is told; ``%s`` stands for the nonce."""
        name = f"%s.{self.name}"
        address = f"[{self.host}]" if ":" in self.host else self.host
        what: dict[str, object] = {
            "kind": "http",
            "url": f"https://{address or name}/",
            "sni": name,
            "headers": {"Host": name},
            "proxy": None,
            "insecure": bool(self.host),
        }
        if self.variables:
            what |= {"proxy": "environment", "environment": dict(self.variables)}
        return what


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole packet that is handed to the link address of a next hop, past every own IP stack.

    It needs a shot with a ``via``. A TCP one is a bare SYN and holds no nonce.

    Attributes:
        protocol: ``tcp``, ``udp`` or ``icmp``, which is an echo request.
        prefix: stands before the nonce, in hex; ``suffix`` behind it.
        source: the port it comes from; 0 leaves it to the probe.
    """

    host: str
    protocol: str
    port: int = 0
    prefix: str = ""
    suffix: str = ""
    source: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _address(self.host))
        _check_port(self.port)

    @property
    def key(self) -> Key:
        """Family, protocol and port."""
        return Key(_family(self.host), self.protocol, self.port)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        return {"kind": "frame", **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class Crafted:
    """A packet that is not as usual, handed to a next hop like a :class:`Frame`.

    Attributes:
        protocol: ``tcp`` (a SYN), ``udp``, or the number of any other.
        trick: what is odd about it, see the probe's ``crafted``; empty for the rest.
        source: the port it comes from; ``sender`` is the address that it says it is from.
    """

    host: str
    protocol: str
    port: int = 0
    trick: str = ""
    source: int = 0
    sender: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _address(self.host))
        _check_port(self.port)

    @property
    def key(self) -> Key:
        """Family, protocol and port."""
        return Key(4, self.protocol, self.port)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        return {"kind": "crafted", **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class Ip:
    """A packet of some other IP protocol, by a raw socket, as far as the kernel lets its sender."""

    host: str
    protocol: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _address(self.host))

    @property
    def key(self) -> Key:
        """Family and protocol; there is no port."""
        return Key(4, self.protocol, 0)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        return {"kind": "ip", "host": self.host, "protocol": self.protocol}


Stimulus = Tcp | Udp | Icmp | Web | Frame | Crafted | Ip


def _spelled(host: str, mapped: bool) -> str:
    return f"::ffff:{host}" if mapped else host


def sendable(stimulus: Stimulus) -> Stimulus:
    """Give the form of a stimulus that a guest without privileges can send.

    Raw sockets are for privileged probes; a ping socket sends the same bytes.
    """
    match stimulus:
        case Icmp(host) | Frame(host, "icmp"):
            return Icmp(host)
        case Frame(host, "tcp", port):
            return Tcp(host, port)
        case Frame(host, "udp", port, prefix, suffix, source):
            return Udp(host, port, prefix, suffix=suffix, source=source)
        case _:
            return stimulus


def aimed_at(stimulus: Stimulus, host: str) -> Stimulus:
    """Give the same stimulus for another destination."""
    return dataclasses.replace(stimulus, host=host)


def new_nonce() -> str:
    """Make a nonce of 32 characters that nothing else sends."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Shot:
    """One stimulus at one vantage point.

    Attributes:
        via: the next hop a privileged probe sends it to; empty for the routing table's own.
        delay: seconds after the probe's start.
    """

    name: str
    vantage: Vantage
    stimulus: Stimulus
    user: User
    via: str = ""
    delay: float = 0.0
    nonce: str = field(default_factory=new_nonce)

    def operation(self) -> dict[str, object]:
        """What the probe is told."""
        extra = {"via": self.via} if self.via else {}
        return {
            **{key: _fill(value, self.nonce) for key, value in self.stimulus.operation().items()},
            **extra,
            "id": self.name,
            "nonce": self.nonce,
            "delay": self.delay,
        }


def _fill(value: object, nonce: str) -> object:
    if isinstance(value, dict):
        return {key: _fill(inner, nonce) for key, inner in value.items()}
    return value.replace("%s", nonce) if isinstance(value, str) else value
