"""The DNS codec, with dnspython as the second opinion."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.guest import dnswire
from pytest_bottle.guest.dnswire import (
    AAAA,
    CNAME,
    NXDOMAIN,
    REFUSED,
    TXT,
    A,
    Query,
    build_answer,
    build_query,
    decode_name,
    encode_name,
    parse_answer,
    parse_query,
)

QUERY = Query(7, "allowed.test", A)

labels = st.lists(st.binary(min_size=1, max_size=63), min_size=1, max_size=8).filter(
    lambda parts: sum(len(part) + 1 for part in parts) < 255
)


def written_by_dnspython(*records: tuple[str, str, str], question: str = "allowed.test") -> bytes:
    """An answer with the given (owner, type, value), compressed as dnspython does it."""
    message = dns.message.make_response(dns.message.make_query(question, "A", id=7))
    message.answer = [
        dns.rrset.from_text(f"{owner}.", 5, "IN", rtype, value) for owner, rtype, value in records
    ]
    return message.to_wire()


def test_a_query_is_what_dnspython_reads() -> None:
    """A query that we write is a recursive one-question query to others."""
    message = dns.message.from_wire(build_query("Allowed.test", AAAA, 4711))
    assert message.id == 4711
    assert message.flags == dns.flags.RD
    assert str(message.question[0]) == "Allowed.test. IN AAAA"


def test_a_query_of_dnspython_is_read() -> None:
    """A query that others write, with EDNS too, is read with its id, name, type and flags."""
    wire = dns.message.make_query("x.Denied.test", "TXT", id=9, use_edns=0).to_wire()
    query = parse_query(wire)
    assert query[:3] == (9, "x.Denied.test", TXT)
    assert query.rd


@pytest.mark.parametrize("ident", [-1, 65536])
def test_an_impossible_id_is_refused(ident: int) -> None:
    """A message id has 16 bits."""
    with pytest.raises(ValueError):
        build_query("allowed.test", A, ident)


def test_only_addresses_of_the_asked_type_are_sent() -> None:
    """An A answer has no AAAA records, and the other way round."""
    both = ["192.88.99.1", "2620:4f:8000::1"]
    assert parse_answer(build_answer(QUERY, both)).addresses == ("192.88.99.1",)
    assert parse_answer(build_answer(QUERY._replace(qtype=AAAA), both)).addresses == (both[1],)
    assert not dns.message.from_wire(build_answer(QUERY._replace(qtype=TXT), both)).answer


def test_an_answer_is_what_dnspython_reads() -> None:
    """Id, question, flags, time to live and records reach another implementation."""
    query = parse_query(build_query("aLLowed.test", A, 5))
    message = dns.message.from_wire(build_answer(query, ["192.88.99.1", "192.88.99.2"], ttl=9))
    assert message.id == 5
    assert str(message.question[0]) == "aLLowed.test. IN A"
    flags = dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert message.flags == flags
    assert sorted(map(str, message.answer[0])) == ["192.88.99.1", "192.88.99.2"]
    assert message.answer[0].ttl == 9


def test_flags_and_code_of_an_answer() -> None:
    """The response code, AA, RA and TC are what was asked for; a truncated answer is empty."""
    wire = build_answer(
        QUERY,
        ["192.88.99.1"],
        rcode=REFUSED,
        authoritative=False,
        recursion_available=False,
        truncated=True,
    )
    message = dns.message.from_wire(wire)
    assert (message.rcode(), message.flags) == (
        REFUSED,
        dns.flags.QR | dns.flags.RD | dns.flags.TC | REFUSED,
    )
    assert not message.answer
    assert parse_answer(wire)[:4] == (7, REFUSED, True, ())


def test_texts_are_sent_to_who_asks_for_them() -> None:
    """A TXT answer has one record of all its strings."""
    wire = build_answer(QUERY._replace(qtype=TXT), texts=[b"one", b"two"])
    assert str(dns.message.from_wire(wire).answer[0][0]) == '"one" "two"'


def test_aliases_lead_to_the_addresses() -> None:
    """A chain of aliases is written, read by dnspython and followed by us."""
    wire = build_answer(QUERY, ["192.88.99.1"], aliases=["b.test", "c.test"])
    text = [str(rrset) for rrset in dns.message.from_wire(wire).answer]
    assert text == [
        "allowed.test. 5 IN CNAME b.test.",
        "b.test. 5 IN CNAME c.test.",
        "c.test. 5 IN A 192.88.99.1",
    ]
    assert parse_answer(wire).addresses == ("192.88.99.1",)


def test_a_compressed_answer_of_dnspython_is_read() -> None:
    """Compression pointers in owners and in alias values are followed, and case is ignored."""
    wire = written_by_dnspython(
        ("ALLOWED.test", "CNAME", "www.allowed.test."), ("WWW.allowed.TEST", "A", "192.88.99.1")
    )
    assert b"\xc0" in wire
    assert parse_answer(wire).addresses == ("192.88.99.1",)


def test_records_of_other_names_are_not_believed() -> None:
    """Addresses belong to the name that was asked for or to its aliases, else to nobody."""
    wire = written_by_dnspython(("other.test", "A", "192.88.99.1"))
    assert parse_answer(wire).addresses == ()


def test_circular_aliases_end() -> None:
    """Aliases that lead in a circle give no address."""
    wire = written_by_dnspython(
        ("allowed.test", "CNAME", "b.test."), ("b.test", "CNAME", "allowed.test.")
    )
    assert parse_answer(wire).addresses == ()


def test_an_unsuccessful_answer_has_no_addresses() -> None:
    """Records beside an error code count for nothing."""
    wire = bytearray(build_answer(QUERY, ["192.88.99.1"]))
    wire[3] |= NXDOMAIN
    assert parse_answer(bytes(wire))[1:4] == (NXDOMAIN, False, ())


@given(labels)
def test_names_are_those_of_dnspython(parts: list[bytes]) -> None:
    """Any labels survive the way to text and back, and dnspython agrees on both."""
    theirs = dns.name.Name([*parts, b""])
    wire = theirs.to_wire() or b""
    ours, end = decode_name(wire, 0)
    assert encode_name(ours) == wire
    assert end == len(wire)
    assert dns.name.from_text(ours) == theirs


@pytest.mark.parametrize(
    "name", ["a..b", ".a", "a" * 64, ".".join(["a" * 49] * 6), "ä.test", "a\\", "\\256", "a.test.."]
)
def test_an_impossible_name_is_refused(name: str) -> None:
    """Empty and overlong labels, overlong names and broken escapes cannot be written."""
    with pytest.raises(ValueError):
        encode_name(name)


def test_the_root_has_no_labels() -> None:
    """The root is the empty text; one trailing dot makes no difference to a name."""
    assert decode_name(b"\0", 0) == ("", 1)
    assert encode_name("") == encode_name(".") == b"\0"
    assert encode_name("a.test.") == encode_name("a.test")


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x00",  # at itself
        b"\xc0\x02\x01a\x00",  # forwards
        b"\x01a\xc0\x00",  # into its own label
        b"\x80",
        b"\x05ab",
        b"\xc0",
        b"",
        (b"\x3f" + b"a" * 63) * 4 + b"\0",
    ],
)
def test_an_unreadable_name_is_a_value_error(name: bytes) -> None:
    """Loops, forward pointers, unknown label types, cuts and excess length are refused."""
    with pytest.raises(ValueError):
        decode_name(name, 0)


def test_a_ladder_of_pointers_is_bounded() -> None:
    """Thousands of pointers that each lead one step back are not climbed."""
    ladder = b"\0\0" + b"".join(struct.pack("!H", 0xC000 | 2 * step) for step in range(4000))
    with pytest.raises(ValueError):
        decode_name(ladder, len(ladder) - 2)


@pytest.mark.parametrize(
    "value", [(A, b"\1\2\3"), (AAAA, bytes(4)), (CNAME, b"\1a\0junk"), (CNAME, b"\1")]
)
def test_a_record_of_the_wrong_size_is_garbage(value: tuple[int, bytes]) -> None:
    """Addresses have 4 or 16 bytes, and an alias fills its record."""
    rtype, data = value
    wire = bytearray(build_answer(QUERY))
    wire[7] = 1
    record = b"\xc0\x0c" + struct.pack("!HHIH", rtype, 1, 5, len(data)) + data
    with pytest.raises(ValueError):
        parse_answer(bytes(wire) + record)


def test_a_query_is_no_answer_and_an_answer_no_query() -> None:
    """The QR bit decides; a query without a question asks nothing."""
    with pytest.raises(ValueError):
        parse_answer(build_query("allowed.test", A, 1))
    with pytest.raises(ValueError):
        parse_query(build_answer(QUERY))
    with pytest.raises(ValueError):
        parse_query(bytes(12))


@given(st.binary(max_size=300))
def test_garbage_is_a_value_error(data: bytes) -> None:
    """Random bytes are either understood or a ValueError."""
    for parse in (parse_query, parse_answer):
        try:
            parse(data)
        except ValueError:
            continue


@given(st.data())
def test_damaged_messages_are_a_value_error(data: st.DataObject) -> None:
    """So are real messages with some bytes changed and the end cut off."""
    wire = bytearray(
        written_by_dnspython(
            ("allowed.test", "CNAME", "www.allowed.test."), ("www.allowed.test", "A", "192.88.99.1")
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    try:
        answer = parse_answer(bytes(wire[:cut]))
    except ValueError:
        return
    assert isinstance(answer, dnswire.Answer)
