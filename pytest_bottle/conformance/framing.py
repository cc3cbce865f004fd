"""Messages whose end two readers see in two places, and a reader for what was made of them.

Each form hides a request in what follows the head: a body to one reader, a request to another.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.internet.records import Heard

_CHUNKED = b"Transfer-Encoding: chunked"
_END = b"0\r\n\r\n"
_TCP, _SYN = 6, 0x02


def hidden(host: bytes, nonce: bytes) -> bytes:
    """The request that nobody may be made to see."""
    return b"GET http://%s/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (host, nonce, host)


def forms(host: bytes, secret: bytes) -> dict[str, bytes]:
    """Every form, as a POST to a host, with a request hidden in it."""
    size, none = b"Content-Length: %d" % len(secret), b"Content-Length: 0"
    behind = _END + secret
    both = b"Content-Length: %d" % len(behind)
    inside = b"%x\r\n%s\r\n%s" % (len(secret), secret, _END)
    line = b"Content-Length: %d" % len(b"%x\r\n" % len(secret))
    tricks: dict[str, tuple[tuple[bytes, ...], bytes]] = {
        "CL and TE": ((both, _CHUNKED), behind),
        "TE and CL": ((_CHUNKED, line), inside),
        "two CL, the first is less": ((none, size), secret),
        "two CL, the last is less": ((size, none), secret),
        "two CL, alike": ((size, size), secret),
        "CL as a list": ((b"Content-Length: %d, 0" % len(secret),), secret),
        "CL with a sign": ((b"Content-Length: +0",), secret),
        "TE in odd case": ((both, b"tRANSFER-eNCODING: ChUnKeD"), behind),
        "TE with a space before the colon": ((both, b"Transfer-Encoding : chunked"), behind),
        "TE behind a tab": ((both, b"Transfer-Encoding:\tchunked"), behind),
        "TE behind a vertical tab": ((both, b"Transfer-Encoding: \x0bchunked"), behind),
        "TE that is none": ((both, b"Transfer-Encoding: xchunked"), behind),
        "TE with identity": ((both, b"Transfer-Encoding: chunked, identity"), behind),
        "two TE": ((_CHUNKED, b"Transfer-Encoding: cow"), behind),
        "TE in a fold": ((both, b"X-Fold: a\r\n Transfer-Encoding: chunked"), behind),
        "CL in a fold": ((b"Content-Length:\r\n %d" % len(secret),), secret),
        "chunk extension ended by LF": ((_CHUNKED,), b"2;\nxx\r\n" + inside),
        "chunk size with 0x": ((_CHUNKED,), b"0x" + inside),
        "chunk size beyond 64 bits": ((_CHUNKED,), b"10000000000000000\r\n" + inside),
        "chunk without its end": ((_CHUNKED,), b"1\r\nxx" + behind),
        "LF in a header": ((none, b"X-A: b\n\n" + secret), b""),
        "NUL in a header": ((both, b"X-A: b\0c", _CHUNKED), behind),
        "NUL behind CL": ((b"Content-Length: 0\0",), secret),
        "100-continue with a body at once": ((size, b"Expect: 100-continue"), secret),
        "100-continue without a body": ((none, b"Expect: 100-continue"), secret),
    }
    head = b"POST http://%s/ HTTP/1.1\r\nHost: %s" % (host, host)
    made = {
        name: b"\r\n".join((head, *headers, b"", body)) for name, (headers, body) in tricks.items()
    }
    bare = b"\n".join((head.replace(b"\r", b""), both, _CHUNKED, b"", behind))
    return made | {"LF for CRLF": bare}


def streams(heard: Iterable[Heard]) -> list[bytes]:
    """Put together what came by each TCP connection, as far as the witness keeps it.

    By sequence numbers (RFC 9293): a segment that is sent again is no second request. One port may
    serve several connections, after each other or to several addresses.
    """
    begun: dict[tuple[object, ...], int] = {}
    segments: defaultdict[tuple[object, ...], list[tuple[int, bytes]]] = defaultdict(list)
    for record in heard:
        if record.proto != _TCP:
            continue
        ends = (record.src, record.sport, record.dst, record.dport)
        if record.flags & _SYN or ends not in begun:
            begun[ends] = record.sequence
        first = begun[ends]
        segments[*ends, first].append(((record.sequence - first) % 2**32, record.payload))
    return [stream for held in segments.values() if (stream := _joined(held))]


def _joined(segments: Iterable[tuple[int, bytes]]) -> bytes:
    """Join segments in order, each byte once; a gap is what the witness did not keep."""
    stream, end = b"", 0
    for start, payload in sorted(segments):
        stream += payload[max(0, end - start) :]
        end = max(end, start + len(payload))
    return stream


def ambiguity(stream: bytes, nonce: bytes) -> str:
    """Say what makes a forwarded message carry a hidden request; empty if a body holds it safely.

    The origin's own server may read it rightly: another one would not.
    """
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(stream)
    try:
        while (event := reader.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request) and nonce in event.target:
                return "the hidden request was forwarded as such"
            if isinstance(event, h11.EndOfMessage):
                break
    except h11.RemoteProtocolError as error:
        return f"what was forwarded cannot be read: {error}"
    head = stream.partition(b"\r\n\r\n")[0].lower()
    lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    if lengths and b"\r\ntransfer-encoding:" in head:
        return "both Content-Length and Transfer-Encoding were forwarded"
    if len(lengths) > 1:
        return "two Content-Length were forwarded"
    return "the hidden request follows the message" if nonce in reader.trailing_data[0] else ""
