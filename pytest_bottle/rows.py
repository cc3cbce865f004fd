"""Rows of a user's own policy: who may reach what, as frozen values.

A row of ``bottle.yaml`` becomes a check of the conformance suite; what it says is here, and how it
is asked and judged in :mod:`pytest_bottle.conformance.rows`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple

from pytest_bottle.errors import ConfigurationError
from pytest_bottle.guest.policy import canonical_host, is_literal
from pytest_bottle.spelling import unknown

#: Where a row's stimulus can be sent from, by the values of ``Vantage``.
ORIGINS = ("agent", "privileged", "sidecar")
#: How a title names these.
PLACES = {"agent": "the agent", "privileged": "a privileged probe", "sidecar": "the sidecar"}
EXPECTATIONS = ("blocked", "allowed")
WAYS = ("direct", "proxy")
PROTOCOLS = ("tcp", "udp", "icmp")
#: How many ports one row may name, and how many rows there may be: each port is asked for.
MOST_PORTS, MOST_ROWS = 64, 100
#: What the ID of a row begins with; the catalogue's never do.
PREFIX = "USER-"
ID = re.compile(r"USER-[A-Z0-9]([A-Z0-9_-]{0,30}[A-Z0-9])?\Z")
_TARGET = re.compile(
    r"(?P<host>\[[^\]]*\]|[^\[\]:/]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?=/icmp\Z))"
    r"(?::(?P<ports>[0-9,\-]+))?/(?P<protocol>[a-z0-9]+)\Z"
)
_EXAMPLE = "host:port/tcp, host:port/udp or host/icmp, such as db.internal:5432/tcp"


class Target(NamedTuple):
    """What a row is about.

    Attributes:
        host: a name or an address, in its one spelling.
        ports: none for an echo request.
        protocol: ``tcp``, ``udp`` or ``icmp``.
    """

    host: str
    ports: tuple[int, ...]
    protocol: str

    @property
    def is_name(self) -> bool:
        """Whether the far side's DNS has to say where it is."""
        return not is_literal(self.host)

    @property
    def family(self) -> int:
        """4 or 6; 0 for a name, which has addresses of both."""
        return 0 if self.is_name else 6 if ":" in self.host else 4

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.family == 6 else self.host
        return f"{host}{':' if self.ports else ''}{_spelled(self.ports)}/{self.protocol}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``host:port/tcp``, ``host:port/udp`` or ``host/icmp``; ports may be a list.

        Raises:
            ConfigurationError: the text is none of these.
        """
        found = _TARGET.match(text)
        if found is None or (found["protocol"] == "icmp") is (found["ports"] is not None):
            raise _unreadable(text)
        if found["protocol"] not in PROTOCOLS:
            what = f"the protocol {unknown(found['protocol'], PROTOCOLS)}"
            raise ConfigurationError(what, where="policy", expected=_EXAMPLE, seen=repr(text))
        ports = _ports(found["ports"], text) if found["ports"] else ()
        return cls(_host(found["host"], text), ports, found["protocol"])


def _spelled(ports: tuple[int, ...]) -> str:
    """Write ports down, neighbours as a range."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][-1] + 1:
            runs[-1].append(port)
        else:
            runs.append([port])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _unreadable(text: str, expected: str = _EXAMPLE, seen: str = "") -> ConfigurationError:
    return ConfigurationError(
        "this is nothing that can be reached",
        where="policy",
        expected=expected,
        seen=repr(text) + (f", with {seen!r}" if seen else ""),
    )


def _host(text: str, whole: str) -> str:
    try:
        host = canonical_host(text)
    except ValueError:
        raise _unreadable(whole) from None
    if not is_literal(host):
        return host
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or int(address) == 0xFFFFFFFF
    ):
        expected = "the address of one host at the far side"
        raise _unreadable(whole, expected, f"{address}, which never leaves the link")
    return str(address)


def _ports(text: str, whole: str) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or len(first) > 5 or (dash and not last.isdigit()):
            raise _unreadable(whole, "ports, such as 5432, 80,443 or 8000-8009", part)
        low, high = int(first), int(last[:6]) if dash else int(first)
        if not 1 <= low <= high <= 65535:
            raise _unreadable(whole, "ports from 1 to 65535, the lower one first", part)
        if high - low >= MOST_PORTS or len(found) + high - low >= MOST_PORTS:
            raise _unreadable(whole, f"at most {MOST_PORTS} ports in a row", part)
        found |= dict.fromkeys(range(low, high + 1))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a user's policy.

    Attributes:
        id: the ID of its check, which begins with ``USER-`` (:data:`ID`).
        origin: where the stimulus is sent from: ``agent``, ``privileged`` or ``sidecar``.
        target: what is to be reached, or not.
        expect: ``blocked`` or ``allowed``.
        via: ``direct``, or ``proxy``: by the agent's own proxy variables.
    """

    id: str
    target: Target
    expect: str
    origin: str = "agent"
    via: str = "direct"

    @property
    def by_proxy(self) -> bool:
        """Whether it asks the sidecar."""
        return self.via == "proxy"

    @property
    def title(self) -> str:
        """The row as one clause."""
        way = "through the proxy" if self.by_proxy else "directly"
        return f"{self.target} is {self.expect} from {PLACES[self.origin]}, {way}"


def default_way(origin: str, expect: str, protocol: str) -> str:
    """Say which way a row means that names none: what a bottle allows goes by its proxy."""
    allowed = expect == "allowed" and origin == "agent" and protocol == "tcp"
    return "proxy" if allowed else "direct"
