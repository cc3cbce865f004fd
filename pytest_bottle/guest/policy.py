"""What the sidecar lets through: its configuration, and pure functions of names and addresses.

A host has one spelling here. What cannot be brought to it is refused, so that nothing can be
approved as one host and dialled as another (PXY-12, PXY-14).
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

#: As the host of a route: every host. No sane bottle asks for it, the mutant of PXY-02 does.
ANY_HOST = "*"

_MAX_NAME = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
#: The last label of anything that some resolver reads as an IPv4 address (WHATWG URL, "ends in a
#: number"; inet_aton).
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)\Z", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:@]*)(?::([0-9]{1,5}))?\Z")


class Timeouts(NamedTuple):
    """Seconds, each for one wait."""

    connect: float = 10.0
    dns: float = 4.0
    head: float = 60.0
    idle: float = 120.0
    linger: float = 1.0


class Config(NamedTuple):
    """All that the sidecar knows.

    Attributes:
        routes: a host, an address or ``"*"``, each with its ports.
        resolver: address and port of the only DNS server that is asked.
        address_exceptions: networks that may be dialled although they are not public.
        timeouts: how long to wait for whom.
        connections: how many connections one listener serves at once.
        routes_file: whose routes take the place of these, whenever it changes (``LivePolicy``).
    """

    routes: Sequence[tuple[str, Sequence[int]]]
    resolver: tuple[str, int]
    address_exceptions: Sequence[str] = ()
    timeouts: Timeouts = Timeouts()
    connections: int = 256
    routes_file: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Config:
        """Read what ``to_json`` wrote. A policy that is missing or broken is no policy (PXY-21).

        Raises:
            ValueError: something is missing, unknown or makes no sense.
        """
        fields: dict[str, Any] = dict(data)
        try:
            address, port = fields["resolver"]
            ipaddress.ip_address(address)
            fields["resolver"] = (str(address), int(port))
            fields["routes"] = [(str(host), tuple(ports)) for host, ports in fields["routes"]]
            waits = fields.get("timeouts", {})
            fields["timeouts"] = Timeouts(**{name: float(wait) for name, wait in waits.items()})
            config = cls(**fields)
            Policy(config.routes)
            tuple(map(ipaddress.ip_network, config.address_exceptions))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no configuration: {error!r}") from error
        return config

    def to_json(self) -> dict[str, object]:
        """The configuration as plain JSON values."""
        return {**self._asdict(), "timeouts": self.timeouts._asdict()}


class Stop(Exception):  # noqa: N818 - an outcome, not a defect
    """A request ends here.

    Attributes:
        decision: ``deny`` when a rule of ours forbids it, ``error`` when it was tried and failed.
        status: the HTTP status that says so.
        reason: one word for the record.
    """

    def __init__(self, decision: str, status: int, reason: str) -> None:
        super().__init__(reason)
        self.decision = decision
        self.status = status
        self.reason = reason


class Decision(NamedTuple):
    """Whether a destination may be looked up and dialled.

    ``reason`` is ``allowed``, ``bad-host``, ``not-allowed`` or ``port-not-allowed``. ``host`` is
    the canonical form, the only one to go on with; empty when there is none.
    """

    allowed: bool
    reason: str
    host: str = ""


class Verdict(NamedTuple):
    """What becomes of a whole request: ``status`` is 0 when it may go on, else the refusal's.

    ``host`` is canonical where there is such a form, else what stood in its place. ``path`` is the
    target for the origin, empty for CONNECT.
    """

    status: int
    reason: str
    host: str = ""
    port: int = 0
    path: str = ""


class Policy:
    """An allowlist of exact hosts and their ports. Without routes it denies everything (PXY-21).

    Args:
        routes: a host name, an IP address or ``"*"``, each with its ports.

    Raises:
        ValueError: a host or a port cannot be read; half a policy is none.
    """

    def __init__(self, routes: Iterable[tuple[str, Sequence[int]]]) -> None:
        self._ports: dict[str, set[int]] = {}
        for host, ports in routes:
            if not all(isinstance(port, int) and 0 < port < 65536 for port in ports):
                raise ValueError(f"the ports of {host!r} are no list of ports")
            name = host if host == ANY_HOST else canonical_host(host)
            self._ports.setdefault(name, set()).update(ports)

    def decide(self, host: str, port: int) -> Decision:
        """Judge a destination by what was asked for, before anything is resolved (DNS-06)."""
        try:
            name = canonical_host(host)
        except ValueError:
            return Decision(allowed=False, reason="bad-host")
        ports = [self._ports[key] for key in (name, ANY_HOST) if key in self._ports]
        if not ports:
            return Decision(allowed=False, reason="not-allowed", host=name)
        if not any(port in allowed for allowed in ports):
            return Decision(allowed=False, reason="port-not-allowed", host=name)
        return Decision(allowed=True, reason="allowed", host=name)

    def judge(self, method: str, target: str, version: str, headers: Mapping[str, str]) -> Verdict:
        """Judge a request by its head alone; the names of the headers are in lower case.

        The target alone says where a request goes. A ``Host`` that says otherwise is refused and
        not merely overwritten (PXY-04): whoever sends one is trying something.
        """
        try:
            authority, default_port, path = _split_target(method, target)
        except ValueError as error:
            return Verdict(400, str(error))
        try:
            host, port = split_authority(authority, default_port)
        except ValueError:
            return Verdict(403, "bad-host", authority)
        if port is None:
            return Verdict(400, "bad-target", host)
        decision = self.decide(host, port)
        verdict = Verdict(0, decision.reason, decision.host or host, port, path)
        if not decision.host:
            return verdict._replace(status=403)
        problem = _problem(verdict, version, headers)
        if problem:
            return verdict._replace(status=400, reason=problem)
        return verdict if decision.allowed else verdict._replace(status=403)


def split_authority(text: str, default_port: int | None = None) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; the host keeps its brackets.

    Raises:
        ValueError: the text is none of these; user information never is (RFC 9110 section 4.2.4).
    """
    match = _AUTHORITY.match(text)
    if not match:
        raise ValueError(f"{text!r} is no authority")
    host, port = match.groups()
    return host, default_port if port is None else int(port)


