"""Messages between our own processes: whole, in order, with their files, or not at all."""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_bottle import _wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    Pair = tuple[socket.socket, socket.socket]


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of one connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def open_files() -> set[str]:
    """The descriptors of this process, without those of garbage."""
    gc.collect()
    return set(os.listdir("/dev/fd"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=3))
def test_messages_arrive_whole_and_in_order(messages: list[dict[str, Any]]) -> None:
    """Whatever JSON can hold."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in messages:
            _wire.send(ours, message)
        assert [_wire.receive(theirs, 30) for _ in messages] == [(m, []) for m in messages]


def test_a_message_may_be_larger_than_any_buffer(pair: Pair) -> None:
    """The sender waits until the receiver has made room."""
    ours, theirs = pair
    message = {"text": "x" * (8 << 20)}
    sender = threading.Thread(target=_wire.send, args=(ours, message))
    sender.start()
    assert _wire.receive(theirs, 30) == (message, [])
    sender.join()


def test_a_message_may_come_in_pieces(pair: Pair) -> None:
    """Down to single bytes, through the length as well."""
    ours, theirs = pair
    body = b'{"a": 1}'

    def drip() -> None:
        for byte in struct.pack("!I", len(body)) + body:
            ours.sendall(bytes([byte]))
            time.sleep(0.001)

    sender = threading.Thread(target=drip)
    sender.start()
    assert _wire.receive(theirs, 30) == ({"a": 1}, [])
    sender.join()


def test_a_request_waits_for_its_answer(pair: Pair) -> None:
    """One call is one message there and one back."""
    ours, theirs = pair

    def answer() -> None:
        request, _ = _wire.receive(theirs, 30)
        _wire.send(theirs, {"got": request})

    server = threading.Thread(target=answer)
    server.start()
    assert _wire.call(ours, {"op": "ping"}, timeout=30) == ({"got": {"op": "ping"}}, [])
    server.join()


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, _wire.MAX_FDS])
def test_files_travel_with_a_message(pair: Pair, count: int) -> None:
    """In order, as open files of the receiver's own, which no child of it inherits."""
    ours, theirs = pair
    with ExitStack() as stack:
        pipes = [os.pipe() for _ in range(count)]
        for descriptor in (fd for ends in pipes for fd in ends):
            stack.callback(os.close, descriptor)
        _wire.send(ours, {"op": "take"}, tuple(write for _, write in pipes))
        message, received = _wire.receive(theirs, 30)
        assert message == {"op": "take"}
        assert len(received) == count
        for number, descriptor in enumerate(received):
            stack.callback(os.close, descriptor)
            assert not os.get_inheritable(descriptor)
            os.write(descriptor, b"%d" % number)
        assert [os.read(read, 9) for read, _ in pipes] == [b"%d" % n for n in range(count)]


def test_files_of_one_message_do_not_come_with_another(pair: Pair) -> None:
    """Each belongs to the message that it was sent with."""
    ours, theirs = pair
    with open(os.devnull) as file:
        for number in range(3):
            _wire.send(ours, {"n": number}, (file.fileno(),) * number)
    for number in range(3):
        message, received = _wire.receive(theirs, 30)
        assert (message, len(received)) == ({"n": number}, number)
        for descriptor in received:
            os.close(descriptor)


def test_more_files_than_fit_are_not_sent(pair: Pair) -> None:
    """They would get lost without a word."""
    ours, theirs = pair
    with open(os.devnull) as file, pytest.raises(ValueError, match="17 files"):
        _wire.send(ours, {}, (file.fileno(),) * (_wire.MAX_FDS + 1))
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_files_of_a_foreign_sender_that_do_not_fit_end_the_connection(pair: Pair) -> None:
    """A message without all of its files is not delivered, and nothing stays open."""
    ours, theirs = pair
    before = open_files()
    with open(os.devnull) as file:
        socket.send_fds(ours, [struct.pack("!I", 2) + b"{}"], [file.fileno()] * 40)
    with pytest.raises(_wire.Closed, match="got lost"):
        _wire.receive(theirs, 30)
    assert open_files() == before


@pytest.mark.parametrize("rest", [b"\0", struct.pack("!I", 9) + b"{", struct.pack("!I", 1) + b"{"])
def test_files_of_a_broken_message_are_closed(rest: bytes) -> None:
    """Nobody could close them any more."""
    before = open_files()
    ours, theirs = socket.socketpair()
    with theirs:
        with ours, open(os.devnull) as file:
            socket.send_fds(ours, [rest], [file.fileno()])
        with pytest.raises((_wire.Closed, ValueError)):
            _wire.receive(theirs, 30)
    assert open_files() == before


