"""IPv4 subnets as numbers: the netns engine's server need not import ``ipaddress``."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The sizes that a network may have: room for the gateway and five guests, and no vast one.
WIDEST, NARROWEST = 16, 29


class Subnet(NamedTuple):
    """An IPv4 subnet: its first address as a number, and how many bits are fixed."""

    base: int
    bits: int

    @classmethod
    def parse(cls, text: str) -> Subnet:
        """Read the CIDR form.

        Raises:
            ValueError: it is no address with a length, or has bits behind that length.
        """
        address, _, length = text.partition("/")
        try:
            (base,) = struct.unpack("!I", socket.inet_pton(socket.AF_INET, address))
        except OSError:
            raise ValueError(text) from None
        bits = int(length)
        plain = length.isascii() and length.isdecimal()
        if not plain or bits > 32 or base & ((1 << (32 - bits)) - 1):
            raise ValueError(text)
        return cls(base, bits)

    def __str__(self) -> str:
        return f"{self.address(0)}/{self.bits}"

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return int(1 << (32 - self.bits))

    def address(self, number: int) -> str:
        """The address of a host number."""
        return socket.inet_ntoa(struct.pack("!I", self.base + number))

    def overlaps(self, other: Subnet) -> bool:
        """Whether an address is in both."""
        return self.base < other.base + other.size and other.base < self.base + self.size


#: Every internal network is a /24 of the first, every egress network a /24 of the second.
INTERNAL_POOL: Final = "10.86.0.0/16"
EGRESS_POOL: Final = "10.87.0.0/16"
#: All IPv6 networks are of one unique local prefix, too long to be drawn by chance (RFC 4193
#: section 3.2.3): every other address is the lab's, and a check sends to addresses that it draws.
PREFIX6: Final = "fd87:b077:1e0"
POOL6: Final = f"{PREFIX6}0::/44"
#: What no network of a bottle may cover, and what it is there for.
_RESERVED: Final = {
    INTERNAL_POOL: "the engine's own internal networks",
    EGRESS_POOL: "the engine's own egress networks",
    "198.18.0.0/15": "the uplink of the bottle's host",
    "192.88.99.0/24": "the lab's names and its DNS server",
    "192.175.48.0/24": "the far side's targets",
    "192.31.196.0/24": "the far side's targets",
    "192.52.193.0/24": "the far side's targets",
    "0.0.0.0/8": "no network (RFC 1122)",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local addresses and clouds' metadata services",
    "224.0.0.0/3": "multicast and reserved addresses",
}


def check(wanted: Iterable[tuple[str, str]]) -> None:
    """Refuse subnets that cannot be had on this machine, whatever other bottles there are.

    Args:
        wanted: names of settings and what they ask for; empty asks for nothing.

    Raises:
        ConfigurationError: one is no subnet, has a bad size, or overlaps one that is in use.
    """
    asked = [(where, text) for where, text in wanted if text]
    if not asked:
        return
    in_use = {Subnet.parse(text): what for text, what in _RESERVED.items()}
    for network in machine_networks():
        in_use.setdefault(network, "a network of this machine")
    for where, text in asked:
        subnet = _read(where, text)
        for other, what in in_use.items():
            if subnet.overlaps(other):
                raise _taken(where, subnet, f"{other}: {what}")
        in_use[subnet] = f"this bottle's own {where}"


def _read(where: str, text: str) -> Subnet:
    try:
        subnet = Subnet.parse(text)
    except (TypeError, ValueError):
        subnet = Subnet(0, 0)
    if not WIDEST <= subnet.bits <= NARROWEST:
        raise ConfigurationError(
            "a subnet cannot be read",
            where=where,
            expected=f"an IPv4 network in CIDR form, /{WIDEST} to /{NARROWEST}, "
            "such as 10.99.0.0/24",
            seen=repr(text),
        )
    return subnet


def _taken(where: str, subnet: Subnet, seen: str) -> ConfigurationError:
    return ConfigurationError(
        "a subnet is in use",
        where=f"{where}: {subnet}",
        expected="a subnet that overlaps no other network",
        seen=seen,
        next_step="choose another one, or leave it out and the engine finds a free one",
    )


def machine_networks() -> frozenset[Subnet]:
    """The networks that this machine has routes into, and its own addresses."""
    found = {*_routes(), *_addresses()}
    return frozenset(subnet for subnet in found if subnet.bits)  # the default route is no network


def _routes() -> Iterator[Subnet]:
    for line in _lines("/proc/net/route")[1:]:
        fields = line.split()
        base, mask = (int.from_bytes(bytes.fromhex(fields[n])[::-1], "big") for n in (1, 7))
        yield Subnet(base, mask.bit_count())


def _addresses() -> Iterator[Subnet]:
    """Read the addresses off the routing trie: each stands above a line that says LOCAL."""
    leaf = ""
    for line in _lines("/proc/net/fib_trie"):
        words = line.split()
        if words[0] == "|--":
            leaf = words[1]
        elif words[-1] == "LOCAL" and words[0] == "/32":
            yield Subnet.parse(f"{leaf}/32")


def _lines(path: str) -> list[str]:
    with suppress(OSError), open(path, encoding="ascii") as file:
        return [line for line in file if line.strip()]
    return []