def canonical_host(text: str) -> str:
    """The one spelling of a host name or an IP address.

    Names are lower case, without their one trailing dot. An IPv4 address must be in dotted decimal
    already: ``2130706433``, ``0x7f.1``, ``127.1`` and ``0177.0.0.1`` mean different things to
    different readers (CVE-2021-29921 is Python's own share of it). IPv6 addresses may stand in
    brackets; zones are refused.

    Raises:
        ValueError: the text is neither, or an odd spelling of one.
    """
    if not text.isascii():
        raise ValueError(f"{text!r} is not ASCII")
    if ":" in text:
        return _canonical_ipv6(text)
    lowered = text.lower()
    name = lowered[:-1] if lowered.endswith(".") else lowered
    labels = name.split(".")
    if _NUMBER.match(labels[-1]):
        return _canonical_ipv4(lowered)
    if len(name) > _MAX_NAME or not all(map(_LABEL.match, labels)):
        raise ValueError(f"{text!r} is no host name")
    return name


def is_literal(host: str) -> bool:
    """Whether a canonical host is an IP address."""
    return ":" in host or bool(_NUMBER.match(host.rpartition(".")[2]))


def address_allowed(address: str, exceptions: Sequence[str] = ()) -> bool:
    """Whether the sidecar may dial an address at all, whatever the routes say (PXY-10, PXY-11).

    An IPv6 address that carries an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo) is as
    good as that one. Exceptions are networks of addresses as they are written: an exception for
    ``127.0.0.0/8`` says nothing about ``::ffff:127.0.0.1``.

    Raises:
        ValueError: the address or an exception cannot be read.
    """
    parsed = ipaddress.ip_address(address)
    if any(parsed in ipaddress.ip_network(network) for network in exceptions):
        return True
    if isinstance(parsed, ipaddress.IPv4Address):
        return _global_ipv4(parsed)
    embedded = _embedded(int(parsed))
    return all(map(_global_ipv4, embedded)) if embedded else _global_ipv6(parsed)


