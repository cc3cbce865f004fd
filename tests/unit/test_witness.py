"""The witness: reading frames, keeping a bounded store, answering its control connection."""

from __future__ import annotations

import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle import _wire
from pytest_bottle.errors import TransportError
from pytest_bottle.internet import witness
from pytest_bottle.internet.frames import PAYLOAD_BYTES, Packet, parse
from pytest_bottle.internet.lab import WitnessClient
from pytest_bottle.internet.records import Heard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST, OUTGOING = 0, 4
MACS = bytes.fromhex("020000000002") + bytes.fromhex("020000000001")
SRC, DST = "198.51.100.2", "192.88.99.33"
SRC6, DST6 = "2001:db8::2", "2620:4f:8000::21"
LINK_LOCAL, ALL_ROUTERS = "fe80::1", "ff02::2"
TCP_SYN = struct.pack("!HHIIBBHHH", 40000, 443, 1, 0, 5 << 4, 0x02, 1024, 0, 0)
NONCE = b"nonce-0123456789"


def ethernet(kind: int, body: bytes) -> bytes:
    """Put a packet into a frame."""
    return MACS + struct.pack("!H", kind) + body


def ipv4(
    proto: int,
    body: bytes,
    *,
    dst: str = DST,
    src: str = SRC,
    options: bytes = b"",
    fragment: int = 0,
) -> bytes:
    """A frame with an IPv4 packet."""
    words, total = 5 + len(options) // 4, 20 + len(options) + len(body)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, total, 1, fragment, 64, proto, 0)
    addresses = socket.inet_aton(src) + socket.inet_aton(dst)
    return ethernet(0x0800, head + addresses + options + body)


def ipv6(following: int, body: bytes, *, dst: str = DST6, src: str = SRC6) -> bytes:
    """A frame with an IPv6 packet."""
    head = struct.pack("!IHBB", 6 << 28, len(body), following, 64)
    addresses = socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst)
    return ethernet(0x86DD, head + addresses + body)


def udp(payload: bytes, sport: int = 40001, dport: int = 53) -> bytes:
    """A UDP datagram."""
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def read(frame: bytes) -> Packet:
    """Read a frame that holds something."""
    packet = parse(frame)
    assert packet is not None
    return packet


# -- frames ----------------------------------------------------------------------------


def test_a_bare_syn_is_read() -> None:
    """A SYN has no payload: its destination is all the evidence there is."""
    packet = read(ipv4(6, TCP_SYN))
    assert (packet.family, packet.proto) == (4, 6)
    assert (packet.src, packet.dst) == (socket.inet_aton(SRC), socket.inet_aton(DST))
    assert (packet.sport, packet.dport, packet.flags) == (40000, 443, 0x02)
    assert packet.payload == b""


def test_data_in_a_syn_is_read() -> None:
    """TCP Fast Open carries the agent's bytes in the first packet, behind options (NET-06)."""
    head = bytearray(TCP_SYN)
    head[12] = 7 << 4
    packet = read(ipv4(6, bytes(head) + bytes(8) + NONCE))
    assert packet.payload == NONCE


@pytest.mark.parametrize(
    ("frame", "family"), [(ipv4(17, udp(NONCE)), 4), (ipv6(17, udp(NONCE)), 6)]
)
def test_a_datagram_is_read_in_both_families(frame: bytes, family: int) -> None:
    """Ports and payload are where each family puts them."""
    packet = read(frame)
    assert (packet.family, packet.proto, packet.sport, packet.dport) == (family, 17, 40001, 53)
    assert packet.payload == NONCE


@pytest.mark.parametrize("tags", [1, 2])
def test_vlan_tags_are_looked_through(tags: int) -> None:
    """A tag in front does not hide a packet (IEEE 802.1Q, 802.1ad)."""
    plain = ipv4(17, udp(NONCE))
    frame = plain[:12] + b"\x81\x00\x00\x2a" * tags + plain[12:]
    assert read(frame) == read(plain)


def test_ipv4_options_are_skipped() -> None:
    """The header's own length counts, not the usual 20 bytes."""
    assert read(ipv4(17, udp(NONCE), options=bytes(8))) == read(ipv4(17, udp(NONCE)))


def test_ethernet_padding_is_no_payload() -> None:
    """A short frame is filled up to 60 bytes; the packet says where it ends."""
    assert read(ipv4(17, udp(b"x")) + bytes(20)).payload == b"x"


def test_a_later_ipv4_fragment_has_no_ports() -> None:
    """Its first bytes are data and must not be read as a header."""
    packet = read(ipv4(17, NONCE, fragment=100))
    assert (packet.proto, packet.sport, packet.dport, packet.payload) == (17, None, None, NONCE)


