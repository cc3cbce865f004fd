"""The probe's raw conversations, its listener's last word, and the variables that it obeys."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port
from tests.probing import ask, nobody_listens, volley
from tests.sidecars import read_all, read_head, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.probing import Record
    from tests.sidecars import Listen

HERE = "127.0.0.1"


def step(send: bytes, until: int | str = 0, *, datagram: bool = False) -> Record:
    """One step as the probe is told it."""
    return {"send": send.hex(), "until": until, "datagram": datagram}


def talk(port: int, *steps: Record) -> Record:
    """Hold one conversation."""
    return ask("talk", host=HERE, port=port, steps=list(steps))


def answering(*pairs: tuple[int, bytes]) -> Callable[[socket.socket], None]:
    """A far end that reads so many bytes and says something, again and again."""

    def serve(sock: socket.socket) -> None:
        for size, said in pairs:
            sock.recv(size, socket.MSG_WAITALL)
            sock.sendall(said)
        read_all(sock)

    return serve


def several(
    port: int,
    count: int,
    *steps: Record,
    patience: float = 2.0,
    deadline: float = 5.0,
    group: str = "",
) -> Record:
    """Hold the same conversation several times."""
    one = {"host": HERE, "port": port, "steps": list(steps), "group": group}
    talks = [{**one, "name": str(number)} for number in range(count)]
    return ask("talks", talks=talks, patience=patience, deadline=deadline)


# -- one conversation ------------------------------------------------------------------------------


def test_any_bytes_are_said_and_heard(listen: Listen) -> None:
    """Steps go out as they are, and each answer is kept apart."""
    port = listen(answering((3, b"\5\0"), (4, b"\0\xff")))
    record = talk(port, step(b"\5\1\0", 2), step(b"\xff\0\r\n", 2))
    assert record == {"outcome": "talked"}
    assert several(port, 1, step(b"\5\1\0", 2), step(b"\xff\0\r\n", 2))["talks"]["0"] == {
        "outcome": "talked",
        "answers": ["\5\0", "\0\xff"],
    }


def test_a_text_may_be_waited_for(listen: Listen) -> None:
    """The answer is complete when the text has come, in however many pieces."""

    def slow(sock: socket.socket) -> None:
        read_head(sock)
        for part in (b"HTTP/1.1 200", b" OK\r\n\r", b"\nrest"):
            sock.sendall(part)
            time.sleep(0.02)
        read_all(sock)

    record = several(listen(slow), 1, step(b"GET / HTTP/1.0\r\n\r\n", "\r\n\r\n"))
    (answer,) = record["talks"]["0"]["answers"]
    assert answer.startswith("HTTP/1.1 200 OK\r\n\r\n")


def test_last_words_are_kept(listen: Listen) -> None:
    """Who says no and closes is quoted."""

    def refuse(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 403 No\r\n")

    record = several(listen(refuse), 1, step(b"GET / HTTP/1.0\r\n\r\n", "\r\n\r\n"))
    assert record["talks"]["0"] == {"outcome": "closed", "answers": ["HTTP/1.1 403 No\r\n"]}


def test_silence_is_a_timeout_and_the_rest_is_not_said(listen: Listen) -> None:
    """A proxy that waits costs no more than the patience there is."""
    record = several(listen(silent), 1, step(b"x", 1), step(b"y", 1), patience=0.1)
    assert record["talks"]["0"] == {"outcome": "timeout", "answers": [""]}


def test_a_conversation_may_have_a_patience_of_its_own(listen: Listen) -> None:
    """Who has one waits so long, whatever the others' is."""

    def late(sock: socket.socket) -> None:
        if read_head(sock).startswith(b"GET /long "):
            time.sleep(0.5)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        read_all(sock)

    port = listen(late)

    def asking(name: str) -> Record:
        steps = [step(f"GET /{name} HTTP/1.0\r\n\r\n".encode(), 1)]
        return {"host": HERE, "port": port, "steps": steps, "name": name}

    both = [asking("short"), {**asking("long"), "patience": 60.0}]

    record = ask("talks", talks=both, patience=0.1, deadline=90.0)

    assert [record["talks"][name]["outcome"] for name in ("short", "long")] == ["timeout", "talked"]


def test_a_closed_port_refuses_a_conversation() -> None:
    """An error has its cause, as for every operation."""
    with nobody_listens() as port:
        record = talk(port, step(b"x", 1))
    assert (record["outcome"], record["errno"]) == ("refused", "ECONNREFUSED")


