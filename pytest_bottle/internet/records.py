"""What the lab writes down, in the shape that both ends of a control connection share.

Rows travel as JSON lists in field order, so a field has one name and one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Heard(NamedTuple):
    """One packet, as it arrived at the far side.

    Attributes:
        seq: its place in the order of arrival, from 1 on.
        time_ns: CLOCK_MONOTONIC when the witness took it, one clock for the whole machine.
        family: 4 or 6; 0 for a frame that holds no readable IP packet.
        proto: the IP protocol number; for family 0 the Ethernet type.
        src: the source address; for family 0 the link-layer address.
        dst: the destination address; for family 0 the link-layer address.
        sport: the source port, where the protocol has ports.
        dport: the destination port, where the protocol has ports.
        flags: the TCP flags.
        icmp: the ICMP or ICMPv6 type.
        payload: the first 512 bytes behind the transport header.
        link: whether it is the link's own chatter (neighbour discovery, DHCP).
        sequence: the TCP sequence number (RFC 9293), else 0.
    """

    seq: int
    time_ns: int
    family: int
    proto: int
    src: str
    dst: str
    sport: int | None
    dport: int | None
    flags: int
    icmp: int | None
    payload: bytes
    link: bool
    sequence: int = 0

    def row(self) -> list[Any]:
        """The record as JSON can carry it."""
        return [*self[:10], self.payload.decode("latin-1"), *self[11:]]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Heard:
        """The record that ``row`` was made of."""
        return cls._make([*row[:10], row[10].encode("latin-1"), *row[11:]])


class Entry(NamedTuple):
    """One line of the origins' log: something that a client made them do.

    Attributes:
        n: its place in the log, from 1 on.
        kind: ``tcp`` (a connection), ``tls`` (a ClientHello), ``http`` or ``dns``.
        time_ns: CLOCK_MONOTONIC.
        client: the client's address.
        client_port: the client's port.
        server: the address that was asked.
        port: the port that was asked.
        scheme: ``http``, ``https``, ``tcp`` or ``udp``.
        name: the name in a DNS question or a ClientHello.
        qtype: the type of a DNS question.
        host: the Host header of an HTTP request.
        method: the method of an HTTP request.
        path: the target of an HTTP request.
        note: what was odd about it; empty when nothing was.
    """

    n: int
    kind: str
    time_ns: int
    client: str
    client_port: int
    server: str
    port: int
    scheme: str = ""
    name: str = ""
    qtype: int | None = None
    host: str = ""
    method: str = ""
    path: str = ""
    note: str = ""