def test_a_first_ipv4_fragment_has_ports() -> None:
    """More fragments to come, but the header is here."""
    assert read(ipv4(17, udp(NONCE), fragment=0x2000)).dport == 53


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([(0, bytes(8))], id="hop-by-hop"),
        pytest.param([(60, b"\0\x01" + bytes(14))], id="destination-options"),
        pytest.param([(44, bytes(8))], id="first-fragment"),
        pytest.param([(51, b"\0\x04" + bytes(22))], id="authentication"),
        pytest.param([(0, bytes(8)), (43, bytes(8)), (44, bytes(8))], id="three"),
    ],
)
def test_ipv6_extension_headers_are_skipped(chain: list[tuple[int, bytes]]) -> None:
    """Extension headers do not hide the protocol behind them (RFC 8200 section 4)."""
    kinds = [kind for kind, _ in chain] + [17]
    headers = b"".join(
        bytes([following]) + header[1:]
        for (_, header), following in zip(chain, kinds[1:], strict=True)
    )
    packet = read(ipv6(kinds[0], headers + udp(NONCE)))
    assert (packet.proto, packet.dport, packet.payload) == (17, 53, NONCE)


def test_a_later_ipv6_fragment_has_no_ports() -> None:
    """Like that of IPv4."""
    packet = read(ipv6(44, bytes([17, 0, 0, 8, 0, 0, 0, 1]) + NONCE))
    assert (packet.proto, packet.sport, packet.payload) == (17, None, NONCE)


@pytest.mark.parametrize("proto", [2, 4, 41, 47, 50, 253])
def test_any_other_protocol_keeps_its_number_and_payload(proto: int) -> None:
    """A tunnel or an experiment is a way out like any other (NET-08)."""
    packet = read(ipv4(proto, NONCE))
    assert (packet.proto, packet.sport, packet.icmp, packet.payload) == (proto, None, None, NONCE)


def test_an_echo_request_has_its_type() -> None:
    """ICMP has no ports; its type tells a ping from an error."""
    packet = read(ipv4(1, b"\x08\0\0\0\0\x01\0\x01" + NONCE))
    assert (packet.icmp, packet.payload, packet.link) == (8, NONCE, False)


@pytest.mark.parametrize(
    ("frame", "link"),
    [
        pytest.param(ipv6(58, bytes([135]) + bytes(23), src=LINK_LOCAL), True, id="neighbour"),
        pytest.param(ipv6(58, bytes([133]) + bytes(7), dst=ALL_ROUTERS), True, id="router"),
        pytest.param(ipv6(58, bytes([143]) + bytes(7), dst="ff02::16"), True, id="mld"),
        pytest.param(ipv6(58, bytes([135]) + bytes(23)), False, id="neighbour-afar"),
        pytest.param(ipv6(58, bytes([128]) + bytes(7), src=LINK_LOCAL), False, id="ping"),
        pytest.param(
            ipv4(17, udp(b"", 68, 67), src="0.0.0.0", dst="255.255.255.255"), True, id="dhcp"
        ),
        pytest.param(ipv4(17, udp(b"", 68, 67)), False, id="dhcp-afar"),
        pytest.param(ipv6(17, udp(b"", 546, 547), dst="ff02::1:2"), True, id="dhcp6"),
        pytest.param(ipv6(17, udp(b"", 546, 547)), False, id="dhcp6-afar"),
    ],
)
def test_only_the_links_own_chatter_is_marked(frame: bytes, link: bool) -> None:
    """What stays on the link can be told apart; the same protocol sent further cannot hide so."""
    assert read(frame).link is link


def test_arp_is_ignored() -> None:
    """Asking for a neighbour's address is not traffic."""
    assert parse(ethernet(0x0806, bytes(28))) is None


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ethernet(0x88B5, NONCE), id="unknown-type"),
        pytest.param(ethernet(0x0800, NONCE), id="no-ipv4"),
        pytest.param(ethernet(0x86DD, NONCE), id="no-ipv6"),
    ],
)
def test_an_unreadable_frame_is_kept_with_its_payload(frame: bytes) -> None:
    """An odd frame is evidence: it is reported between link-layer addresses, not dropped."""
    packet = read(frame)
    assert (packet.family, packet.dst, packet.src) == (0, MACS[:6], MACS[6:])
    assert packet.payload == NONCE


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda kind, body: ethernet(kind, body),
        st.sampled_from([0x0800, 0x86DD, 0x8100, 0x88A8]),
        st.binary(max_size=1200)
        | st.builds(
            lambda first, rest: bytes([first]) + rest,
            st.sampled_from([0x45, 0x46, 0x4F, 0x60]),
            st.binary(min_size=19, max_size=200),
        ),
    )
)
def test_garbage_is_read_without_an_error(frame: bytes) -> None:
    """Whatever arrives: ARP and stumps are ignored, all else is one record of bounded size."""
    packet = parse(frame)
    if packet is None:
        assert len(frame) < 14 or b"\x08\x06" in frame
    else:
        assert len(packet.payload) <= PAYLOAD_BYTES
        assert packet.family in (0, 4, 6)