@pytest.mark.parametrize("bound", [b"\0\0\0\0", b"\x7f\0\0\1"])
def test_a_datagram_goes_to_the_relay_that_was_named(listen: Listen, bound: bytes) -> None:
    """Port and address are those of the SOCKS5 reply; 0.0.0.0 is the proxy itself (RFC 1928)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        relay.bind((HERE, 0))
        relay.settimeout(30)
        reply = b"\5\0\0\1" + bound + relay.getsockname()[1].to_bytes(2, "big")
        port = listen(answering((1, reply)))
        assert talk(port, step(b"x", 10), step(b"words", datagram=True))["outcome"] == "talked"
        assert relay.recv(100) == b"words"


def test_a_datagram_without_a_relay_goes_to_the_proxys_own_port(listen: Listen) -> None:
    """A proxy that says no may still listen there by UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        port = bound_beside(relay, listen)
        relay.settimeout(30)
        talk(port, step(b"x", 2), step(b"words", datagram=True))
        assert relay.recv(100) == b"words"


def bound_beside(relay: socket.socket, listen: Listen) -> int:
    """Bind a datagram socket to the port of an origin that says no: of some it may be taken."""
    while True:
        port = listen(answering((1, b"no")))
        with contextlib.suppress(OSError):
            relay.bind((HERE, port))
            return port


# -- many ------------------------------------------------------------------------------------------


def test_many_conversations_are_held_a_few_at_a_time(listen: Listen) -> None:
    """All of them are in the record, and no more than sixteen were there at once."""
    lock, there, most, two = threading.Lock(), [0], [0], threading.Event()

    def serve(sock: socket.socket) -> None:
        with lock:
            there[0] += 1
            most[0] = max(most[0], there[0])
            if there[0] > 1:
                two.set()
        sock.recv(1)
        two.wait(30)
        time.sleep(0.01)
        with lock:
            there[0] -= 1
        with sock:
            sock.sendall(b"k")
            read_all(sock)

    with serving_all(serve) as port:
        record = several(port, 40, step(b"x", 1), patience=60.0, deadline=90.0)
    assert sorted(record["talks"], key=int) == [str(number) for number in range(40)]
    assert {one["outcome"] for one in record["talks"].values()} == {"talked"}
    assert 1 < most[0] <= 16


def test_what_there_is_no_time_for_is_not_in_the_record(listen: Listen) -> None:
    """A conversation that was not held is missing: it is no refusal."""
    record = several(listen(silent), 40, step(b"x", 1), patience=1.0, deadline=2.5)
    assert record["outcome"] == "talked"
    assert 0 < len(record["talks"]) < 40


def test_a_group_that_nobody_answers_is_not_tried_for_ever(listen: Listen) -> None:
    """After the first ones the rest is skipped, and the record says so."""
    record = several(listen(silent), 40, step(b"x", 1), patience=0.2, deadline=60.0, group="SOCKS5")
    outcomes = [one["outcome"] for one in record["talks"].values()]
    assert 8 <= outcomes.count("timeout") <= 16 + 7  # of eight that end, seven begin another
    assert outcomes.count("timeout") + outcomes.count("skipped") == 40


def test_a_group_that_somebody_answers_is_tried_to_the_end(listen: Listen) -> None:
    """One answer is enough: silence may be a refusal then, and each counts for itself."""

    def serve(sock: socket.socket) -> None:
        with sock:
            if sock.recv(1) == b"x":
                sock.sendall(b"\0")
            read_all(sock)

    with serving_all(serve) as port:
        one = {"host": HERE, "port": port, "group": "SOCKS5"}
        words = [b"x", *[b"y"] * 24]
        talks = [{**one, "name": str(n), "steps": [step(w, 1)]} for n, w in enumerate(words)]
        talks[0]["patience"] = 60.0
        # Before eight of the others have given up, the first must have its answer.
        record = ask("talks", talks=talks, patience=1.5, deadline=90.0)
    outcomes = [one["outcome"] for one in record["talks"].values()]
    assert (outcomes.count("talked"), outcomes.count("timeout")) == (1, 24)


