"""Bottles on the emulated ``container``: up, in use, down, and what that takes."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
import requests

from pytest_bottle.backends.contract import Fault, User, Vantage
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.contract import GuestRequest
from pytest_bottle.backends.engines.macos_container import inside, opening
from pytest_bottle.errors import (
    BringUpError,
    ConfigurationError,
    DeadlineError,
    NotSupported,
    TransportError,
)
from pytest_bottle.spec import BottleSpec, EgressRoute, PublishedPort
from tests.containers import ask, names, refusals, shown
from tests.ports import free_port
from tests.sidecars import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.backends.engines.macos_container.engine import ContainerEngine
    from pytest_bottle.emulator import Emulator

#: More calls than this make a bottle slow to bring up on a Mac, where each takes its time.
MOST_CALLS = 14


@pytest.fixture(scope="module")
def backend(emulator: Emulator) -> Iterator[EngineBackend]:
    """A backend without a far side, for the tests of this file that only use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(opening.RUNNING, str(emulator.path))
        for name, text in emulator.environment.items():
            patch.setenv(name, text)
        one = EngineBackend(opening.emulated())
    yield one
    one.close()


@pytest.fixture(scope="module")
def bottle(backend: EngineBackend) -> Iterator[Topology]:
    """A bottle that is only used."""
    topology = backend.up(BottleSpec())
    yield topology
    backend.down(topology)


def test_a_first_bottle_takes_few_calls_and_leaves_nothing(engine: ContainerEngine) -> None:
    """From the first question to a bottle that serves: at most 14 calls; and down takes two."""
    backend = EngineBackend(engine)
    topology = backend.up(BottleSpec())
    assert len(engine.program.records) <= MOST_CALLS
    before = len(engine.program.records)
    backend.down(topology)
    assert len(engine.program.records) - before == 2
    assert backend.inventory() == frozenset()


def test_its_command_lines_are_of_the_grammar_of_both_versions(engine: ContainerEngine) -> None:
    """Each is taken by 1.0.0 and by 1.2.2, and none is for what is not ours."""
    backend = EngineBackend(engine, "guest")
    topology = backend.up(BottleSpec())
    for vantage in (Vantage.PRIVILEGED, Vantage.OPEN, Vantage.STRANGER):
        backend.exec(topology, vantage, ["true"])
    backend.trust()
    backend.down(topology)
    lines = [record.argv for record in engine.program.records]
    assert len(lines) > MOST_CALLS
    assert refusals(lines) == []
    assert refusals([("network", "delete", "--force", "x"), ("prune",), ("exec", "-t", "x", "y")])


@pytest.mark.parametrize(("version", "given"), [("1.2.2", True), ("1.2.0", False)])
def test_a_privileged_guest_may_write_settings_where_a_version_can_let_it(
    netns_works: None, version: str, *, given: bool
) -> None:
    """From 1.2.1 on its /proc/sys is left writable; an older one is not given that option."""
    with contextlib.closing(opening.emulated(version)) as engine:
        engine.create_network("n", internal=True)
        for name, privileged in (("plain", False), ("strong", True)):
            engine.run_guest(GuestRequest(name, ("n",), name, privileged=privileged))
        argv = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        results = {name: engine.exec(name, argv, user="root").ok for name in ("plain", "strong")}
        assert results == {"plain": False, "strong": given}
        lines = [record.argv for record in engine.program.records]
        assert ["--read-only-path" in argv for argv in lines if argv[0] == "run"] == [False, given]
        assert refusals(lines) == []


