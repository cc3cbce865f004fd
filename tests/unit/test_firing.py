"""Firing: one exec for each place, what is read of its output, and whose a leak is."""

from __future__ import annotations

import dataclasses
import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.backends.contract import ExecResult, User, Vantage
from pytest_bottle.errors import BringUpError, DeadlineError, NotSupported, TransportError
from pytest_bottle.firing import Operation, fire, heard, probe_program, run_one
from pytest_bottle.internet.records import Heard
from pytest_bottle.stimulus import Icmp, Shot, Tcp, Udp, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.stimulus import Stimulus

    Program = Callable[[list[dict[str, Any]]], ExecResult]

TOPOLOGY = cast("Topology", SimpleNamespace(python="/usr/bin/python3", id="b1"))
AGENT = (Vantage.AGENT, User.AGENT)


class Guests:
    """As much of a backend as the probe needs: something that runs it, or does not."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.calls: list[tuple[Vantage, User, Sequence[str], float]] = []
        self.orders: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes,
        user: User,
        timeout: float,
    ) -> ExecResult:
        """Read the orders as the probe would, and leave the rest to the program."""
        assert topology is TOPOLOGY
        head, _, rest = stdin.partition(b"\n")
        sizes = [int(size) for part in head.split()[1:] for size in part.split(b":")[1:]]
        orders = json.loads(rest[sum(sizes) :])
        program = probe_program(one["kind"] for one in orders["operations"])
        assert stdin[: len(program)] == program
        with self.lock:
            self.calls.append((vantage, user, argv, timeout))
            self.orders.append(orders)
        return self.program(orders["operations"])


def backend(program: Program) -> tuple[Backend, Guests]:
    """A backend with a program in every guest."""
    guests = Guests(program)
    return cast("Backend", guests), guests


def output(operations: list[dict[str, Any]]) -> bytes:
    """What a probe writes that works."""
    lines = [json.dumps({"id": o["id"], "outcome": "refused"}).encode() for o in operations]
    return b"\n".join([*lines, b'{"done": %d}' % len(operations), b""])


def working(operations: list[dict[str, Any]]) -> ExecResult:
    """A probe that works."""
    return ExecResult(0, output(operations), b"")


def saying(text: bytes, status: int = 0, complaint: bytes = b"") -> Program:
    """A program with a fixed output."""
    return lambda _: ExecResult(status, text, complaint)


def raising(error: Exception) -> Program:
    """An exec that fails."""

    def fail(_: object) -> ExecResult:
        raise error

    return fail


def operation(name: str, vantage: Vantage = Vantage.AGENT, **more: Any) -> Operation:
    """An operation that nobody carries out."""
    user = more.pop("user", User.AGENT)
    return Operation(name, vantage, {"kind": "tcp", **more}, user)


# -- how the probe is run -----------------------------------------------------------------------


def test_each_place_has_one_exec() -> None:
    """A place is a vantage point and a user; all its operations go together."""
    operations = [
        operation("a"),
        operation("b"),
        operation("c", Vantage.SIDECAR),
        operation("d", user=User.ROOT),
    ]
    subject, guests = backend(working)
    volley = fire(subject, TOPOLOGY, operations)
    assert sorted((vantage.value, user.value) for vantage, user, *_ in guests.calls) == [
        ("agent", "agent"),
        ("agent", "root"),
        ("sidecar", "agent"),
    ]
    assert volley.records.keys() == set("abcd")
    assert volley.failures == {}


def test_places_fire_at_once() -> None:
    """One that hangs would hold up another's window."""
    meeting = threading.Barrier(2, timeout=60)

    def waiting(operations: list[dict[str, Any]]) -> ExecResult:
        meeting.wait()
        return working(operations)

    subject, _ = backend(waiting)
    assert len(fire(subject, TOPOLOGY, [operation("a"), operation("b", Vantage.OPEN)]).records) == 2


def test_the_guests_interpreter_runs_isolated() -> None:
    """No site packages and no variables of the guest can change the probe."""
    subject, guests = backend(working)
    fire(subject, TOPOLOGY, [operation("a")])
    ((_, _, argv, _),) = guests.calls
    assert argv[:4] == ["/usr/bin/python3", "-I", "-S", "-c"]


