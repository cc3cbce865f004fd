"""The wires of the netns engine: the bottle's host H, the lab's uplink, networks and cables.

::

    lab  -- up0 --  H  -- egr<n> (bridge) --  sidecar, neighbours
    owns every       \
    address           +-- int<n> (bridge) --  sidecar, agent, privileged probe

H forwards for the egress bridges and the uplink, never for an internal bridge.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_bottle.backends.engines.netns import linux
from pytest_bottle.backends.engines.netns.children import Lost, Refused, go_home
from pytest_bottle.backends.engines.netns.rtnetlink import (
    FR_ACT_PROHIBIT,
    RTN_LOCAL,
    Netlink,
    Rule,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Every internal network is a /24 of the first, every egress network a /24 of the second.
INTERNAL_POOL: Final = "10.86.0.0/16"
EGRESS_POOL: Final = "10.87.0.0/16"
_LAB_V4, _HOST_V4 = "198.18.0.1", "198.18.0.2"
_LAB_V6, _HOST_V6 = "fd87:ffff::1", "fd87:ffff::2"
#: Settings that a new namespace may inherit from the machine and that would decide verdicts.
_QUIET: Final = {
    "net/ipv4/ip_forward": "0",
    **{
        f"net/ipv4/conf/{scope}/{name}": "0"
        for scope in ("all", "default")
        for name in (
            "rp_filter",
            "proxy_arp",
            "route_localnet",
            "accept_redirects",
            "send_redirects",
            "accept_source_route",
        )
    },
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv4/ping_group_range": "0 0",
    # A closed port must say so each time it is asked, or it reads like a silent one.
    "net/ipv4/icmp_ratelimit": "0",
}


class Namespace:
    """A network namespace held by an open file, with a netlink socket inside."""

    def __init__(self, home: int) -> None:
        self._home = home
        linux.unshare(linux.CLONE_NEWNET)
        with contextlib.ExitStack() as undo:
            try:
                self.fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, self.fd)
                self.netlink = Netlink()
                undo.callback(self.netlink.close)
                for name, value in _QUIET.items():
                    sysctl(name, value)
            finally:
                go_home(home, linux.CLONE_NEWNET)
            undo.pop_all()
        self._next_index = 10
        self.netlink.up("lo")

    def index(self) -> int:
        """Hand out a free interface number of this namespace."""
        self._next_index += 1
        return self._next_index

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for a moment."""
        linux.setns(self.fd, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            go_home(self._home, linux.CLONE_NEWNET)

    def sysctls(self, values: dict[str, str]) -> None:
        """Write kernel settings of this namespace, after what is queued has been done."""
        self.netlink.flush()
        with self.entered():
            for name, value in values.items():
                sysctl(name, value)

    def close(self) -> None:
        """Let go of the namespace; the kernel frees it with its last process."""
        self.netlink.close()
        os.close(self.fd)


def sysctl(name: str, value: str) -> None:
    """Write one kernel setting of the current namespace."""
    # Not open(): a text stream for each of the many settings costs more than the setting.
    fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class Network(NamedTuple):
    """A network of the engine: a bridge in H."""

    name: str
    internal: bool
    number: int
    bridge: str
    taken: dict[str, int]

    @property
    def subnet(self) -> str:
        """The IPv4 subnet, in CIDR form."""
        return f"{self._prefix}.0/24"

    @property
    def gateway(self) -> str:
        """The bridge's own IPv4 address."""
        return f"{self._prefix}.1"

    @property
    def _prefix(self) -> str:
        return f"10.{86 if self.internal else 87}.{self.number}"

    def allot(self, guest: str) -> int:
        """Give a guest the lowest free host number."""
        number = next((n for n in range(2, 255) if n not in self.taken.values()), None)
        if number is None:
            raise Refused(what="there is no address left", where=self.subnet, seen="253 guests")
        self.taken[guest] = number
        return number

    def ipv4(self, number: int) -> str:
        """The IPv4 address of a host number."""
        return f"{self._prefix}.{number}"

    def ipv6(self, number: int) -> str | None:
        """The IPv6 address of a host number; an internal network has none."""
        return None if self.internal else f"fd87:{self.number:x}::{number:x}"


class Attachment(NamedTuple):
    """One end of a cable in a guest."""

    network: str
    device: str
    ipv4: str
    ipv6: str | None
    gateway: str
    link: str


class Fabric:
    """H, the lab's namespace, and the networks between them."""

    def __init__(self, home: int) -> None:
        self._home = home
        self.lab = Namespace(home)
        self.host = Namespace(home)
        self.networks: dict[str, Network] = {}
        self._retired: list[Network] = []
        self._dying: set[str] = set()
        self._uplink()

    def _uplink(self) -> None:
        host, lab = self.host, self.lab
        lab_index = lab.index()
        host.netlink.veth("up0", host.index(), "up0", lab_index, lab.fd)
        lab.netlink.adopt("up0", lab_index)
        for side, v4, v6 in ((host, _HOST_V4, _HOST_V6), (lab, _LAB_V4, _LAB_V6)):
            side.netlink.flush()
            side.netlink.address("up0", f"{v4}/30")
            side.netlink.address("up0", f"{v6}/64")
            side.netlink.up("up0")
        host.netlink.route("0.0.0.0/0", via=_LAB_V4)
        host.netlink.route("::/0", via=_LAB_V6)
        host.netlink.rule(Rule(100, FR_ACT_PROHIBIT, iif="up0", to=INTERNAL_POOL))
        # IPv6 forwards only where all.forwarding is on; internal bridges have no IPv6 at all.
        host.sysctls(
            {
                "net/ipv4/conf/up0/forwarding": "1",
                "net/ipv6/conf/all/forwarding": "1",
                "net/ipv4/ip_unprivileged_port_start": "0",
            }
        )
        # Every address is local here, but only where no longer prefix says otherwise (main table).
        lab.netlink.route("0.0.0.0/0", device="lo", kind=RTN_LOCAL)
        lab.netlink.route("::/0", device="lo", kind=RTN_LOCAL)
        for pool in (INTERNAL_POOL, EGRESS_POOL):
            lab.netlink.route(pool, via=_HOST_V4)
        lab.netlink.route("fd87::/16", via=_HOST_V6)
        lab.sysctls({"net/ipv4/ip_unprivileged_port_start": "0"})

    def _free_numbers(self, *, internal: bool) -> list[int]:
        known = [*self.networks.values(), *self._retired]
        used = {network.number for network in known if network.internal == internal}
        return [number for number in range(1, 255) if number not in used]

    def is_full(self, *, internal: bool) -> bool:
        """Tell whether no subnet is left, for now."""
        return not self._free_numbers(internal=internal)

    def add_network(self, name: str, *, internal: bool) -> Network:
        """Make a bridge in H, with the gateway's address on it."""
        kind = "int" if internal else "egr"
        number = next(iter(self._free_numbers(internal=internal)), None)
        if number is None:
            raise Refused(
                what="there is no subnet left",
                where=INTERNAL_POOL if internal else EGRESS_POOL,
                expected="at most 254 networks of a kind at once",
                seen="all of them are taken",
                next_step="close bottles that are not needed any more",
            )
        network = Network(name, internal, number, f"{kind}{number}", {})
        try:
            self._make(network)
        except BaseException:
            self._unmake(network)
            raise
        self.networks[name] = network
        return network

    def _make(self, network: Network) -> None:
        internal, netlink = network.internal, self.host.netlink
        netlink.bridge(network.bridge, self.host.index())
        if internal:
            self.host.sysctls({f"net/ipv6/conf/{network.bridge}/disable_ipv6": "1"})
        else:
            netlink.address(network.bridge, f"{network.ipv6(1)}/64")
            for rule in _apart(network):
                netlink.rule(rule)
        netlink.address(network.bridge, f"{network.gateway}/24")
        netlink.up(network.bridge)
        forwarding = "0" if internal else "1"
        self.host.sysctls({f"net/ipv4/conf/{network.bridge}/forwarding": forwarding})

    def _unmake(self, network: Network) -> None:
        """Take away what there is of a network that could not be made."""
        netlink = self.host.netlink
        netlink.discard()
        for rule in () if network.internal else _apart(network):
            netlink.delete_rule(rule)
            with contextlib.suppress(OSError):  # it had not been made
                netlink.flush()
        netlink.delete_link(network.bridge)
        with contextlib.suppress(OSError):
            netlink.flush()
        if network.bridge in netlink.links():
            raise Lost(what="a network that failed cannot be removed", where=network.name)

    def retire_network(self, name: str) -> Network:
        """Take a network out of use; its bridge is the caller's to delete (:func:`demolish`).

        The number stays taken until :meth:`forget`: no two bridges share a subnet.
        """
        network = self.networks[name]
        if network.taken:
            raise OSError(16, f"network {name} still has guests: {', '.join(network.taken)}")
        if not network.internal:
            for rule in _apart(network):
                self.host.netlink.delete_rule(rule)
            self.host.netlink.flush()
        del self.networks[name]
        self._retired.append(network)
        return network

    def forget(self, networks: Iterable[Network]) -> None:
        """Give retired networks' numbers back."""
        for network in networks:
            self._retired.remove(network)

    def demolish(self, networks: Iterable[Network]) -> None:
        """Delete bridges; the kernel waits some 40 ms about it, so not in the server itself.

        Runs in a child: the netlink socket is its own. One group, one request, one wait.
        """
        linux.setns(self.host.fd, linux.CLONE_NEWNET)
        netlink = Netlink()
        netlink.delete_links([network.bridge for network in networks])
        netlink.flush()

    def attach(self, guest: str, space: Namespace, networks: Iterable[str]) -> list[Attachment]:
        """Run cables from a guest's namespace to its networks.

        The first network that is not internal gives the default route (S11, S22).
        """
        cables: list[Attachment] = []
        try:
            for number, name in enumerate(networks):
                cables.append(self._cable(guest, space, self._known(name), f"eth{number}"))
            self.host.netlink.flush()
            self._address(space, cables)
        except BaseException:
            self.host.netlink.discard()
            self.release(guest, cables)
            for network in self.networks.values():
                network.taken.pop(guest, None)
            raise
        return cables

    def _known(self, name: str) -> Network:
        if name not in self.networks:
            raise Refused(
                what="there is no such network",
                where=name,
                expected=", ".join(self.networks) or "a network",
                seen="none of this name",
            )
        return self.networks[name]

    def _cable(self, guest: str, space: Namespace, network: Network, device: str) -> Attachment:
        number = network.allot(guest)
        link_index, device_index = self.host.index(), space.index()
        link = f"v{link_index}"
        self.host.netlink.veth(link, link_index, device, device_index, space.fd)
        self.host.netlink.up(link, master=network.bridge)
        space.netlink.adopt(device, device_index)
        return Attachment(
            network.name,
            device,
            network.ipv4(number),
            network.ipv6(number),
            network.gateway,
            link,
        )

    def _address(self, space: Namespace, cables: list[Attachment]) -> None:
        netlink = space.netlink
        without_v6 = [cable.device for cable in cables if cable.ipv6 is None]
        if without_v6:
            space.sysctls({f"net/ipv6/conf/{name}/disable_ipv6": "1" for name in without_v6})
        for cable in cables:
            netlink.address(cable.device, f"{cable.ipv4}/24")
            if cable.ipv6 is not None:
                netlink.address(cable.device, f"{cable.ipv6}/64")
            netlink.up(cable.device)
        outer = next((c for c in cables if not self.networks[c.network].internal), None)
        if outer is not None:
            netlink.route("0.0.0.0/0", via=outer.gateway)
            netlink.route("::/0", via=self.networks[outer.network].ipv6(1))
        netlink.flush()

    def release(self, guest: str, cables: Iterable[Attachment]) -> None:
        """Give a guest's addresses back; its cables end with its namespace."""
        for cable in cables:
            self.networks[cable.network].taken.pop(guest, None)
            self._dying.add(cable.link)

    def discard(self) -> None:
        """Forget requests of something that failed, lest they are sent with the next."""
        self.host.netlink.discard()
        self.lab.netlink.discard()

    def still_dying(self) -> bool:
        """Tell whether the kernel is still taking cables of gone guests away."""
        self._dying &= set(self.host.netlink.links())
        return bool(self._dying)


def _apart(network: Network) -> list[Rule]:
    """What keeps bottles apart: nothing that comes from an egress bridge may enter the pools."""
    pools = (INTERNAL_POOL, EGRESS_POOL)
    return [Rule(100, FR_ACT_PROHIBIT, iif=network.bridge, to=pool) for pool in pools]
