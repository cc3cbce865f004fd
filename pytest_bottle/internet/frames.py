"""Read Ethernet frames: enough of each layer to tell who sent what where.

Garbage is an answer too: a frame that cannot be read is reported with what could be read of it,
never dropped, since a witness that overlooks odd packets is deaf to exactly the leaks that count.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

PAYLOAD_BYTES = 512
#: Long enough for VLAN tags, an IPv6 header with extensions or IPv4 options, TCP options, payload.
SNAP_BYTES = 14 + 8 + 40 + 128 + 60 + PAYLOAD_BYTES

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
_PORT_HEADERS = {TCP: 20, UDP: 8, 33: 12, 132: 12, 136: 8}  # also DCCP, SCTP, UDP-Lite
# RFC 8200 section 4 and the IANA registry of IPv6 extension header types.
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140})
_LINK_LOCAL_GROUP = bytes.fromhex("0180c20000")  # IEEE 802.1D: never forwarded by a bridge
_PORTS = struct.Struct("!HH")
_SHORT = struct.Struct("!H")
_LONG = struct.Struct("!I")


class Packet(NamedTuple):
    """One packet in its network form: addresses as bytes, everything else as a number."""

    family: int
    proto: int
    src: bytes
    dst: bytes
    sport: int | None = None
    dport: int | None = None
    flags: int = 0
    icmp: int | None = None
    payload: bytes = b""
    link: bool = False
    sequence: int = 0


class _Network(NamedTuple):
    family: int
    proto: int
    src: bytes
    dst: bytes


class _Upper(NamedTuple):
    payload: int  # where it begins
    sport: int | None = None
    dport: int | None = None
    flags: int = 0
    icmp: int | None = None
    sequence: int = 0


def parse(frame: bytes) -> Packet | None:
    """Read one Ethernet frame; None for ARP and for less than an Ethernet header."""
    if len(frame) < 14:
        return None
    kind, offset = _ethertype(frame)
    if kind == ARP:
        return None
    packet = None
    if kind == IPV4:
        packet = _ipv4(frame, offset)
    elif kind == IPV6:
        packet = _ipv6(frame, offset)
    return packet or _unreadable(frame, kind, offset)


def address_text(packed: bytes) -> str:
    """Write an IPv4, IPv6 or link-layer address as people do."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    if len(packed) == 16:
        return inet_ntop(AF_INET6, packed)
    return packed.hex(":")


def _ethertype(frame: bytes) -> tuple[int, int]:
    offset = 12
    (kind,) = _SHORT.unpack_from(frame, offset)
    while kind in _VLAN_TAGS and len(frame) >= offset + 6:
        offset += 4
        (kind,) = _SHORT.unpack_from(frame, offset)
    return kind, offset + 2


def _unreadable(frame: bytes, kind: int, offset: int) -> Packet:
    # Below 0x600 the field is a length (IEEE 802.3): to this group, bridges' spanning tree.
    link = kind < 0x600 and frame.startswith(_LINK_LOCAL_GROUP)
    payload = frame[offset : offset + PAYLOAD_BYTES]
    return Packet(0, kind, frame[6:12], frame[:6], payload=payload, link=link)


def _ipv4(frame: bytes, start: int) -> Packet | None:
    if len(frame) < start + 20 or frame[start] >> 4 != 4:
        return None
    header = (frame[start] & 15) * 4
    if header < 20 or len(frame) < start + header:
        return None
    (total,) = _SHORT.unpack_from(frame, start + 2)
    # Offloaded segments beyond 64 KiB carry a total length of 0.
    end = min(len(frame), start + total) if total >= header else len(frame)
    (fragment,) = _SHORT.unpack_from(frame, start + 6)
    src, dst = frame[start + 12 : start + 16], frame[start + 16 : start + 20]
    return _packet(
        _Network(4, frame[start + 9], src, dst), frame, start + header, end, not fragment & 0x1FFF
    )


def _ipv6(frame: bytes, start: int) -> Packet | None:
    if len(frame) < start + 40 or frame[start] >> 4 != 6:
        return None
    (length,) = _SHORT.unpack_from(frame, start + 4)
    offset = start + 40
    # A jumbogram, or an offloaded segment beyond 64 KiB, carries a payload length of 0.
    end = min(len(frame), offset + length) if length else len(frame)
    src, dst = frame[start + 8 : start + 24], frame[start + 24 : start + 40]
    proto, offset, has_header = _skip_extensions(frame, frame[start + 6], offset, end)
    return _packet(_Network(6, proto, src, dst), frame, offset, end, has_header)


def _skip_extensions(frame: bytes, proto: int, offset: int, end: int) -> tuple[int, int, bool]:
    """The upper protocol, where it begins, and whether its header is in this packet."""
    while proto in _EXTENSIONS:
        if end < offset + 8:
            return proto, offset, False
        following, size = frame[offset], (frame[offset + 1] + 1) * 8
        if proto == _AUTHENTICATION:
            size = (frame[offset + 1] + 2) * 4
        elif proto == _FRAGMENT:
            size = 8
            if _SHORT.unpack_from(frame, offset + 2)[0] & 0xFFF8:
                return following, offset + size, False
        proto, offset = following, offset + size
    return proto, offset, True


def _packet(network: _Network, frame: bytes, start: int, end: int, has_header: bool) -> Packet:
    upper = _upper(network.proto, frame, start, end) if has_header else _Upper(start)
    payload = frame[upper.payload : min(end, upper.payload + PAYLOAD_BYTES)]
    link = _is_link_chatter(network, upper)
    return Packet(
        *(*network, upper.sport, upper.dport, upper.flags, upper.icmp),
        *(payload, link, upper.sequence),
    )


def _upper(proto: int, frame: bytes, start: int, end: int) -> _Upper:
    size = end - start
    if proto in _PORT_HEADERS and size >= 4:
        sport, dport = _PORTS.unpack_from(frame, start)
        if proto == TCP and size >= 14:
            header = max(20, (frame[start + 12] >> 4) * 4)
            (sequence,) = _LONG.unpack_from(frame, start + 4)
            return _Upper(start + header, sport, dport, frame[start + 13], None, sequence)
        return _Upper(start + _PORT_HEADERS[proto], sport, dport)
    if proto in (ICMP, ICMPV6) and size >= 1:
        return _Upper(start + 8, icmp=frame[start])
    return _Upper(start)


def _is_link_chatter(network: _Network, upper: _Upper) -> bool:
    if network.proto == ICMPV6:
        # MLD and neighbour discovery: RFC 2710 (130-132), RFC 4861 (133-137), RFC 3810 (143).
        return upper.icmp is not None and 130 <= upper.icmp <= 143 and _stays_on_link(network)
    if network.proto == UDP:
        return _is_dhcp(network, upper)
    return False


def _stays_on_link(network: _Network) -> bool:
    to_link = network.dst[:2] == b"\xff\x02" or _is_link_local(network.dst)
    return to_link or _is_link_local(network.src)


def _is_link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80  # fe80::/10, RFC 4291


def _is_dhcp(network: _Network, upper: _Upper) -> bool:
    ports = (upper.sport, upper.dport)
    if network.family == 4:  # RFC 2131 section 4.1: before it has an address, a client broadcasts
        return ports == (68, 67) and network.dst == b"\xff\xff\xff\xff"
    return ports == (546, 547) and network.dst[:2] == b"\xff\x02"  # RFC 8415 section 7.1