def test_the_orders_name_every_operation() -> None:
    """With the deadline of all, and what each is to do."""
    subject, guests = backend(working)
    fire(subject, TOPOLOGY, [operation("a", port=1), operation("b", port=2)], deadline=0.5)
    assert guests.orders == [
        {
            "deadline": 0.5,
            "operations": [
                {"id": "a", "kind": "tcp", "port": 1},
                {"id": "b", "kind": "tcp", "port": 2},
            ],
        }
    ]


def test_an_exec_is_given_time_for_its_slowest_operation() -> None:
    """The longest of deadline and delay, and the start of an interpreter on a slow machine."""
    subject, guests = backend(working)
    fire(subject, TOPOLOGY, [operation("a"), operation("b", deadline=30.0, delay=5.0)], 1.0)
    ((*_, timeout),) = guests.calls
    assert timeout > 35


def test_without_operations_nothing_is_run() -> None:
    """Not even an exec with nothing to do."""
    subject, guests = backend(working)
    assert fire(subject, TOPOLOGY, []).records == {}
    assert guests.calls == []


def test_a_shot_becomes_an_operation() -> None:
    """With its name, place and user."""
    shot = Shot("one", Vantage.PRIVILEGED, Tcp("192.88.99.7", 443), User.ROOT)
    made = Operation.of(shot)
    assert (made.name, made.vantage, made.user) == ("one", Vantage.PRIVILEGED, User.ROOT)
    assert made.what == shot.operation()


# -- what is read of its output -----------------------------------------------------------------


def test_a_volley_tells_outcome_and_echo() -> None:
    """Of what has a record; the rest is None, and no echo."""
    lines = b'{"id": "a", "outcome": "connected", "echo": true}\n{"done": 1}\n'
    volley = fire(backend(saying(lines))[0], TOPOLOGY, [operation("a")])
    assert (volley.outcome("a"), volley.echo("a")) == ("connected", True)
    assert (volley.outcome("b"), volley.echo("b")) == (None, False)
    assert volley.failure(operation("a")) == ""


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"", 0),
        (b'{"done": 2}\n', 0),
        (b'{"id": "a", "outcome": "refused"}\n', 0),
        (b'{"id": "a", "outcome": "refused"}\n{"done": 1}\n', 0),
        (b'{"id": "a", "outcome": "refused"}\n{"done": 2}\n', 0),
        (b'{"id": "a", "outcome": "refused"}\n{"id": "b", "outc', 137),
        (b"python3: not found\n", 127),
    ],
)
def test_what_is_missing_has_no_record_and_a_reason(text: bytes, status: int) -> None:
    """Nothing is made up for an operation that was not reported; what was, is kept."""
    subject, _ = backend(saying(text, status, b"the complaint"))
    volley = fire(subject, TOPOLOGY, [operation("a"), operation("b")])
    assert "b" not in volley.records
    assert ("a" in volley.records) == (b'"a"' in text)
    assert f"exit status {status}" in volley.failures[AGENT]
    assert f"{len(volley.records)} of 2 records" in volley.failures[AGENT]
    assert "the complaint" in volley.failure(operation("b"))


def test_a_status_that_is_not_0_is_a_failure_though_all_is_there() -> None:
    """A probe that crashed at its end is to be looked at."""
    volley = fire(backend(lambda o: ExecResult(1, output(o), b""))[0], TOPOLOGY, [operation("a")])
    assert volley.outcome("a") == "refused"
    assert "exit status 1" in volley.failures[AGENT]


@pytest.mark.parametrize(
    "garbage",
    [
        b"Warning: something\n",
        b"\xff\xfe\0{\n",
        b"[" * 200_000 + b"\n",
        b'[1, 2]\nnull\n3\n"text"\n',
        b'{"id": "a"}\n',
        b'{"id": "a", "outcome": 5}\n',
        b'{"id": ["a"], "outcome": "blocked"}\n',
        b'{"id": null, "outcome": "blocked"}\n',
        b'{"outcome": "blocked"}\n',
        b"1" * 5000 + b"\n",
    ],
)
def test_garbage_between_the_lines_is_no_record(garbage: bytes) -> None:
    """What a guest's shell or library prints is passed over."""
    program: Program = lambda o: ExecResult(0, garbage + output(o), b"")  # noqa: E731
    volley = fire(backend(program)[0], TOPOLOGY, [operation("a")])
    assert volley.records == {"a": {"id": "a", "outcome": "refused"}}
    assert volley.failures == {}


