"""What was forwarded is put together by TCP's own order, not by that of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.conformance import framing
from pytest_bottle.internet.records import Heard

SYN, ACK = 0x02, 0x10
NONCE = b"n0nce"
HEAD = b"POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: %d\r\n\r\n"
BODY = framing.hidden(b"smuggled.test", NONCE)


def segment(
    sequence: int, payload: bytes = b"", *, flags: int = ACK, sport: int = 40000, dst: str = "a"
) -> Heard:
    """A segment of a connection, as the witness hears it."""
    number = sequence % 2**32
    return Heard(1, 1, 4, 6, "s", dst, sport, 80, flags, None, payload, link=False, sequence=number)


def test_a_segment_that_is_sent_again_is_read_once() -> None:
    """A retransmitted body is no second request behind the message."""
    message = (HEAD % len(BODY)) + BODY
    start = segment(7, flags=SYN)
    once = segment(8, message)

    assert framing.streams([start, once, once]) == [message]
    assert framing.ambiguity(message, NONCE) == ""
    assert "follows" in framing.ambiguity(message + message, NONCE)


def test_connections_are_told_apart() -> None:
    """By both ends, and where one port is used again by the beginning of the next."""
    heard = [
        segment(1, flags=SYN),
        segment(2, b"one"),
        segment(1, flags=SYN, dst="b"),
        segment(2, b"two", dst="b"),
        segment(900, flags=SYN),
        segment(901, b"three"),
    ]

    assert sorted(framing.streams(heard)) == [b"one", b"three", b"two"]


@given(st.data(), st.binary(min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_no_order_of_arrival_changes_a_stream(
    data: st.DataObject, message: bytes, first: int
) -> None:
    """Pieces in any order, again and in other cuts, around the end of the numbers, are the same."""
    at = st.integers(0, len(message) - 1)
    cuts = [(n, n + 1) for n in range(len(message))]
    more = data.draw(st.lists(st.tuples(at, st.integers(1, len(message)))))
    pieces = data.draw(st.permutations([*cuts, *((a, a + n) for a, n in more)]))
    heard = [segment(first + 1 + a, message[a:b]) for a, b in pieces]

    assert framing.streams([segment(first, flags=SYN), *heard]) == [message]


@pytest.mark.parametrize("name", ["CL and TE", "two CL, the first is less"])
def test_a_trick_that_is_forwarded_as_it_is_is_seen(name: str) -> None:
    """Forwarded word for word, a form is ambiguous, however its segments arrive."""
    form = framing.forms(b"allowed.test", BODY)[name]
    heard = [segment(1, flags=SYN), segment(22, form[20:]), segment(2, form[:20])]

    (stream,) = framing.streams(heard)

    assert stream == form
    assert framing.ambiguity(stream, NONCE)
