"""TLS greetings, byte by byte: what a client says before anything is secret (RFC 8446)."""

from __future__ import annotations

import struct

#: Encrypted Client Hello (RFC 9849).
_ECH = 0xFE0D
#: The first byte of a record that holds a piece of a handshake, and the version it has.
_RECORD = b"\x16\3\1"


def client_hello(session: bytes, *extensions: bytes) -> bytes:
    """A TLS 1.2 greeting; ``session``, of 32 bytes at the most, stands in it for all to read."""
    listed = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"%c%s" % (len(session), session)
    body += b"\0\2\xc0\x2f\1\0" + struct.pack("!H", len(listed)) + listed
    handshake = b"\1" + struct.pack("!I", len(body))[1:] + body
    return _record(handshake)


def server_name(*names: bytes) -> bytes:
    """The extension that names the server; more than one name is against RFC 6066 section 3."""
    listed = b"".join(struct.pack("!BH", 0, len(name)) + name for name in names)
    return _extension(0, struct.pack("!H", len(listed)) + listed)


def encrypted() -> bytes:
    """The extension that hides another greeting, or looks as if it did."""
    outer = b"\0\0\1\0\1\7" + struct.pack("!H", 32) + bytes(32) + struct.pack("!H", 64)
    return _extension(_ECH, outer + bytes(64))


def in_two_records(greeting: bytes, at: int) -> bytes:
    """The same greeting in two records, the second of which begins at a byte of the first one's."""
    return _record(greeting[5:at]) + _record(greeting[at:])


def _record(handshake: bytes) -> bytes:
    return _RECORD + struct.pack("!H", len(handshake)) + handshake


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body