@given(st.binary(), st.integers(-64, 255))
def test_no_output_makes_up_a_record(text: bytes, status: int) -> None:
    """Whatever comes back, firing goes on, and what was not reported is missing."""
    volley = fire(backend(saying(text, status))[0], TOPOLOGY, [operation("nobody-says-this")])
    assert volley.records == {}
    assert AGENT in volley.failures


def test_a_guest_speaks_for_itself_only() -> None:
    """A record of an operation that was not its own is none."""

    def boasting(operations: list[dict[str, Any]]) -> ExecResult:
        everything = output([*operations, {"id": "agent's"}, {"id": "sidecar's"}])
        return ExecResult(0, everything.replace(b'{"done": 3}', b'{"done": 1}'), b"")

    operations = [operation("agent's"), operation("sidecar's", Vantage.SIDECAR)]
    subject, _ = backend(boasting)
    volley = fire(subject, TOPOLOGY, operations[:1])
    assert volley.records.keys() == {"agent's"}


# -- an exec that fails -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TransportError("no exec"), BringUpError("no guest")])
def test_a_broken_exec_is_no_block(error: Exception) -> None:
    """The place has no record; the other places have theirs."""

    def program(operations: list[dict[str, Any]]) -> ExecResult:
        if operations[0]["id"] == "a":
            raise error
        return working(operations)

    subject, _ = backend(program)
    volley = fire(subject, TOPOLOGY, [operation("a"), operation("b", Vantage.SIDECAR)])
    assert volley.records.keys() == {"b"}
    assert volley.failures == {AGENT: str(error)}


def test_what_was_reported_before_the_deadline_counts() -> None:
    """A probe that was cut has spoken for the operations whose lines are complete."""
    partial = b'{"id": "a", "outcome": "refused"}\n{"id": "b", "outcome": "time'
    error = DeadlineError("cut", stdout=partial)
    volley = fire(backend(raising(error))[0], TOPOLOGY, [operation("a"), operation("b")])
    assert volley.records.keys() == {"a"}
    assert volley.failure(operation("b")).startswith("cut\n  seen:     standard output (62 bytes)")


def test_a_probe_that_was_cut_says_what_it_had_printed() -> None:
    """A single operation raises the deadline's own kind of error, with the output so far."""
    error = DeadlineError(
        "cut", expected="its end within 16 s", stdout=b"half a li", stderr=b"oops"
    )

    with pytest.raises(DeadlineError, match="the probe was cut at its deadline") as caught:
        run_one(backend(raising(error))[0], TOPOLOGY, Vantage.AGENT, {"kind": "http"})

    assert (caught.value.stdout, caught.value.stderr) == (b"half a li", b"oops")
    assert "standard output (9 bytes) was 'half a li'" in str(caught.value)
    assert "standard error (4 bytes) was 'oops'" in str(caught.value)


def test_other_errors_are_not_swallowed() -> None:
    """A vantage point that a backend does not have is no broken exec."""
    subject, _ = backend(raising(NotSupported("no such place")))
    with pytest.raises(NotSupported):
        fire(subject, TOPOLOGY, [operation("a")])


def test_a_single_operation_gives_its_record() -> None:
    """Or an error that says where, and what the guest said instead."""
    program: Program = lambda o: ExecResult(0, output(o), b"")  # noqa: E731
    record = run_one(backend(program)[0], TOPOLOGY, Vantage.HOST, {"kind": "tcp"})
    assert record["outcome"] == "refused"
    mute = backend(saying(b"", 127, b"python3: not found"))[0]
    with pytest.raises(TransportError) as caught:
        run_one(mute, TOPOLOGY, Vantage.HOST, {"kind": "tcp"})
    assert caught.value.where == "host of bottle b1"
    assert "python3: not found" in caught.value.seen


# -- whose a packet is --------------------------------------------------------------------------

ELSEWHERE = "192.88.99.200"


def packet(**fields: Any) -> Heard:
    """A packet that belongs to nobody, but for the given fields."""
    plain = Heard(1, 0, 4, 6, "10.0.0.2", ELSEWHERE, 40000, 443, 2, None, b"", link=False)
    return plain._replace(**fields)


