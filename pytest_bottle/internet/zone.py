"""The names of the lab: all under ``.test`` exist (RFC 6761), and what it is told to own."""

from __future__ import annotations

import re
import threading
from typing import NamedTuple

from pytest_bottle.guest import dnswire

#: Retired 6to4 anycast (RFC 7526): judged global by address guards, needed by nobody.
IPV4_PREFIX = "192.88.99."
#: Direct delegation of AS112 (RFC 7534, RFC 7535): likewise global, likewise nobody's.
IPV6_PREFIX = "2620:4f:8000::"
#: Documentation (RFC 3849): where nothing speaks IPv6, an address that leads nowhere at all.
NOWHERE6_PREFIX = "2001:db8:64::"
#: Beyond 53: the sidecars' resolver has that address, and must not be taken for a name's.
FIRST, LAST = 64, 250
NUMBERS = range(FIRST, LAST + 1)

#: Names whose addresses a sidecar must refuse, whoever asks and however often.
FIXED = {
    "private.test": ("10.0.0.1", "fd00::1"),
    "loopback.test": ("127.0.0.1", "::1"),
    "metadata.test": ("169.254.169.254", "fd00:ec2::254"),
}
#: Names that lead inside at times, or in part, or by way of others (PXY-11).
ALTERNATING, ALIASED, MIXED, MIXED6 = (
    f"{kind}.test" for kind in ("alternating", "aliased", "mixed", "mixed6")
)
INSIDE, INSIDE6 = "10.99.0.7", "fd00::7"
#: Names that have an IPv6 address and no other: out there, and inside (IP6-04).
ONLY6, INWARD6 = "only6.test", "inward6.test"
#: Names below this one hold the address that they have: ``127-0-0-1.spelled.test`` (PXY-14).
SPELLED = "spelled.test"
_IN_A_NAME = re.compile(r"([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})\.")
_ALIASES = (f"hop.{ALIASED}", "metadata.test")
_ABSENT = "nxdomain.test"


def is_of_far_side(host: str) -> bool:
    """Tell whether an address is of the network that a far side has which does not own them all."""
    return host.startswith(IPV4_PREFIX)


class Found(NamedTuple):
    """What is known of a name: the last alias, if there is one, has the addresses."""

    rcode: int
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ttl: int = 5


class ZoneFullError(LookupError):
    """More names were asked for than there are addresses."""


class Zone:
    """Gives each registrable name (its last two labels) an address when it is first asked for.

    Args:
        numbers: the host numbers that names may get, in 192.88.99.0/24.
        version6: whether names that lead out have IPv6 addresses too. Without, they are told where
            somebody has to name one, and nobody's: there they are those of documentation.
    """

    def __init__(self, numbers: range = NUMBERS, *, version6: bool = True) -> None:
        self._free = numbers
        self._version6 = version6
        self._numbers: dict[str, int] = {}
        self._turns = 0
        self._adopted: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def adopt(self, name: str) -> None:
        """Own a name from now on, and all below it, whatever its last label is."""
        self._adopted |= {_bare(name)}

    def addresses(self, name: str) -> tuple[str, str] | None:
        """The IPv4 and the IPv6 address of a name; None if the name does not exist.

        Raises:
            ZoneFullError: all addresses are given away.
        """
        owner = self._adopter(name)
        if owner:
            return self._pair(owner)
        owner = registrable(name)
        if owner.rpartition(".")[2] != "test" or owner == _ABSENT:
            return None
        if owner in FIXED:
            return FIXED[owner]
        return self._pair(owner)

    def _adopter(self, name: str) -> str:
        """Find the adopted name that a name is, or lies below; ``.test`` is ours without that."""
        labels = _bare(name).split(".")
        parents = (".".join(labels[n:]) for n in range(len(labels)))
        found = (parent for parent in parents if parent in self._adopted)
        return "" if labels[-1] == "test" else next(found, "")

    def _pair(self, owner: str) -> tuple[str, str]:
        number = self._number(owner)
        prefix = IPV6_PREFIX if self._version6 else NOWHERE6_PREFIX
        return f"{IPV4_PREFIX}{number}", f"{prefix}{number:x}"

    def resolve(self, name: str, qtype: int) -> Found:
        """Answer a question with a response code, addresses and perhaps aliases.

        Raises:
            ZoneFullError: all addresses are given away.
        """
        pair = self.addresses(name)
        if pair is None:
            return Found(dnswire.NXDOMAIN)
        special = self._special(name, pair)
        if registrable(name) == ALTERNATING and qtype == dnswire.A and self._turn():
            special = Found(dnswire.NOERROR, (INSIDE,), ttl=0)
        outward = pair if self._version6 else pair[:1]
        found = special or Found(dnswire.NOERROR, pair if pair in FIXED.values() else outward)
        kind = {dnswire.A: ".", dnswire.AAAA: ":"}.get(qtype)
        return found._replace(addresses=tuple(a for a in found.addresses if kind and kind in a))

    def _special(self, name: str, pair: tuple[str, str]) -> Found | None:
        spelled = _IN_A_NAME.match(name)
        known = {
            ALTERNATING: Found(dnswire.NOERROR, pair[:1], ttl=0),
            ALIASED: Found(dnswire.NOERROR, FIXED["metadata.test"], _ALIASES),
            MIXED: Found(dnswire.NOERROR, (pair[0], INSIDE)),
            MIXED6: Found(dnswire.NOERROR, (pair[0], INSIDE6)),
            ONLY6: Found(dnswire.NOERROR, pair[1:]),
            INWARD6: Found(dnswire.NOERROR, (INSIDE6,)),
            SPELLED: spelled and Found(dnswire.NOERROR, (".".join(spelled.groups()),)),
        }
        return known.get(registrable(name)) or None

    def _turn(self) -> int:
        """Take the next of 0, 1, 1, 0, 1, 0, 0, 1, …: of each pair, one is 1 (Thue and Morse).

        By turns alone, whoever asks twice for each round would see the same half of the answers.
        """
        with self._lock:
            self._turns += 1
            return bin(self._turns - 1).count("1") % 2

    def _number(self, owner: str) -> int:
        with self._lock:
            number = self._numbers.get(owner, self._free[0] + len(self._numbers))
            if number not in self._free:
                raise ZoneFullError(
                    f"no address left for {owner}: {IPV4_PREFIX}{self._free[-1]} was the last"
                )
            self._numbers[owner] = number
            return number


def registrable(name: str) -> str:
    """The last two labels of a name, in lower case: ``x1.Denied.test.`` -> ``denied.test``."""
    return ".".join(_bare(name).split(".")[-2:])


def _bare(name: str) -> str:
    name = name.lower()
    return name[:-1] if name.endswith(".") else name