def _split_target(method: str, target: str) -> tuple[str, int | None, str]:
    if method == "CONNECT":
        return target, None, ""
    match = _ABSOLUTE.match(target)
    if not match:
        raise ValueError("origin-form" if target.startswith("/") else "bad-target")
    scheme, authority, path = match.groups()
    if scheme.lower() != "http":
        raise ValueError("scheme-not-supported")
    if "#" in path:
        raise ValueError("bad-target")
    if not path and method == "OPTIONS":  # RFC 9112 section 3.2.4
        path = "*"
    return authority, 80, path if path.startswith(("/", "*")) else f"/{path}"


def _problem(target: Verdict, version: str, headers: Mapping[str, str]) -> str:
    framing = {"content-length", "transfer-encoding"} & headers.keys()
    if version not in ("1.0", "1.1"):
        return "bad-request"
    # RFC 9112 section 6.1 and 6.3; content of a CONNECT has no meaning (RFC 9110 section 9.3.6).
    chunked_early = version == "1.0" and "transfer-encoding" in framing
    if len(framing) == 2 or chunked_early or (framing and not target.path):
        return "ambiguous-framing"
    if "host" in headers and not _names(headers["host"], target):
        return "host-mismatch"
    return ""


def _names(text: str, target: Verdict) -> bool:
    try:
        # Some clients leave the port out of the Host of a CONNECT; the name is what counts there.
        host, port = split_authority(text, 80 if target.path else target.port)
        return (canonical_host(host), port) == (target.host, target.port)
    except ValueError:
        return False


def _canonical_ipv6(text: str) -> str:
    bracketed = text.startswith("[") and text.endswith("]")
    # A zone ("%eth0") names an interface of whoever dials; ipaddress takes it since Python 3.9.
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return str(ipaddress.IPv6Address(text[1:-1] if bracketed else text))


def _canonical_ipv4(text: str) -> str:
    # The comparison matters before Python 3.9.5, which took leading zeros (CVE-2021-29921).
    if str(ipaddress.IPv4Address(text)) != text:
        raise ValueError(f"{text!r} is an odd spelling of an address")
    return text


# The tables are our own because those of ``ipaddress`` changed between releases (CVE-2024-4032)
# and call multicast global. Sources: IANA's special-purpose address registries for IPv4 and IPv6.
# 192.88.99.0/24 is absent on purpose: retired with 6to4 (RFC 7526), it serves the lab as public.
_REFUSED_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast and reserved, with the broadcast address
        ),
    )
)
#: All that IANA has given out as global unicast (RFC 4291 section 2.4 and the registry).
_UNICAST_IPV6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)


def _global_ipv4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in network for network in _REFUSED_IPV4)


def _global_ipv6(address: ipaddress.IPv6Address) -> bool:
    refused = any(address in network for network in _REFUSED_IPV6)
    return address in _UNICAST_IPV6 and not refused


def _embedded(address: int) -> list[ipaddress.IPv4Address]:
    last = address & 0xFFFFFFFF
    if address >> 32 in (0, 0xFFFF, 0x64FF9B << 64):  # RFC 4291 section 2.5.5, RFC 6052
        numbers = [last]
    elif address >> 112 == 0x2002:  # RFC 3056
        numbers = [address >> 80 & 0xFFFFFFFF]
    elif address >> 96 == 0x20010000:  # RFC 4380: the server, and the client with its bits turned
        numbers = [address >> 64 & 0xFFFFFFFF, last ^ 0xFFFFFFFF]
    else:
        numbers = []
    return [ipaddress.IPv4Address(number) for number in numbers]