@contextlib.contextmanager
def serving_all(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve every visitor at once, at the port that this gives."""
    threads = []

    def run() -> None:
        with contextlib.suppress(OSError):  # the door is shut
            while True:
                connection, _ = door.accept()
                connection.settimeout(60)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server((HERE, 0), backlog=64) as door:
        threads.append(threading.Thread(target=run))
        threads[0].start()
        try:
            yield int(door.getsockname()[1])
        finally:
            door.shutdown(socket.SHUT_RDWR)
            for thread in threads:  # the first may have added to them until it ended
                thread.join()


# -- the listener's last word, and both families ---------------------------------------------------


def test_a_word_ends_a_listener(port: int) -> None:
    """The listener reports at once, long before its deadline."""
    records: list[Record] = []
    orders = {"tcp": [port], "until": ["ENOUGH"], "deadline": 100.0}
    thread = threading.Thread(target=lambda: records.append(ask("listen", **orders)))  # type: ignore[arg-type]
    thread.start()
    for word in (b"first", b"ENOUGH"):
        say(port, word)
    thread.join(100)
    assert [visit[3] for visit in records[0]["visitors"]] == ["first", "ENOUGH"]


def test_a_listener_hears_both_families(port: int) -> None:
    """With an address of each family it takes visitors of both."""
    records: list[Record] = []
    orders = {"tcp": [port], "until": ["ENOUGH"], "deadline": 100.0, "addresses": ["0.0.0.0", "::"]}
    thread = threading.Thread(target=lambda: records.append(ask("listen", **orders)))  # type: ignore[arg-type]
    thread.start()
    if not socket.has_ipv6:
        pytest.skip("NOT RUN: no IPv6 here")
    say(port, b"six", "::1")
    say(port, b"ENOUGH")
    thread.join(100)
    assert sorted(visit[2:] for visit in records[0]["visitors"]) == [
        ["127.0.0.1", "ENOUGH"],
        ["::1", "six"],
    ]


def say(port: int, word: bytes, host: str = HERE) -> None:
    """Visit a listener, as soon as it is there."""
    end = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection((host, port), 30) as sock:
                sock.sendall(word)
                return
        except ConnectionRefusedError:
            assert time.monotonic() < end, "it never listened"
            time.sleep(0.01)


@pytest.fixture
def port() -> int:
    """A number that is free, and that nobody else is given."""
    return free_port()


# -- variables -------------------------------------------------------------------------------------


def test_variables_are_told_as_they_are() -> None:
    """A variable that is not set is no empty one."""
    environment = {"PATH": "/usr/bin", "no_proxy": "", "NO_PROXY": "localhost"}
    names = ["no_proxy", "NO_PROXY", "all_proxy"]
    record = ask("variables", names=names, environment=environment)
    assert record["variables"] == {"no_proxy": "", "NO_PROXY": "localhost", "all_proxy": None}


PROXY = "http://192.0.2.1:1"  # nobody goes there: every case below must go direct


@pytest.mark.parametrize(
    "told",
    [
        {"http_proxy": "", "HTTP_PROXY": PROXY},
        {"http_proxy": PROXY, "no_proxy": "*"},
        {"http_proxy": PROXY, "NO_PROXY": "other.test, 127.0.0.1"},
        {"http_proxy": "", "all_proxy": "direct://"},
        {},
    ],
    ids=str,
)
def test_variables_may_send_a_request_past_the_proxy(listen: Listen, told: dict[str, str]) -> None:
    """An operation's own variables win over the guest's, and the lower case over the upper."""
    port = listen(answering_http)
    assert fetch(f"http://{HERE}:{port}/", told)["status"] == 200


def fetch(url: str, told: dict[str, str]) -> Record:
    """Fetch as variables say, in a guest that has a proxy's already."""
    operation = {"id": "one", "kind": "http", "url": url, "proxy": "environment"}
    guest = {"PATH": "/usr/bin", "HTTPS_PROXY": PROXY}
    return volley([{**operation, "environment": told}], environment=guest)[0]


def answering_http(sock: socket.socket) -> None:
    """An origin that is content with anything."""
    read_head(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "told",
    [
        {"http_proxy": "{}"},
        {"HTTP_PROXY": "{}"},
        {"ALL_PROXY": "{}"},
        {"http_proxy": "{}", "HTTP_PROXY": PROXY},
        {"http_proxy": "{}", "no_proxy": "other.test"},
        {"http_proxy": "{}", "no_proxy": "name.test"},
    ],
    ids=str,
)
def test_variables_may_send_a_request_to_the_proxy(listen: Listen, told: dict[str, str]) -> None:
    """Upper case alone counts, and ``all_proxy`` where there is no other; other names do not."""
    port = listen(answering_http)
    variables = {name: text.format(f"http://{HERE}:{port}") for name, text in told.items()}
    assert fetch("http://thename.test/", variables)["status"] == 200
