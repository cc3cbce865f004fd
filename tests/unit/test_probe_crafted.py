"""The probe's odd packets, read by the witness's own reader and by the standards' offsets."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pytest_bottle.guest.probe.crafted import _packets
from pytest_bottle.guest.probe.direct import checksum
from pytest_bottle.internet.frames import Packet, parse

NONCE, SOURCE, FAR, HOP = "0123456789abcdef" * 2, "10.86.1.3", "192.175.48.7", "10.86.1.1"


def made(protocol: str, **more: Any) -> list[bytes]:
    """The packets of an order."""
    order = {"host": FAR, "protocol": protocol, "port": 443, "nonce": NONCE, "via": HOP, **more}
    return _packets(order, SOURCE)


def read(packet: bytes) -> Packet:
    """A packet as the witness reads it, in a frame."""
    found = parse(bytes(12) + b"\x08\0" + packet)
    assert found is not None
    return found


@pytest.mark.parametrize("trick", ["", "tiny", "overlap", "source-route", "short-lived"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_every_header_is_whole(protocol: str, trick: str) -> None:
    """Its checksum is right, and its length is that of the packet (RFC 791)."""
    for packet in made(protocol, trick=trick):
        words = packet[0] & 15
        assert checksum(packet[: words * 4]) == 0
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)


@pytest.mark.parametrize(("trick", "first"), [("tiny", 8), ("overlap", 16)])
def test_fragments_add_up_to_the_packet(trick: str, first: int) -> None:
    """The first has so many bytes and says that more follow; the second one begins at 8."""
    (whole,), (one, other) = made("udp"), made("udp", trick=trick)

    assert (len(one) - 20, one[6] & 0x20, other[6] & 0x20) == (first, 0x20, 0)
    assert struct.unpack_from("!H", other, 6)[0] == 1
    assert one[20:28] + other[20:] == whole[20:]
    assert read(one).dport == 443
    assert NONCE.encode() in read(other).payload


def test_a_fast_opening_has_the_nonce_in_cookie_and_data() -> None:
    """It is a SYN with option 34 (RFC 7413) and 32 bytes of data, and its checksum is right."""
    (packet,) = made("tcp", trick="fast-open", source=2000)
    seen, segment = read(packet), packet[20:]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, 6, len(segment))

    assert (seen.flags, seen.sport, seen.dport, seen.payload) == (2, 2000, 443, NONCE.encode())
    assert segment[22:32] == bytes((34, 10)) + NONCE[:8].encode()
    assert checksum(pseudo + segment) == 0


def test_a_source_route_goes_by_the_next_hop() -> None:
    """That is the destination, and the far side stands in the option (RFC 791, 3.1)."""
    (packet,) = made("udp", trick="source-route")

    assert packet[16:20] == bytes((10, 86, 1, 1))
    assert packet[20:28] == bytes((131, 7, 4, 192, 175, 48, 7, 0))


@pytest.mark.parametrize("number", ["2", "4", "41", "47", "50", "132", "253"])
def test_any_protocol_carries_the_nonce(number: str) -> None:
    """The witness finds it behind whatever header it takes the first bytes for."""
    (packet,) = made(number)
    seen = read(packet)

    assert seen.proto == int(number)
    assert NONCE.encode() in seen.payload


def test_a_short_life_is_two_hops() -> None:
    """One router passes it on."""
    (packet,) = made("tcp", trick="short-lived")

    assert packet[8] == 2