# -- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\0\0", struct.pack("!I", 8) + b"{"])
def test_a_peer_that_is_gone_has_closed(sent: bytes) -> None:
    """Between two messages, and in the middle of one."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(sent)
        with pytest.raises(_wire.Closed):
            _wire.receive(theirs, 30)


def test_nothing_can_be_sent_to_a_peer_that_is_gone(pair: Pair) -> None:
    """At once, and not with the next message."""
    ours, theirs = pair
    theirs.close()
    with pytest.raises(_wire.Closed):
        _wire.send(ours, {})
    with pytest.raises(_wire.Closed):
        _wire.call(ours, {}, timeout=30)


def test_a_peer_that_goes_while_it_is_sent_to_has_closed(pair: Pair) -> None:
    """A large message is cut off in the middle."""
    ours, theirs = pair

    def leave() -> None:
        theirs.recv(1000)
        theirs.close()

    reader = threading.Thread(target=leave)
    reader.start()
    with pytest.raises(_wire.Closed):
        _wire.send(ours, {"text": "x" * (8 << 20)})
    reader.join()


def test_a_length_beyond_reason_is_refused(pair: Pair) -> None:
    """No memory is set aside for it, and nothing is waited for."""
    ours, theirs = pair
    ours.sendall(struct.pack("!I", _wire.MAX_BYTES + 1))
    with pytest.raises(_wire.Closed, match=str(_wire.MAX_BYTES + 1)):
        _wire.receive(theirs, 30)


@pytest.mark.parametrize("sent", [b"", b"\0", struct.pack("!I", 8) + b'{"a":'])
def test_a_message_has_a_deadline(pair: Pair, sent: bytes) -> None:
    """For the whole of it, wherever it stops."""
    ours, theirs = pair
    ours.sendall(sent)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        _wire.receive(theirs, 0.1)
    assert 0.1 <= time.monotonic() - started < 30


def test_dripping_bytes_do_not_put_the_deadline_off(pair: Pair) -> None:
    """Each byte in time is not a message in time."""
    ours, theirs = pair
    over = threading.Event()

    def drip() -> None:
        ours.sendall(struct.pack("!I", 1000))
        while not over.wait(0.02):
            ours.sendall(b"x")

    sender = threading.Thread(target=drip)
    sender.start()
    with pytest.raises(TimeoutError):
        _wire.receive(theirs, 0.2)
    over.set()
    sender.join()


def test_the_socket_blocks_again_afterwards(pair: Pair) -> None:
    """A deadline of one message is none of the next."""
    ours, theirs = pair
    _wire.send(ours, {})
    _wire.receive(theirs, 30)
    assert theirs.gettimeout() is None
    with pytest.raises(TimeoutError):
        _wire.receive(theirs, 0.01)
    assert theirs.gettimeout() is None


def test_without_a_deadline_it_waits(pair: Pair) -> None:
    """Until a message is there."""
    ours, theirs = pair
    timer = threading.Timer(0.1, _wire.send, (ours, {"late": True}))
    timer.start()
    assert _wire.receive(theirs) == ({"late": True}, [])
    timer.join()


def test_what_is_no_json_is_an_error(pair: Pair) -> None:
    """A peer of ours never sends it; it is not taken for an empty message."""
    ours, theirs = pair
    ours.sendall(struct.pack("!I", 3) + b"{]}")
    with pytest.raises(json.JSONDecodeError):
        _wire.receive(theirs, 30)


def test_it_works_across_processes(pair: Pair) -> None:
    """Files keep their meaning in another process: a child writes where the parent reads."""
    ours, theirs = pair
    code = f"""if True:
        import os, socket, sys
        sys.path.insert(0, {str(ROOT)!r})
        from pytest_bottle import _wire
        _, (received,) = _wire.receive(socket.socket(fileno={theirs.fileno()}), 30)
        os.write(received, b"from the child")
    """
    read, write = os.pipe()
    with closing(os.fdopen(read, "rb")) as reading:
        _wire.send(ours, {}, (write,))
        os.close(write)
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code],
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=30,
        )
        assert reading.read() == b"from the child"