@given(st.binary(max_size=PAYLOAD_BYTES), st.booleans())
def test_a_record_survives_its_journey(payload: bytes, link: bool) -> None:
    """Any payload comes out of a JSON row as it went in."""
    record = Heard(1, 2, 4, 17, SRC, DST, 3, None, 0, None, payload, link)
    assert Heard.from_row(record.row()) == record


# -- the store, the loop and its client ----------------------------------------------------


class Ear(socket.socket):
    """A datagram socket that looks like a packet socket: the first byte is the packet's type."""

    kernel_drops = 0

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receive as packet(7) tells it."""
        data = self.recv(bufsize + 1, flags)
        return data[1:], ("eth0", 0x0800, data[0], 1, b"")

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        """Read and reset the counters, or any other option."""
        if level != 263:
            return super().getsockopt(level, option)
        counters = struct.pack("II", self.kernel_drops, self.kernel_drops)
        self.kernel_drops = 0
        return counters


class Wire:
    """The far side's cable."""

    def __init__(self) -> None:
        self._end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear = Ear(fileno=other.detach())

    def arrive(self, frame: bytes, kind: int = HOST) -> None:
        """Let a frame arrive."""
        self._end.send(bytes([kind]) + frame)

    def close(self) -> None:
        """Cut the cable."""
        self._end.close()
        self.ear.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A cable of one's own."""
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def start(wire: Wire) -> Iterator[Callable[[], WitnessClient]]:
    """Start a witness in a thread."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=witness.serve, args=(theirs, wire.ear))

    def begin() -> WitnessClient:
        thread.start()
        return WitnessClient(ours, timeout=30)

    yield begin
    ours.close()
    if thread.ident is not None:
        thread.join(30)
    theirs.close()
    assert not thread.is_alive(), "a witness ends when its control connection is closed"


def test_a_window_holds_what_arrived_after_its_mark(
    wire: Wire, start: Callable[[], WitnessClient]
) -> None:
    """What came before the mark belongs to another window."""
    client = start()
    wire.arrive(ipv4(17, udp(b"before")))
    mark = client.mark()
    wire.arrive(ipv4(17, udp(b"after")))
    hearing = client.heard(mark)
    assert [record.payload for record in hearing.records] == [b"after"]
    assert mark.seq == 1
    assert hearing.end.seq == 2
    assert not client.heard(hearing.end).records


def test_what_arrived_before_the_question_is_in_the_answer(
    wire: Wire, start: Callable[[], WitnessClient]
) -> None:
    """The kernel's queue is emptied first: packets may not be overtaken by the question."""
    for number in range(5):  # a UNIX socket queues ten
        wire.arrive(ipv4(17, udp(b"%d" % number)))
    client = start()
    assert len(client.heard(0).records) == 5


def test_destinations_select_records(wire: Wire, start: Callable[[], WitnessClient]) -> None:
    """The destination is the nonce; spelling it differently makes no difference."""
    client = start()
    wire.arrive(ipv4(6, TCP_SYN))
    wire.arrive(ipv4(6, TCP_SYN, dst="1.1.1.1"))
    wire.arrive(ipv6(6, TCP_SYN))
    dsts = ["1.1.1.1", "2620:4F:8000:0:0:0:0:21"]
    assert [record.dst for record in client.heard(0, dsts).records] == ["1.1.1.1", DST6]
    assert not client.heard(0, []).records


def test_a_large_window_comes_in_pages(wire: Wire, start: Callable[[], WitnessClient]) -> None:
    """The client puts the pages together again, in order and complete."""
    client = start()
    count = 3 * witness.PAGE + 7
    for number in range(count):
        wire.arrive(ipv4(17, udp(b"%d" % number)))
        if number % 8 == 0:
            client.ping()
    hearing = client.heard(client.mark().seq - count)
    assert [int(record.payload) for record in hearing.records] == list(range(count))


def test_a_limit_is_kept(wire: Wire, start: Callable[[], WitnessClient]) -> None:
    """No more records than asked for, and those are the first."""
    client = start()
    for number in range(5):
        wire.arrive(ipv4(17, udp(b"%d" % number)))
    assert [record.payload for record in client.heard(0, limit=2).records] == [b"0", b"1"]
    assert not client.heard(0, limit=0).records