def shot(stimulus: Stimulus) -> Shot:
    """A shot of the agent."""
    return Shot("one", Vantage.AGENT, stimulus, User.AGENT)


SHOTS = [
    shot(Tcp("192.88.99.7", 443)),
    shot(Udp("192.88.99.7", 443)),
    shot(Icmp("192.88.99.7")),
    shot(Web("192.88.99.7", "allowed.test")),
    shot(Web("", "allowed.test")),
]


@pytest.mark.parametrize("one", SHOTS)
@pytest.mark.parametrize("proto", [1, 6, 17, 58, 132])
def test_a_nonce_names_its_shot(one: Shot, proto: int) -> None:
    """Wherever it went, by whatever protocol, and in the middle of what."""
    nonce = one.nonce.encode()
    for payload in (nonce, b"BOTTLE " + nonce + b"\n", b"\x20" + nonce + b"\x07allowed\x04test\0"):
        assert heard(one, [packet(proto=proto, payload=payload)])


def test_a_nonce_is_known_in_capitals() -> None:
    """A resolver may vary the case of a name that it passes on."""
    one = dataclasses.replace(SHOTS[4], nonce="abcdef" * 5)
    assert heard(one, [packet(proto=17, dport=53, payload=b"AbCdEf" * 5)])


@pytest.mark.parametrize(
    ("one", "proto"), [(SHOTS[0], 6), (SHOTS[1], 17), (SHOTS[3], 6)], ids=["tcp", "udp", "web"]
)
def test_a_destination_of_its_own_names_a_shot(one: Shot, proto: int) -> None:
    """A bare SYN holds no nonce: address, protocol and port are the evidence, all three."""
    own = packet(dst="192.88.99.7", proto=proto, dport=443)
    assert heard(one, [own]) == [own]
    assert not heard(one, [own._replace(dst=ELSEWHERE)])
    assert not heard(one, [own._replace(dport=80)])
    assert not heard(one, [own._replace(proto=6 if proto == 17 else 17)])


@pytest.mark.parametrize("one", SHOTS)
def test_a_source_names_nobody(one: Shot) -> None:
    """Behind a sidecar it is the sidecar's: that the agent's address was heard proves nothing."""
    sources = ("10.0.0.2", "192.88.99.7", "")
    assert not heard(one, [packet(src=source, sport=443) for source in sources])


def test_an_echo_request_is_known_by_its_nonce_only() -> None:
    """Several of them may go to one address, and it has no port."""
    one = SHOTS[2]
    assert not heard(one, [packet(dst="192.88.99.7", proto=1, sport=None, dport=None, icmp=8)])
    assert not heard(one, [packet(dst="192.88.99.7", proto=6, dport=0)])


def test_a_name_without_an_address_has_no_destination() -> None:
    """It goes where the name leads, so only the nonce in it counts."""
    assert not heard(SHOTS[4], [packet(dport=443)])


def test_a_zone_stays_on_the_link() -> None:
    """The far side hears a link-local address without it."""
    one = shot(Tcp("fe80::1%eth0", 443))
    assert heard(one, [packet(family=6, dst="fe80::1")])


@given(st.lists(st.sampled_from(SHOTS), max_size=5))
def test_every_packet_of_a_shot_is_given_in_order(shots: list[Shot]) -> None:
    """Retransmissions included, and nothing of the others."""
    one = SHOTS[0]
    records = [packet(seq=n, payload=each.nonce.encode()) for n, each in enumerate(shots)]
    assert heard(one, records) == [r for r in records if r.payload == one.nonce.encode()]


BYTES = st.binary(max_size=6).map(lambda some: some.replace(b"a", b"abcdef" * 5))


@given(st.lists(st.tuples(BYTES, BYTES)), st.integers(0, 2))
def test_a_search_among_many_finds_what_a_look_at_each_finds(
    payloads: list[tuple[bytes, bytes]], own: int
) -> None:
    """By nonce, in any place and case, and by destination; each once, in their order."""
    one = dataclasses.replace(SHOTS[0], nonce="abcdef" * 5)
    records = [
        packet(seq=seq, payload=before.upper() + behind, dst=("192.88.99.7" if seq == own else "x"))
        for seq, (before, behind) in enumerate(payloads)
    ]

    found = heard(one, records)

    nonce = one.nonce.encode()
    assert found == [r for r in records if nonce in r.payload.lower() or r.seq == own]
