"""The wires of the netns engine: the bottle's host H, the lab's uplink, networks and cables.

::

    lab  -- up0 --  H  -- egr<n> (bridge) --  sidecar, neighbours
    owns every       \
    address           +-- int<n> (bridge) --  sidecar, agent, privileged probe

H forwards for the egress bridges and the uplink, never for an internal bridge. To an internal
network it speaks ARP and ICMP, and nothing else: not even its own services answer there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_bottle.backends.engines.netns import linux
from pytest_bottle.backends.engines.netns.answers import Lost, Refused
from pytest_bottle.backends.engines.netns.namespace import Namespace
from pytest_bottle.backends.engines.netns.rtnetlink import (
    FR_ACT_NOP,
    FR_ACT_PROHIBIT,
    RTN_LOCAL,
    Netlink,
    Rule,
)
from pytest_bottle.backends.engines.netns.subnets import (
    EGRESS_POOL,
    INTERNAL_POOL,
    POOL6,
    PREFIX6,
    Subnet,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LAB_V4, _HOST_V4 = "198.18.0.1", "198.18.0.2"
_LAB_V6, _HOST_V6 = f"{PREFIX6}f::1", f"{PREFIX6}f::2"
#: A router asks for its neighbours from a link-local address (RFC 4861, 7.2.2). The kernel's own
#: one comes with the link's carrier, up to a second late: so each router has one from the start.
_ROUTER: Final = "fe80::1/64"


class Network(NamedTuple):
    """A network of the engine: a bridge in H.

    Attributes:
        number: of the bridge, and in the IPv6 prefix; of the default subnet too.
        taken: host numbers, by guest.
        ipv4_net: the IPv4 subnet; ``custom`` says that it was asked for.
    """

    name: str
    internal: bool
    number: int
    bridge: str
    taken: dict[str, int]
    ipv4_net: Subnet
    custom: bool = False

    @property
    def subnet(self) -> str:
        """The IPv4 subnet, in CIDR form."""
        return str(self.ipv4_net)

    @property
    def gateway(self) -> str:
        """The bridge's own IPv4 address."""
        return self.ipv4(1)

    def allot(self, guest: str, wanted: int | None = None) -> int:
        """Give a guest the lowest free host number, or one that the caller knows to be free."""
        if wanted is not None:
            self.taken[guest] = wanted
            return wanted
        last = self.ipv4_net.size - 1  # the broadcast address
        number = next((n for n in range(2, last) if n not in self.taken.values()), None)
        if number is None:
            raise Refused(
                what="there is no address left", where=self.subnet, seen=f"{last - 2} guests"
            )
        self.taken[guest] = number
        return number

    def ipv4(self, number: int) -> str:
        """The IPv4 address of a host number."""
        return self.ipv4_net.address(number)

    def cidr(self, number: int) -> str:
        """The IPv4 address of a host number, with the subnet's length."""
        return f"{self.ipv4(number)}/{self.ipv4_net.bits}"

    def ipv6(self, number: int) -> str | None:
        """The IPv6 address of a host number; an internal network has none."""
        return None if self.internal else f"{PREFIX6}1:{self.number:x}::{number:x}"


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
        #: The rules in H that keep bottles apart, and those that every bottle has in common.
        self._walls: list[Rule] = []
        self._ground: list[Rule] = []
        self._dying: set[str] = set()
        self._uplink()

    def _uplink(self) -> None:
        host, lab = self.host, self.lab
        lab_index = lab.index()
        host.netlink.veth("up0", host.index(), "up0", lab_index, lab.fd)
        lab.netlink.adopt("up0", lab_index)
        for side, v4, v6 in ((host, _HOST_V4, _HOST_V6), (lab, _LAB_V4, _LAB_V6)):
            side.netlink.flush()
            # Up first: while a link is down it gets no multicast route, and not at once when it
            # comes up; a neighbour's first question (RFC 4861) would then stay unanswered.
            side.netlink.up("up0")
            side.netlink.address("up0", f"{v4}/30")
            side.netlink.address("up0", f"{v6}/64")
            side.netlink.address("up0", _ROUTER if side is lab else "fe80::2/64")
        host.netlink.route("0.0.0.0/0", via=_LAB_V4)
        host.netlink.route("::/0", via=_LAB_V6)
        self._ground.append(Rule(100, FR_ACT_PROHIBIT, iif="up0", to=INTERNAL_POOL))
        self._turn_away()
        # IPv6 forwards only where all.forwarding is on; internal bridges have no IPv6 at all.
        host.sysctls(
            {
                "net/ipv4/conf/up0/forwarding": "1",
                "net/ipv6/conf/all/forwarding": "1",
            }
        )
        # Every address is local here, but only where no longer prefix says otherwise (main table).
        lab.netlink.route("0.0.0.0/0", device="lo", kind=RTN_LOCAL)
        lab.netlink.route("::/0", device="lo", kind=RTN_LOCAL)
        for pool in (INTERNAL_POOL, EGRESS_POOL):
            lab.netlink.route(pool, via=_HOST_V4)
        lab.netlink.route(POOL6, via=_HOST_V6)
        lab.netlink.flush()

    def _turn_away(self) -> None:
        """Let no service of H be reached from an internal network, whichever address it has there.

        H has no way back to one by TCP or UDP, and a bridge with rp_filter takes nothing in to
        which there is no way back (RFC 3704), broadcasts included. One thing still comes in, and
        only a privileged guest can send it: a datagram from 0.0.0.0 to everybody, as DHCP's is,
        for the kernel asks no such sender for the way back.
        """
        # For rules about what it sends itself the kernel does not look into what it receives.
        heed = Rule(21, FR_ACT_NOP, iif="up0", protocol="udp")
        self._ground += [*_no_way_back(INTERNAL_POOL), heed]
        for rule in self._ground:
            self.host.netlink.rule(rule)

    def reload_rules(self) -> None:
        """Flush the rules of H and set them anew, as its own tools would reload a firewall."""
        netlink, rules = self.host.netlink, [*self._ground, *self._walls]
        for change in (netlink.delete_rule, netlink.rule):
            for rule in rules:
                change(rule)
            netlink.flush()

    def _free_numbers(self, *, internal: bool) -> list[int]:
        known = [*self.networks.values(), *self._retired]
        used = {network.number for network in known if network.internal == internal}
        return [number for number in range(1, 255) if number not in used]

    def is_full(self, *, internal: bool) -> bool:
        """Tell whether no subnet is left, for now."""
        return not self._free_numbers(internal=internal)

    def add_network(self, name: str, *, internal: bool, subnet: str = "") -> Network:
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
        own = Subnet.parse(subnet or f"10.{86 if internal else 87}.{number}.0/24")
        network = Network(name, internal, number, f"{kind}{number}", {}, own, bool(subnet))
        self._require_free(network)
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
            self.host.sysctls(
                {
                    f"net/ipv6/conf/{network.bridge}/disable_ipv6": "1",
                    f"net/ipv4/conf/{network.bridge}/rp_filter": "1",
                }
            )
        netlink.up(network.bridge)
        if not internal:
            netlink.address(network.bridge, f"{network.ipv6(1)}/64")
            netlink.address(network.bridge, _ROUTER)
        walls = self._walls_of(network)
        self._walls += walls
        for rule in walls:
            netlink.rule(rule)
        netlink.address(network.bridge, network.cidr(1))
        if network.custom:
            self.lab.netlink.route(network.subnet, via=_HOST_V4)
            self.lab.netlink.flush()
        forwarding = "0" if internal else "1"
        self.host.sysctls({f"net/ipv4/conf/{network.bridge}/forwarding": forwarding})

    def _unmake(self, network: Network) -> None:
        """Take away what there is of a network that could not be made."""
        netlink = self.host.netlink
        netlink.discard()
        self.lab.netlink.discard()
        for rule in self._own_walls(network):
            self._walls.remove(rule)
            netlink.delete_rule(rule)
            with contextlib.suppress(OSError):  # it had not been made
                netlink.flush()
        if network.custom:
            self.lab.netlink.delete_route(network.subnet)
            with contextlib.suppress(OSError):
                self.lab.netlink.flush()
        netlink.delete_link(network.bridge)
        with contextlib.suppress(OSError):
            netlink.flush()
        if network.bridge in netlink.links():
            raise Lost(what="a network that failed cannot be removed", where=network.name)

    def _require_free(self, network: Network) -> None:
        retired = (other for other in self._retired if not other.custom)
        for other in (*self.networks.values(), *retired):
            custom = network.custom or other.custom
            if custom and network.ipv4_net.overlaps(other.ipv4_net):
                raise Refused(
                    what="a subnet is in use",
                    where=f"{network.name}: {network.subnet}",
                    expected="a subnet that overlaps no other network",
                    seen=f"{other.subnet}: network {other.name} of another bottle",
                    next_step="one bottle at a time can have it; leave it out and the engine finds "
                    "a free one",
                )

    def _walls_of(self, network: Network) -> list[Rule]:
        """What H has to refuse on account of a new network.

        What comes from an egress bridge is refused every network of the engine, what comes from the
        lab every internal one. The pools stand for all that were not asked for by subnet.
        """
        others = [known for known in self.networks.values() if known is not network]
        pairs = []
        if not network.internal:
            custom = [known.subnet for known in (*others, network) if known.custom]
            pairs += [(network.bridge, to) for to in (INTERNAL_POOL, EGRESS_POOL, *custom)]
        if network.custom:
            pairs += [(known.bridge, network.subnet) for known in others if not known.internal]
            pairs += [("up0", network.subnet)] if network.internal else []
        own = _no_way_back(network.subnet) if network.custom and network.internal else []
        return own + [Rule(100, FR_ACT_PROHIBIT, iif=bridge, to=to) for bridge, to in pairs]

    def _own_walls(self, network: Network) -> list[Rule]:
        own = (network.bridge, network.subnet)
        return [rule for rule in self._walls if rule.iif == own[0] or rule.to == own[1]]

    def _take_walls_down(self, network: Network) -> None:
        for rule in self._own_walls(network):
            self._walls.remove(rule)
            self.host.netlink.delete_rule(rule)
        if network.custom:  # it may be asked for again before the bridge is deleted
            self.host.netlink.delete_address(network.bridge, network.cidr(1))
        self.host.netlink.flush()
        if network.custom:
            self.lab.netlink.delete_route(network.subnet)
            self.lab.netlink.flush()

    def retire_network(self, name: str) -> Network:
        """Take a network out of use; its bridge is the caller's to delete (:func:`demolish`).

        The number stays taken until :meth:`forget`, and with it the engine's own subnet: no two
        bridges share one. A subnet that was asked for is free at once.
        """
        network = self.networks[name]
        if network.taken:
            raise OSError(16, f"network {name} still has guests: {', '.join(network.taken)}")
        self._take_walls_down(network)
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

    def attach(
        self,
        guest: str,
        space: Namespace,
        networks: Iterable[str],
        first: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> list[Attachment]:
        """Run cables from a guest's namespace to its networks; ``first`` numbers the devices.

        ``numbers`` are its host numbers there, where the caller chooses them.

        The first network that is not internal gives the default route (S11, S22).
        """
        cables: list[Attachment] = []
        try:
            for place, name in enumerate(networks):
                number = None if numbers is None else numbers[place]
                device = f"eth{first + place}"
                cables.append(self._cable(guest, space, self._known(name), device, number))
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

    def _cable(
        self, guest: str, space: Namespace, network: Network, device: str, wanted: int | None
    ) -> Attachment:
        number = network.allot(guest, wanted)
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
            network = self.networks[cable.network]
            netlink.up(cable.device)
            netlink.address(cable.device, f"{cable.ipv4}/{network.ipv4_net.bits}")
            if cable.ipv6 is not None:
                netlink.address(cable.device, f"{cable.ipv6}/64")
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


def _no_way_back(subnet: str) -> list[Rule]:
    return [
        Rule(20, FR_ACT_PROHIBIT, iif="lo", to=subnet, protocol=protocol)
        for protocol in ("tcp", "udp")
    ]
