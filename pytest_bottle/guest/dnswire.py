"""DNS messages, as little of them as a stub resolver and a test server need (RFC 1035).

Pure functions. Whatever comes in from outside is either understood or a ``ValueError``.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

A, CNAME, TXT, AAAA = 1, 5, 16, 28
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
#: The class of everything here (IN).
INTERNET = 1

_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_HEAD = struct.Struct("!6H")
_TYPE_CLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_MAX_NAME = 255  # RFC 1035 section 2.3.4
_MAX_LABEL = 63
#: No honest name needs as many pointers as it can have labels.
_MAX_POINTERS = 127
_TOKEN = re.compile(rb"\\([0-9]{3})|\\(.)|(.)", re.DOTALL)
_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b".\\")


class Query(NamedTuple):
    r"""The first question of a query, with what an answer has to repeat.

    ``name`` keeps its case and has no trailing dot; bytes that are no plain text in it are written
    as in a zone file (RFC 1035 section 5.1), ``\.`` and ``\000``. The root is the empty string.
    """

    id: int
    name: str
    qtype: int
    flags: int = _RD
    qclass: int = INTERNET

    @property
    def rd(self) -> bool:
        """Whether the client asks for recursion."""
        return bool(self.flags & _RD)


class Answer(NamedTuple):
    """What an answer says about its own question.

    ``addresses`` are of the type that was asked for, in the order of the message. They belong to
    the name that was asked for, or to an alias of it that this same answer names: records about
    anything else are not believed.
    """

    id: int
    rcode: int
    truncated: bool
    addresses: tuple[str, ...]
    name: str
    qtype: int
    qclass: int = INTERNET


class _Record(NamedTuple):
    owner: str
    rtype: int
    value: str


def build_query(name: str, qtype: int, ident: int) -> bytes:
    """Write a recursive query for one name.

    Raises:
        ValueError: the name or the number fits no message.
    """
    if not 0 <= ident <= 0xFFFF:
        raise ValueError(f"{ident} is no message id")
    return _HEAD.pack(ident, _RD, 1, 0, 0, 0) + _question(name, qtype, INTERNET)


def parse_query(data: bytes) -> Query:
    """Read a query; of several questions the first counts.

    Raises:
        ValueError: the message is no query.
    """
    ident, flags, questions, _, _, _ = _head(data)
    if flags & (_QR | _OPCODE) or not questions:
        raise ValueError("this message asks nothing")
    name, qtype, qclass, _ = _read_question(data)
    return Query(ident, name, qtype, flags, qclass)


def build_answer(
    query: Query,
    addresses: Sequence[str] = (),
    *,
    rcode: int = NOERROR,
    authoritative: bool = True,
    recursion_available: bool = True,
    truncated: bool = False,
    ttl: int = 5,
    aliases: Sequence[str] = (),
    texts: Sequence[bytes] = (),
) -> bytes:
    """Write the answer to a query.

    Args:
        query: the query; its id and question are repeated.
        addresses: IPv4 and IPv6 addresses; only those of the type that was asked for are sent.
        rcode: the response code.
        authoritative: sets AA.
        recursion_available: sets RA.
        truncated: sets TC and leaves all records out, so that the client comes back over TCP.
        ttl: seconds, of every record.
        aliases: a chain of canonical names; the addresses belong to its last one.
        texts: strings of one TXT record, when that is the type that was asked for.
    """
    flags = _QR | (query.flags & (_OPCODE | _RD)) | (rcode & 0x0F)
    flags |= _AA * authoritative | _RA * recursion_available | _TC * truncated
    records = [] if truncated else _records(query, addresses, ttl, aliases, texts)
    head = _HEAD.pack(query.id, flags, 1, len(records), 0, 0)
    return head + _question(query.name, query.qtype, query.qclass) + b"".join(records)


def parse_answer(data: bytes) -> Answer:
    """Read an answer. A truncated or unsuccessful one has no addresses.

    Raises:
        ValueError: the message is no answer to one question.
    """
    ident, flags, questions, count, _, _ = _head(data)
    if not flags & _QR or questions != 1:
        raise ValueError("this message answers nothing")
    name, qtype, qclass, offset = _read_question(data)
    rcode, truncated = flags & 0x0F, bool(flags & _TC)
    records = [] if rcode or truncated else _read_records(data, offset, count)
    return Answer(ident, rcode, truncated, _follow(name, qtype, records), name, qtype, qclass)


def encode_name(name: str) -> bytes:
    """Write a name as labels, without compression.

    Raises:
        ValueError: a label is empty or too long, or the whole name is.
    """
    labels = [] if name == "." else _labels(name)
    if any(not 1 <= len(label) <= _MAX_LABEL for label in labels):
        raise ValueError(f"{name!r} has an empty or an overlong label")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > _MAX_NAME:
        raise ValueError(f"{name!r} is longer than {_MAX_NAME} bytes")
    return wire


def decode_name(data: bytes, offset: int) -> tuple[str, int]:
    """Read the name at an offset of a message, and where the message goes on after it.

    A pointer has to lead strictly backwards, so that no message can make a reader go in circles.

    Raises:
        ValueError: the name is cut, too long, or its pointers lead nowhere.
    """
    labels: list[str] = []
    after, start, size, pointers = -1, offset, 1, 0
    while True:
        length = _take(data, offset, 1)[0]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | _take(data, offset + 1, 1)[0]
            after = offset + 2 if after < 0 else after
            pointers += 1
            if target >= start or pointers > _MAX_POINTERS:
                raise ValueError("a compression pointer does not lead backwards")
            start = offset = target
        elif length > _MAX_LABEL:
            raise ValueError("a label has no known type")
        elif length == 0:
            return ".".join(labels), offset + 1 if after < 0 else after
        else:
            size += 1 + length
            if size > _MAX_NAME:
                raise ValueError(f"a name is longer than {_MAX_NAME} bytes")
            labels.append(_escaped(_take(data, offset + 1, length)))
            offset += 1 + length


def _take(data: bytes, offset: int, size: int) -> bytes:
    part = data[offset : offset + size]
    if len(part) < size:
        raise ValueError("the message is cut")
    return part


def _head(data: bytes) -> tuple[int, ...]:
    return _HEAD.unpack(_take(data, 0, _HEAD.size))


def _question(name: str, qtype: int, qclass: int) -> bytes:
    return encode_name(name) + _TYPE_CLASS.pack(qtype, qclass)


def _read_question(data: bytes) -> tuple[str, int, int, int]:
    name, offset = decode_name(data, _HEAD.size)
    qtype, qclass = _TYPE_CLASS.unpack(_take(data, offset, _TYPE_CLASS.size))
    return name, qtype, qclass, offset + _TYPE_CLASS.size


def _labels(name: str) -> list[bytes]:
    labels = [bytearray()]
    for code, quoted, plain in _TOKEN.findall(name.encode("ascii")):
        if plain == b".":
            labels.append(bytearray())
        elif plain == b"\\":
            raise ValueError(f"{name!r} ends in the middle of an escape")
        else:
            # bytes([256]) is a ValueError of its own.
            labels[-1] += bytes([int(code)]) if code else quoted or plain
    if not labels[-1]:  # the root, or the one trailing dot of a full name
        labels.pop()
    return [bytes(label) for label in labels]


def _escaped(label: bytes) -> str:
    return "".join(
        chr(byte) if byte in _PLAIN else f"\\{chr(byte)}" if byte in b".\\" else f"\\{byte:03d}"
        for byte in label
    )


def _records(
    query: Query, addresses: Sequence[str], ttl: int, aliases: Sequence[str], texts: Sequence[bytes]
) -> list[bytes]:
    owners = [query.name, *aliases]
    records = [
        _record(owner, CNAME, encode_name(alias), ttl)
        for owner, alias in zip(owners, aliases)  # noqa: B905 - strict= needs Python 3.10
    ]
    values = [_packed(address) for address in addresses]
    records += [
        _record(owners[-1], rtype, value, ttl) for rtype, value in values if rtype == query.qtype
    ]
    if texts and query.qtype == TXT:
        value = b"".join(bytes([len(text)]) + text for text in texts)
        records.append(_record(owners[-1], TXT, value, ttl))
    return records


def _packed(address: str) -> tuple[int, bytes]:
    parsed = ipaddress.ip_address(address)
    return (A if parsed.version == 4 else AAAA), parsed.packed


def _record(owner: str, rtype: int, value: bytes, ttl: int) -> bytes:
    return encode_name(owner) + _RECORD.pack(rtype, INTERNET, ttl, len(value)) + value


def _read_records(data: bytes, offset: int, count: int) -> list[_Record]:
    records = []
    for _ in range(count):
        owner, offset = decode_name(data, offset)
        rtype, rclass, _, length = _RECORD.unpack(_take(data, offset, _RECORD.size))
        offset += _RECORD.size
        value = _take(data, offset, length)
        if rclass == INTERNET and rtype in (A, AAAA):
            records.append(_Record(owner.lower(), rtype, _address(rtype, value)))
        elif rclass == INTERNET and rtype == CNAME:
            alias, end = decode_name(data, offset)
            if end != offset + length:
                raise ValueError("an alias does not fill its record")
            records.append(_Record(owner.lower(), rtype, alias.lower()))
        offset += length
    return records


def _address(rtype: int, value: bytes) -> str:
    if len(value) != (4 if rtype == A else 16):
        raise ValueError("an address has the wrong size")
    return str(ipaddress.ip_address(value))


def _follow(name: str, qtype: int, records: Sequence[_Record]) -> tuple[str, ...]:
    owner, seen = name.lower(), set()
    while owner not in seen:
        seen.add(owner)
        own = [record for record in records if record.owner == owner]
        found = [record.value for record in own if record.rtype == qtype and qtype != CNAME]
        if found:
            return tuple(dict.fromkeys(found))
        owner = next((record.value for record in own if record.rtype == CNAME), owner)
    return ()