def test_an_alias_that_was_taken_meanwhile_gives_way_to_another(
    backend: EngineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody listens there between the choice and the publishing: the bottle takes the next."""
    before = backend.inventory()
    with contextlib.ExitStack() as stack:
        chosen: list[str] = []

        def first_free(_: object, addresses: Sequence[str], port: int) -> str:
            chosen.append(addresses[0])
            if len(chosen) == 1:
                stack.enter_context(socket.create_server((addresses[0], port)))
            return addresses[0]

        monkeypatch.setattr(opening.EmulatedHost, "first_free", first_free)
        # A port of its own: no other session chooses among the same addresses meanwhile.
        topology = backend.up(BottleSpec(publish=PublishedPort(port=free_port())))
        backend.down(topology)
    assert topology.published is not None
    assert [topology.published.host] == chosen[1:]
    assert backend.inventory() == before


def test_everything_carries_who_owns_it(
    emulator: Emulator, backend: EngineBackend, bottle: Topology
) -> None:
    """Containers and networks have the session and its owner as labels."""
    _, mark, owner = backend.session.split(":")
    found = [*shown(emulator, "list"), *shown(emulator, "network", "list")]
    ours = [one for one in found if one["id"].startswith("bottle-")]
    assert len(ours) == 4
    for one in ours:
        labels = one["configuration"]["labels"]
        assert (labels["bottle.session"], labels["bottle.owner"]) == (mark, owner)
    assert {one.name for one in backend.inventory()} == {one["id"] for one in ours}


def test_the_agent_is_on_the_internal_network_only_and_finds_the_proxy_by_address(
    emulator: Emulator, bottle: Topology
) -> None:
    """Its one leg is hostOnly, the sidecar's first is not, and the proxy is an address."""
    modes = {one["id"]: one["configuration"]["mode"] for one in shown(emulator, "network", "list")}
    legs = {
        one["id"].rpartition("-")[2]: [leg["network"] for leg in one["status"]["networks"]]
        for one in shown(emulator, "list")
    }
    assert [modes[name] for name in legs["agent"]] == ["hostOnly"]
    assert [modes[name] for name in legs["sidecar"]] == ["nat", "hostOnly"]
    assert bottle.environment["https_proxy"] == f"http://{bottle.sidecar_address}:9099"


@pytest.mark.parametrize(
    ("program", "status"),
    [("exit 0", 0), ("exit 1", 1), ("exit 64", 64), ("exit 255", 255), ("kill -9 $$", -9)],
)
def test_a_programs_end_is_its_own_whatever_the_commands_is(
    backend: EngineBackend, bottle: Topology, program: str, status: int
) -> None:
    """Statuses that the command itself ends with, and signals, come back as the program's."""
    argv = ["sh", "-c", f"cat; echo said >&2; {program}"]
    result = backend.exec(bottle, Vantage.AGENT, argv, stdin=b"\x00\xffgiven")
    assert (result.exit_status, result.stdout, result.stderr) == (
        status,
        b"\x00\xffgiven",
        b"said\n",
    )


def test_a_program_that_cannot_be_run_is_no_block(backend: EngineBackend, bottle: Topology) -> None:
    """A missing program, a guest that is gone, and a program that hangs are errors of transport."""
    with pytest.raises(TransportError, match="could not be run"):
        backend.exec(bottle, Vantage.AGENT, ["/nowhere/program"])
    with pytest.raises(DeadlineError, match="cut at its deadline") as caught:
        backend.exec(bottle, Vantage.AGENT, ["sh", "-c", "echo so far; sleep 60"], timeout=2.0)
    assert caught.value.stdout == b"so far\n"


def test_users_and_capabilities_are_what_each_place_is_meant_to_have(
    backend: EngineBackend, bottle: Topology
) -> None:
    """The agent has no capability, as root neither; the privileged guest has the network's two."""
    read = ["sh", "-c", "id -u; grep CapBnd /proc/self/status"]

    def asked(vantage: Vantage, user: User = User.AGENT) -> tuple[str, int]:
        uid, _, mask = backend.exec(bottle, vantage, read, user=user).out.split()
        return uid, int(mask, 16)

    assert asked(Vantage.AGENT) == ("1000", 0)
    assert asked(Vantage.AGENT, User.ROOT) == ("0", 0)
    uid, capabilities = asked(Vantage.PRIVILEGED)
    assert uid == "0"
    assert capabilities >> 12 & 3 == 3


def test_the_published_port_answers_at_its_alias_from_this_machine(
    backend: EngineBackend, bottle: Topology
) -> None:
    """A page, not only a connection: a proxy before it would accept without a service."""
    assert bottle.published is not None
    assert bottle.published.host in opening.ALIASES
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://{bottle.machine_published}/healthz", timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert any(event["event"] == "status" for event in backend.audit(bottle))


def test_two_bottles_publish_at_two_aliases(backend: EngineBackend, bottle: Topology) -> None:
    """The alias that another bottle listens on is passed over."""
    sibling = backend.up(BottleSpec())
    try:
        assert sibling.published != bottle.published
        assert sibling.published is not None
    finally:
        backend.down(sibling)


def test_an_alias_that_the_host_does_not_have_is_an_error_that_leaves_nothing(
    emulator: Emulator, backend: EngineBackend
) -> None:
    """As on a Mac before `ifconfig lo0 alias`: the container does not start, and all goes."""
    before = names(emulator)
    with pytest.raises(TransportError, match="assign requested address"):
        backend.up(BottleSpec(publish=PublishedPort("127.0.0.99")))
    assert names(emulator) == before


def test_new_routes_hold_in_a_running_sidecar(backend: EngineBackend, bottle: Topology) -> None:
    """The sidecar takes another list by a file of its root, and says so."""
    backend.reload(bottle, [EgressRoute("other.test")])
    assert any(event.get("edit") for event in backend.audit(bottle))


def test_an_agents_command_runs_and_its_output_is_read(backend: EngineBackend) -> None:
    """A long-running command of the user's is started; one that ends at once is an error."""
    topology = backend.up(BottleSpec(command=("sh", "-c", "echo begun; sleep 60")))
    try:
        wait_for(lambda: backend.logs(topology).get("agent output") == b"begun\n")
    finally:
        backend.down(topology)
    with pytest.raises(BringUpError, match="ended at once") as caught:
        backend.up(BottleSpec(command=("sh", "-c", "echo why; exit 3")))
    assert "exit 3" in caught.value.seen
    assert "why" in caught.value.seen


@pytest.mark.parametrize(
    ("fault", "answers"), [(Fault.KILL_SIDECAR, True), (Fault.FREEZE_SIDECAR, False)]
)
def test_a_killed_sidecar_refuses_and_a_frozen_one_is_silent(
    backend: EngineBackend, fault: Fault, *, answers: bool
) -> None:
    """The harm that can be done without the engine's help is done on return; others are refused."""
    topology = backend.up(BottleSpec(publish=None))
    dial = (
        "import socket, sys\ns = socket.create_connection((sys.argv[1], 9099), 3.0)\n"
        "s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')\nprint(len(s.recv(9)))"
    )
    argv = ["python3", "-c", dial, topology.sidecar_address]
    try:
        assert backend.exec(topology, Vantage.AGENT, argv).out == "9"
        backend.fault(topology, fault)
        result = backend.exec(topology, Vantage.AGENT, argv)
        assert not result.ok
        assert ("refused" in result.err) is answers
        with pytest.raises(NotSupported):
            backend.fault(topology, Fault.CUT_EGRESS)
    finally:
        backend.down(topology)


def test_a_harm_that_meets_nothing_is_an_error(
    backend: EngineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to signal, and a program that fails at it, are told: neither is a loss."""
    engine = backend.engine
    engine.create_network("harmless", internal=True)
    engine.run_guest(GuestRequest("idle", ("harmless",), "idle"))
    try:
        with pytest.raises(TransportError, match="no process in a guest to signal"):
            engine.fault("idle", Fault.KILL_SIDECAR, "harmless")
        monkeypatch.setattr(inside, "harm", lambda _: ["python3", "-c", "raise OSError(22)"])
        with pytest.raises(TransportError, match="could not be signalled") as caught:
            engine.fault("idle", Fault.KILL_SIDECAR, "harmless")
        assert "OSError" in caught.value.seen
    finally:
        engine.remove_guests(["idle"])
        engine.delete_networks(["harmless"])


def test_anothers_thing_of_the_same_name_is_never_deleted(
    emulator: Emulator, backend: EngineBackend
) -> None:
    """What could not be made since the name was taken is not ours, whatever our ledger says."""
    mark = backend.session.split(":")[1]
    name = f"bottle-{mark}-taken"
    ask(emulator, "network", "create", name)
    try:
        with pytest.raises(TransportError, match="failed"):
            backend.engine.create_network("taken", internal=True)
        backend.engine.delete_networks(["taken"])
        assert name in names(emulator)
    finally:
        ask(emulator, "network", "delete", name)


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (BottleSpec(rootfs="/tmp"), "rootfs"),
        (BottleSpec(image="example.test/none:1"), "image"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_exists(
    emulator: Emulator, backend: EngineBackend, spec: BottleSpec, where: str
) -> None:
    """A folder as file system, and an image that is not in the store: nothing is pulled unasked."""
    before = names(emulator)
    with pytest.raises(ConfigurationError) as caught:
        backend.up(spec)
    assert caught.value.where == where
    assert names(emulator) == before


def test_an_overlapping_subnet_is_the_commands_own_error(
    emulator: Emulator, backend: EngineBackend, bottle: Topology
) -> None:
    """What the command says on standard error is shown, and all that had been made is gone."""
    before = names(emulator)
    with pytest.raises(TransportError, match="overlap"):
        backend.up(BottleSpec(internal_subnet="192.168.128.0/24"))
    assert names(emulator) == before


def test_kept_bottles_live_on_and_are_not_swept(on_it: Emulator) -> None:
    """After ``keep`` nothing is removed, the lines say how to, and a later session spares it."""
    backend = EngineBackend(opening.emulated())
    backend.up(BottleSpec(publish=None))
    *enter, remove = backend.close(keep=True).splitlines()
    opening.emulated().close()
    mark = backend.session.split(":")[1]
    kept = {name for name in names(on_it) if name.startswith(f"bottle-{mark}-")}
    assert len(kept) == 4
    assert len(enter) == 2
    assert all(name in remove for name in kept)
    first, _, second = remove.removeprefix("remove all of it: ").partition(" && ")
    for line in (first, second):
        ask(on_it, *line.split()[1:])
    assert kept & names(on_it) == set()


def test_a_name_of_any_kind_becomes_one_that_the_command_takes(engine: ContainerEngine) -> None:
    """Long names and odd characters of a part's are brought within Apple's rules."""
    odd = "B_1." + "x" * 80
    try:
        engine.create_network("net", internal=True)
        made = engine.run_guest(GuestRequest(odd, ("net",), "odd"))
        assert made.name == odd
        assert engine.exec(odd, ["true"]).ok
        assert all(len(name) <= 63 for name in names_of(engine))
    finally:
        engine.remove_guests([odd])
        engine.delete_networks(["net"])


def names_of(engine: ContainerEngine) -> list[str]:
    """Name what the session has, at the engine."""
    return [one.name for one in engine.inventory()]


def test_a_second_far_side_on_one_host_is_told_what_to_do(on_it: Emulator) -> None:
    """Its addresses are always the same, so there is one at a time; the first is not disturbed."""
    before = names(on_it)
    first = EngineBackend(opening.emulated(), "guest")
    try:
        with pytest.raises(BringUpError, match="far side's network is somebody else's") as caught:
            EngineBackend(opening.emulated(), "guest")
        assert "overlaps an existing network" in caught.value.seen
        assert "a host of its own" in caught.value.next_step
        assert first.internet.addresses_of("allowed.test")
    finally:
        first.close()
    assert names(on_it) == before


def test_a_slow_deletion_is_waited_for(engine: ContainerEngine) -> None:
    """A network that stays in use for a while after its last guest goes in the end (#1318)."""
    backend = EngineBackend(engine)
    topology = backend.up(BottleSpec(publish=None))
    engine.program.variables["BOTTLE_EMULATOR_FAULTS"] = "slow-delete"
    began = time.monotonic()
    backend.down(topology)
    assert time.monotonic() - began < 50
    assert engine.inventory() == frozenset()
