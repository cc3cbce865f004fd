"""The witness: it hears every packet that reaches the far side, and it alone can say that one did.

One thread, one loop: the packet socket is drained continuously, since a stock kernel keeps only
some 512 packets undrained. Frames are kept as they came and read only when somebody asks, so that
the loop stays faster than any sender on the same machine.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_bottle.internet._control import answer_one
from pytest_bottle.internet.frames import SNAP_BYTES, Packet, address_text, parse
from pytest_bottle.internet.records import Heard

if TYPE_CHECKING:
    from pytest_bottle._wire import Message

CAPACITY = 400_000
#: A page is small, so that answering one never keeps the loop from draining for long.
PAGE = 512
_STORE_BYTES = 128 << 20
_BURST = 4096
_BUFFER_BYTES = 64 << 20

# packet(7), socket(7): names that Python's socket module does not have.
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_IGNORE_OUTGOING = 23
_PACKET_OUTGOING = 4
_SO_RCVBUFFORCE = 33
# The kernel charges a queued packet with at least this much of the buffer (sizeof struct sk_buff).
_LEAST_CHARGE = 232


def open_packet_socket() -> socket.socket:
    """Open the ear: every protocol on every interface of this network namespace (packet(7)).

    Raises:
        PermissionError: CAP_NET_RAW is missing in the namespace's user namespace.
    """
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    try:
        _widen(ear)
        _ignore_outgoing(ear)
    except OSError:
        ear.close()
        raise
    return ear


def serve(control: socket.socket, packets: socket.socket) -> None:
    """Record what arrives at ``packets`` and answer ``control`` until that is closed.

    Requests: ``ping``, ``mark`` and ``heard`` (``since``, ``dsts``, ``limit``).
    """
    recorder = Recorder(packets)
    with selectors.DefaultSelector() as selector:
        selector.register(packets, selectors.EVENT_READ)
        selector.register(control, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if packets in ready:
                recorder.drain(_BURST)
            if control in ready and not answer_one(control, recorder.handle):
                return


class Recorder:
    """The packets heard so far, oldest first; beyond ``capacity`` the oldest are forgotten.

    What was forgotten counts as lost only for a question that reaches back to it: a long session
    must not make the witness deaf for good.
    """

    def __init__(
        self, ear: socket.socket, capacity: int = CAPACITY, store_bytes: int = _STORE_BYTES
    ) -> None:
        ear.settimeout(0)
        self._ear = ear
        self._capacity = capacity
        self._store_bytes = store_bytes
        self._frames: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._forgotten = 0
        self._dropped = 0
        # Every packet that fits into the buffer, hence every one that is queued right now.
        buffer = ear.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._queue_limit = buffer // _LEAST_CHARGE + 1

    @property
    def last(self) -> int:
        """The number of the newest packet."""
        return self._forgotten + len(self._frames)

    def drain(self, limit: int) -> None:
        """Take up to ``limit`` packets from the kernel's queue."""
        receive, keep, clock = self._ear.recvfrom, self._frames.append, time.monotonic_ns
        size = 0
        # EAGAIN: the queue is empty; ENETDOWN: a link went away, and reading that clears it.
        with suppress(OSError):
            for _ in range(limit):
                frame, sender = receive(SNAP_BYTES)
                if sender[2] != _PACKET_OUTGOING:
                    keep((clock(), frame))
                    size += len(frame)
        self._bytes += size
        self._trim()

    def handle(self, request: Message) -> Message:
        """Answer one request of the control connection."""
        self.drain(self._queue_limit)  # whatever came before the question is in the answer
        op = request["op"]
        if op == "ping":
            return {"ok": True}
        if op == "mark":
            return self._now(self.drops())
        if op == "heard":
            dsts = request.get("dsts")
            wanted = None if dsts is None else frozenset(map(_packed, dsts))
            return self.heard(int(request["since"]), wanted, request.get("limit"))
        raise ValueError(f"unknown request {request['op']!r}")

    def heard(self, since: int, wanted: frozenset[bytes] | None, limit: int | None) -> Message:
        """One page of what came after packet number ``since``, to the ``wanted`` addresses.

        ``next`` is the number of the last packet that was looked at: ask again from there until
        it reaches ``seq``. ``missed`` packets of the window were heard and forgotten again.
        """
        first = max(since, self._forgotten)
        rows: list[object] = []
        following = first
        for time_ns, frame in self._window(first):
            if limit is not None and len(rows) >= limit:
                break
            following += 1
            packet = parse(frame)
            if packet and (wanted is None or packet.dst in wanted):
                rows.append(_record(following, time_ns, packet).row())
        missed = max(0, self._forgotten - since)
        return {"records": rows, "next": following, "missed": missed, **self._now(self.drops())}

    def drops(self) -> int:
        """How many packets the kernel could not queue, since the beginning."""
        # Reading resets the kernel's counters (packet(7), PACKET_STATISTICS).
        raw = self._ear.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._dropped += struct.unpack("II", raw)[1]
        return self._dropped

    def _window(self, first: int) -> list[tuple[int, bytes]]:
        start = first - self._forgotten
        return self._frames[start : start + PAGE]

    def _now(self, drops: int) -> Message:
        return {"seq": self.last, "time_ns": time.monotonic_ns(), "drops": drops}

    def _trim(self) -> None:
        while len(self._frames) > self._capacity or self._bytes > self._store_bytes:
            # An eighth at a time: moving the rest up for each single packet would be quadratic.
            count = max(len(self._frames) - self._capacity, len(self._frames) // 8, 1)
            self._bytes -= sum(len(frame) for _, frame in self._frames[:count])
            del self._frames[:count]
            self._forgotten += count


def _record(seq: int, time_ns: int, packet: Packet) -> Heard:
    src, dst = address_text(packet.src), address_text(packet.dst)
    return Heard(seq, time_ns, packet.family, packet.proto, src, dst, *packet[4:])


def _packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


def _widen(ear: socket.socket) -> None:
    try:
        ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:  # outside the first user namespace net.core.rmem_max is the limit
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)


def _ignore_outgoing(ear: socket.socket) -> None:
    with suppress(OSError):  # before Linux 4.20; the recorder leaves them out as well
        ear.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
