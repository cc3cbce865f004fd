"""The emulator's networks: their names, subnets and addresses, and who refers to them."""

from __future__ import annotations

import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator.machine import Leg
from pytest_bottle.emulator.shapes import now
from pytest_bottle.emulator.values import RefusedError, Wanted, check_network_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_bottle.emulator.machine import Machine

DEFAULT: Final = "default"
#: Where vmnet was seen to begin with the networks of a mode; the third number counts on.
_FIRST: Final = {"nat": 64, "hostOnly": 128}
#: Seconds that a network stays in use after its last container, with the fault ``slow-delete``.
LINGER: Final = 1.5


@dataclass
class Network:
    """A network and its pool of addresses.

    Attributes:
        taken: host numbers by container.
        lingering: containers that are gone, and until when they count (monotonic seconds).
    """

    name: str
    mode: str
    subnet: ipaddress.IPv4Network
    configuration: dict[str, Any]
    ipv6: str = ""
    taken: dict[str, int] = field(default_factory=dict)
    lingering: dict[str, float] = field(default_factory=dict)
    _next: int = 2

    @property
    def gateway(self) -> str:
        """The host's own address there."""
        return str(self.subnet[1])

    def allot(self, container: str) -> int:
        """Hand out the next number that is free: the pool rotates, so a restart changes it."""
        numbers = range(2, self.subnet.num_addresses - 2)
        used = set(self.taken.values())
        for step in range(len(numbers)):
            number = numbers[(self._next - 2 + step) % len(numbers)]
            if number not in used:
                self._next = number + 1
                self.taken[container] = number
                return number
        raise RefusedError(f"no address left on network {self.name}")

    def shape(self) -> dict[str, Any]:
        """What JSON shows of it."""
        status = {"ipv4Gateway": self.gateway, "ipv4Subnet": str(self.subnet)}
        if self.ipv6:
            status["ipv6Subnet"] = self.ipv6
        return {"configuration": self.configuration, "id": self.name, "status": status}


