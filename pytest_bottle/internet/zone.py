"""The names of the lab: all under ``.test`` exist (RFC 6761), and what it is told to own."""

from __future__ import annotations

import threading

from pytest_bottle.guest import dnswire

#: Retired 6to4 anycast (RFC 7526): judged global by address guards, needed by nobody.
IPV4_PREFIX = "192.88.99."
#: Direct delegation of AS112 (RFC 7534, RFC 7535): likewise global, likewise nobody's.
IPV6_PREFIX = "2620:4f:8000::"
#: Beyond 53: the sidecars' resolver has that address, and must not be taken for a name's.
FIRST, LAST = 64, 250

#: Names whose addresses a sidecar must refuse, whoever asks and however often.
FIXED = {
    "private.test": ("10.0.0.1", "fd00::1"),
    "loopback.test": ("127.0.0.1", "::1"),
    "metadata.test": ("169.254.169.254", "fd00:ec2::254"),
}
_ABSENT = "nxdomain.test"


class ZoneFullError(LookupError):
    """More names were asked for than there are addresses."""


class Zone:
    """Gives each registrable name (its last two labels) an address when it is first asked for."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._adopted: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def adopt(self, name: str) -> None:
        """Own a name from now on, and all below it, whatever its last label is."""
        self._adopted |= {name.lower().removesuffix(".")}

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
        labels = name.lower().removesuffix(".").split(".")
        parents = (".".join(labels[n:]) for n in range(len(labels)))
        found = (parent for parent in parents if parent in self._adopted)
        return "" if labels[-1] == "test" else next(found, "")

    def _pair(self, owner: str) -> tuple[str, str]:
        number = self._number(owner)
        return f"{IPV4_PREFIX}{number}", f"{IPV6_PREFIX}{number:x}"

    def resolve(self, name: str, qtype: int) -> tuple[int, tuple[str, ...]]:
        """Answer a question with a response code and addresses.

        Raises:
            ZoneFullError: all addresses are given away.
        """
        pair = self.addresses(name)
        if pair is None:
            return dnswire.NXDOMAIN, ()
        wanted = {dnswire.A: pair[:1], dnswire.AAAA: pair[1:]}
        return dnswire.NOERROR, wanted.get(qtype, ())

    def _number(self, owner: str) -> int:
        with self._lock:
            number = self._numbers.get(owner, FIRST + len(self._numbers))
            if number > LAST:
                raise ZoneFullError(
                    f"no address left for {owner}: {IPV4_PREFIX}{LAST} was the last"
                )
            self._numbers[owner] = number
            return number


def registrable(name: str) -> str:
    """The last two labels of a name, in lower case: ``x1.Denied.test.`` -> ``denied.test``."""
    return ".".join(name.lower().removesuffix(".").split(".")[-2:])