def test_outgoing_packets_are_left_out(wire: Wire, start: Callable[[], WitnessClient]) -> None:
    """The lab's own packets, and the first sight of each packet on loopback, do not count."""
    client = start()
    wire.arrive(ipv4(17, udp(NONCE)), OUTGOING)
    wire.arrive(ipv4(17, udp(NONCE)), HOST)
    assert len(client.heard(0).records) == 1


def test_arp_takes_a_number_but_is_not_told(wire: Wire, start: Callable[[], WitnessClient]) -> None:
    """It is no evidence."""
    client = start()
    wire.arrive(ethernet(0x0806, bytes(28)))
    assert not client.heard(0).records


def test_packets_lost_in_the_kernel_are_counted(
    wire: Wire, start: Callable[[], WitnessClient]
) -> None:
    """A window in which the witness was deaf says so; the next one is whole again."""
    client = start()
    wire.ear.kernel_drops = 2
    mark = client.mark()
    wire.ear.kernel_drops = 3
    hearing = client.heard(mark)
    assert (mark.drops, hearing.drops, hearing.lost) == (2, 5, 3)
    assert client.heard(hearing.end).lost == 0
    assert client.heard(0).lost is None


def test_what_was_forgotten_is_lost_only_for_its_own_window(
    wire: Wire, start: Callable[[], WitnessClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One overflow must neither hide in a later window's count nor spoil it."""
    monkeypatch.setattr(witness.Recorder.__init__, "__defaults__", (4, 1 << 20))
    client = start()
    mark = client.mark()
    for _ in range(10):
        wire.arrive(ipv4(6, TCP_SYN))
        client.ping()
    full = client.heard(mark)
    assert full.lost == full.missed == 10 - len(full.records) > 0
    wire.arrive(ipv4(6, TCP_SYN))
    wire.ear.kernel_drops = 2
    following = client.heard(full.end)
    assert (len(following.records), following.missed, following.lost) == (1, 0, 2)


def test_the_store_is_bounded_by_number(wire: Wire) -> None:
    """The oldest records go first, and only a question that reaches back to them misses any."""
    recorder = witness.Recorder(wire.ear, capacity=8)
    for number in range(20):
        wire.arrive(ipv4(17, udp(b"%d" % number)))
        recorder.drain(1)
    late = recorder.heard(since=18, wanted=None, limit=None)
    assert (late["seq"], late["missed"], len(late["records"])) == (20, 0, 2)
    whole = recorder.heard(since=0, wanted=None, limit=None)
    assert len(whole["records"]) <= 8
    assert whole["missed"] == 20 - len(whole["records"])


def test_the_store_is_bounded_by_size(wire: Wire) -> None:
    """Large packets use up the room of many small ones."""
    recorder = witness.Recorder(wire.ear, store_bytes=4096)
    for _ in range(20):
        wire.arrive(ipv4(17, udp(bytes(500))))
        recorder.drain(1)
    whole = recorder.heard(since=0, wanted=None, limit=None)
    assert 0 < len(whole["records"]) <= 4096 // 500
    assert whole["missed"] == 20 - len(whole["records"])


@pytest.mark.parametrize(
    "request_",
    [{"op": "sing"}, {}, {"op": "heard"}, {"op": "heard", "since": 0, "dsts": ["nowhere"]}],
)
def test_a_bad_request_is_answered_and_survived(
    wire: Wire, request_: dict[str, Any], start: Callable[[], WitnessClient]
) -> None:
    """The witness says what it does not understand, and goes on."""
    client = start()
    with pytest.raises(TransportError, match="could not do what it was asked"):
        client._line.ask({"op": "", **request_})
    client.ping()


def test_threads_may_share_a_client(wire: Wire, start: Callable[[], WitnessClient]) -> None:
    """Each thread gets the answer to its own question."""
    client = start()
    dsts = [f"192.88.99.{number}" for number in range(1, 9)]
    for dst in dsts:
        wire.arrive(ipv4(6, TCP_SYN, dst=dst))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda dst: client.heard(0, [dst]).records, dsts * 5))
    assert [[record.dst for record in answer] for answer in answers] == [[dst] for dst in dsts * 5]


def test_a_silent_witness_is_an_error_and_stays_one() -> None:
    """A late answer must never be taken for that of the next question."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = WitnessClient(ours, timeout=0.02)
        with pytest.raises(TransportError, match="no answer to 'mark'"):
            client.mark()
        _wire.send(theirs, {"seq": 1, "time_ns": 1, "drops": 0})
        with pytest.raises(TransportError, match="no answer to 'mark'"):
            client.mark()


def test_a_dead_witness_is_an_error() -> None:
    """A closed connection is not silence on the network."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(TransportError, match="the connection is closed"):
            WitnessClient(ours).heard(0)
