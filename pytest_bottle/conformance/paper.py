"""A bottle on paper: what a check would send can be read off a plan for it, and nothing is touched.

Its addresses are those of documentation (RFC 5737, RFC 3849). Where a plan is printed, words stand
for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import (
    Endpoint,
    Feature,
    GuestInfo,
    NetworkInfo,
    Topology,
    Vantage,
)
from pytest_bottle.conformance.plan import Plan
from pytest_bottle.errors import NotSupported
from pytest_bottle.spec import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.internet.lab import Hearing, Mark

_INNER, _OUTER, _FAR = "192.0.2", "198.51.100", "203.0.113"
_LINK = "02:00:00:00:00:01"
#: What stands for each address where a plan is printed.
WORDS = {
    f"{_INNER}.1": "the gateway",
    f"{_INNER}.2": "the sidecar",
    f"{_INNER}.3": "the agent",
    f"{_OUTER}.1": "the outer gateway",
    f"{_OUTER}.2": "the sidecar's outer address",
    f"{_OUTER}.5": "the neighbour",
}
_GUESTS = {
    Vantage.AGENT: f"{_INNER}.3",
    Vantage.PRIVILEGED: f"{_INNER}.4",
    Vantage.OPEN: f"{_OUTER}.4",
    Vantage.NEIGHBOUR: f"{_OUTER}.5",
}


class Sheet:
    """A far side on paper: it gives addresses, and hears nothing."""

    name = "paper"
    literals = True

    def __init__(self) -> None:
        self._given = 0
        self._names: dict[str, tuple[str, str]] = {}
        self.words: dict[str, str] = dict(WORDS)

    def fresh_address(self, family: int = 4, at: tuple[str, int] | None = None) -> str:
        """Give an address of its own."""
        del at
        self._given += 1
        # Benchmarks (RFC 2544) have more addresses than documentation.
        four = f"198.18.{self._given // 250}.{self._given % 250 + 1}"
        address = four if family == 4 else f"2001:db8::{self._given:x}"
        self.words[address] = "an address of its own"
        return address

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Give a name its two addresses."""
        if name not in self._names:
            number = len(self._names) + 1
            self._names[name] = f"{_FAR}.{number}", f"2001:db8:1::{number:x}"
            self.words |= dict.fromkeys(self._names[name], f"the address of {name}")
        return self._names[name]

    def adopt(self, name: str) -> tuple[str, ...]:
        """Give a name its two addresses, whatever its last label is."""
        return self.addresses_of(name)

    def listen(self, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Listen to nobody."""

    def mark(self) -> Mark:
        """Refuse."""
        raise NotSupported("nothing is heard on paper", where="paper")

    def heard(self, since: Mark, destinations: Sequence[str] | None = None) -> Hearing:
        """Refuse."""
        del since, destinations
        raise NotSupported("nothing is heard on paper", where="paper")


def _network(name: str, prefix: str) -> NetworkInfo:
    return NetworkInfo(name, name == "internal", f"{prefix}.0/24", f"{prefix}.1")


def topology() -> Topology:
    """Draw a bottle."""
    proxy = Endpoint(f"{_INNER}.2", PLAIN.sidecar.port)
    url = f"http://{proxy}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return Topology(
        "paper",
        PLAIN,
        _network("internal", _INNER),
        _network("egress", _OUTER),
        GuestInfo("agent", {"internal": f"{_INNER}.3"}),
        GuestInfo("sidecar", {"internal": f"{_INNER}.2", "egress": f"{_OUTER}.2"}),
        proxy,
        Endpoint("127.0.0.31", 18080),
        None,
        dict.fromkeys(names, url),
        "python3",
    )


def plan_of(check: Check) -> tuple[Plan, Sheet]:
    """Let a check fill a plan for a bottle on paper, on a backend that has every feature."""
    sheet = Sheet()
    neighbours = {f"{_INNER}.1": _LINK, f"{_INNER}.2": _LINK, f"{_INNER}.3": _LINK}
    # As root the same is sent once more, which is said in one word and not in as many lines.
    features = frozenset(Feature) - {Feature.EXEC_ROOT}
    plan = Plan(topology(), sheet, features, neighbours, _GUESTS)
    if check.stimuli is not None:
        check.stimuli(plan)
    return plan, sheet