class Networks:
    """All networks; the builtin one is there from the start.

    Args:
        machine: makes them.
        kept: the configurations of an earlier daemon's.
    """

    def __init__(self, machine: Machine, kept: Iterable[Mapping[str, Any]] = ()) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._known: dict[str, Network] = {}
        self._pending: set[str] = set()
        for one in kept:
            self._make(dict(one), frozenset())
        if DEFAULT not in self._known:
            role = {"com.apple.container.resource.role": "builtin"}
            self._make(_configuration(DEFAULT, "nat", labels=role), frozenset())

    def all(self) -> list[Network]:
        """Every network, sorted by name."""
        return [self._known[name] for name in sorted(self._known)]

    def get(self, name: str) -> Network:
        """Find the network of a container that is to run.

        Raises:
            RefusedError: there is none.
        """
        if name not in self._known:
            raise RefusedError(f"network {name} not found")
        return self._known[name]

    def inspect(self, names: Sequence[str]) -> list[Network]:
        """Find networks by name, all or none."""
        if missing := [name for name in names if name not in self._known]:
            raise RefusedError(f"network not found: {', '.join(missing)}")
        return [network for network in self.all() if network.name in names]

    def create(
        self,
        name: str,
        *,
        internal: bool,
        subnet: str,
        labels: Mapping[str, str],
        options: Mapping[str, str],
        switched_on: frozenset[str],
    ) -> None:
        """Make a network; ``subnet`` is in CIDR form, or empty for one that is free."""
        check_network_name(name)
        mode = "hostOnly" if internal else "nat"
        configuration = _configuration(name, mode, labels=labels, options=options)
        if subnet:
            wanted = ipaddress.IPv4Network(subnet, strict=False)
            if not 16 <= wanted.prefixlen <= 29:
                raise RefusedError(f"IPv4 subnet {wanted} cannot be had (not emulated)")
            configuration["ipv4Subnet"] = str(wanted)
        with self._lock:
            if name in self._known or name in self._pending:
                raise RefusedError(f"network {name} already exists")
            self._pending.add(name)
        try:
            self._make(configuration, switched_on)
        finally:
            self._pending.discard(name)

    def _make(self, configuration: dict[str, Any], switched_on: frozenset[str]) -> None:
        name, mode = configuration["name"], configuration["mode"]
        with self._lock:
            subnet = self._choose(mode, configuration.get("ipv4Subnet", ""))
            network = Network(name, mode, subnet, configuration)
            network.ipv6 = self._machine.add_network(
                name, str(subnet), internal=mode == "hostOnly", switched_on=switched_on
            )
            self._known[name] = network

    def _choose(self, mode: str, asked: str) -> ipaddress.IPv4Network:
        used = [network.subnet for network in self._known.values()]
        if asked:
            wanted = ipaddress.IPv4Network(asked)
            for other in filter(wanted.overlaps, used):
                said = f"IPv4 subnet {wanted} overlaps an existing network with subnet {other}"
                raise RefusedError(said)
            return wanted
        for number in range(_FIRST[mode], 256):
            found = ipaddress.IPv4Network(f"192.168.{number}.0/24")
            if not any(map(found.overlaps, used)):
                return found
        raise RefusedError("no subnet is left (vmnet status 1001)")

    def delete(
        self, names: Sequence[str], referring: Mapping[str, Sequence[str]]
    ) -> tuple[list[str], list[str]]:
        """Delete networks that no container refers to, whether it runs or not.

        Returns:
            the names that went, and what is logged about those that did not.

        Raises:
            RefusedError: one is missing or builtin; nothing is deleted.
        """
        with self._lock:
            if missing := [name for name in names if name not in self._known]:
                quoted = ", ".join(f'"{name}"' for name in missing)
                raise RefusedError(f"failed to delete one or more networks: [{quoted}]")
            if DEFAULT in names:
                raise RefusedError(f"cannot delete a builtin network: {DEFAULT}")
            gone, logged = [], []
            for name in dict.fromkeys(names):
                users = [*referring.get(name, ()), *self._lingering(name)]
                if users:
                    said = f"cannot delete subnet {name} with referring containers: "
                    error = f'"error": invalidState: "{said}{", ".join(users)}"'
                    logged.append(f'failed to delete network: ["id": {name}, {error}]')
                    continue
                gone.append(name)
            for name in gone:
                del self._known[name]
            self._machine.delete_networks(gone)
        return gone, logged

    def _lingering(self, name: str) -> list[str]:
        until = self._known[name].lingering
        return [container for container, end in until.items() if end > time.monotonic()]

    def linger(self, names: Iterable[str], container: str) -> None:
        """Let a container that is gone count for a while (``slow-delete``)."""
        for name in names:
            if name in self._known:
                self._known[name].lingering[container] = time.monotonic() + LINGER

    def legs(self, container: str, wanted: Sequence[Wanted]) -> list[Leg]:
        """Take a container's addresses, one on each network."""
        with self._lock:
            networks = [self.get(one.network) for one in wanted]
            return [
                Leg(one.network, network.allot(container), one.mac or _mac(), one.mtu)
                for one, network in zip(wanted, networks, strict=True)
            ]

    def release(self, container: str) -> None:
        """Give a container's addresses back."""
        with self._lock:
            for network in self._known.values():
                network.taken.pop(container, None)


def _configuration(
    name: str,
    mode: str,
    *,
    labels: Mapping[str, str],
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "creationDate": now(),
        "labels": dict(labels),
        "mode": mode,
        "name": name,
        "options": dict(options or {}),
        "plugin": "container-network-vmnet",
    }


def _mac() -> str:
    """Make up a link address: locally administered, its first digit f."""
    tail = secrets.token_bytes(5)
    return ":".join([f"f{secrets.choice('26ae')}", *(f"{byte:02x}" for byte in tail)])
