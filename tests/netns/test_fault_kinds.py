"""What each fault does to a bottle, as seen from its parts, and that it can be taken down then."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Fault, Resource, Vantage
from pytest_bottle.bottle import Bottle, FetchError
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.errors import Inconclusive, NotSupported, TransportError
from pytest_bottle.firing import run_one
from pytest_bottle.spec import BottleSpec
from tests.judging import named
from tests.sidecars import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.bottle import Guest

URL = "http://allowed.test/"


@pytest.fixture
def bottle(netns: NetnsBackend) -> Iterator[Bottle]:
    """A bottle that works, and may be broken."""
    with Bottle(netns, BottleSpec()) as bottle:
        assert bottle.agent.fetch(URL).status == 200
        yield bottle


def states(guest: Guest) -> dict[str, str]:
    """The name and the state of every process in a guest, but for the program that looks."""
    program = "cat /proc/[0-9]*/stat"
    lines = guest.run("sh", "-c", program).out.splitlines()
    rows = [line.partition("(")[2].rpartition(")") for line in lines]
    return {name: rest.split()[0] for name, _, rest in rows if name not in ("sh", "cat")}


def cause(guest: Guest, timeout: float = 60.0) -> str:
    """Why a fetch by the proxy gets no answer."""
    with pytest.raises(FetchError) as caught:
        guest.fetch(URL, timeout=timeout)
    return caught.value.cause


def test_a_sound_sidecar_runs(bottle: Bottle) -> None:
    """The control of the others: its service is there, and asleep until somebody comes."""
    asleep = {"sleep": "S", "bottle-sidecar": "S"}  # once it is done with the fixture's request
    wait_for(lambda: states(bottle.sidecar) == asleep)


def test_killed(netns: NetnsBackend, bottle: Bottle) -> None:
    """The sidecar's processes are gone when the call returns; its guest and its legs stay."""
    netns.fault(bottle.topology, Fault.KILL_SIDECAR)

    assert states(bottle.sidecar).keys() == {"sleep"}
    assert cause(bottle.agent) == "refused"
    assert bottle.sidecar.fetch("http://198.51.100.9/", proxy=None).status == 200


def test_killed_with_what_was_run_there(netns: NetnsBackend, bottle: Bottle) -> None:
    """A command that still runs in the sidecar is killed as well, and the agent's are not."""
    started = (
        "import os, time; os.fork() or (os.setsid(), os.close(1), os.close(2), time.sleep(60))"
    )
    for guest in (bottle.sidecar, bottle.agent):
        guest.run(bottle.topology.python, "-I", "-S", "-c", started)

    assert sum(name.startswith("python") for name in states(bottle.sidecar)) == 1
    netns.fault(bottle.topology, Fault.KILL_SIDECAR)

    assert states(bottle.sidecar).keys() == {"sleep"}
    assert sum(name.startswith("python") for name in states(bottle.agent)) == 1


def test_frozen(netns: NetnsBackend, bottle: Bottle) -> None:
    """A frozen sidecar takes connections, by its kernel, and never answers."""
    netns.fault(bottle.topology, Fault.FREEZE_SIDECAR)

    assert states(bottle.sidecar) == {"sleep": "S", "bottle-sidecar": "T"}
    assert cause(bottle.agent, timeout=0.2) == "timeout"


def test_cut_off(netns: NetnsBackend, bottle: Bottle) -> None:
    """Without its outer leg the sidecar lives, and has no way out and no route to one."""
    netns.fault(bottle.topology, Fault.CUT_EGRESS)

    wait_for(lambda: states(bottle.sidecar)["bottle-sidecar"] == "S")
    assert "eth0" not in bottle.sidecar.run("cat", "/proc/net/route").out
    with pytest.raises(FetchError) as caught:
        bottle.sidecar.fetch("http://198.51.100.9/", proxy=None)
    assert caught.value.cause == "unreachable"
    assert bottle.agent.fetch(URL, timeout=100).status in (502, 504)


def test_removed(netns: NetnsBackend, bottle: Bottle) -> None:
    """Nothing of a removed sidecar is left, and nothing can be run in it."""
    name = bottle.topology.sidecar.name
    assert Resource("file", name) in netns.inventory()
    netns.fault(bottle.topology, Fault.REMOVE_SIDECAR)

    assert Resource("file", name) not in netns.inventory()
    with pytest.raises(TransportError):
        bottle.sidecar.run("true")
    # Until the agent's kernel asks for its link address again, packets to it are just lost.
    assert cause(bottle.agent, timeout=0.2) in ("timeout", "unreachable")


def test_a_restarted_sidecar_is_itself(netns: NetnsBackend, bottle: Bottle) -> None:
    """It serves at the same address with the same policy, and at the same published port."""
    netns.fault(bottle.topology, Fault.RESTART_SIDECAR)

    assert set(states(bottle.sidecar)) == {"sleep", "bottle-sidecar"}
    assert bottle.agent.fetch(URL).status == 200
    assert bottle.agent.fetch("http://denied.test/").status == 403
    published = bottle.topology.machine_published
    assert published is not None
    socket.create_connection(published, 30).close()


def test_a_restarted_agent_runs_its_command_again(netns: NetnsBackend) -> None:
    """It has its address, its command has been started afresh, and what it had is gone."""
    command = ("sh", "-c", "echo here >> /tmp/runs; wc -l < /tmp/runs; exec sleep 1000")
    with Bottle(netns, BottleSpec(command=command)) as bottle:
        netns.fault(bottle.topology, Fault.RESTART_AGENT)
        netns.fault(bottle.topology, Fault.RESTART_AGENT)

        assert bottle.agent.fetch(URL).status == 200
        assert bottle.topology.agent_address in bottle.agent.run("cat", "/proc/net/fib_trie").out
        wait_for(lambda: netns.logs(bottle.topology)["agent output"].split() == [b"1"])


def test_reloaded_rules_are_those_that_were(netns: NetnsBackend, bottle: Bottle) -> None:
    """H's kernel tells of rules that went and came, as many each; the bottle works afterwards."""
    with ThreadPoolExecutor(1) as pool:
        what = {"kind": "rules", "deadline": 5.0}
        listening = pool.submit(run_one, netns, bottle.topology, Vantage.HOST, what)
        while not listening.done():
            netns.fault(bottle.topology, Fault.RELOAD_FIREWALL)
            time.sleep(0.2)
    counts = listening.result()["counts"]

    assert counts["added"] >= 5
    assert abs(counts["added"] - counts["deleted"]) < 20  # it began, or ended, within one
    assert bottle.agent.fetch(URL).status == 200


def test_a_connected_agent_gets_out(netns: NetnsBackend, bottle: Bottle) -> None:
    """It has a second leg, and a way out that no proxy is on."""
    with pytest.raises(FetchError):
        bottle.agent.fetch("http://198.51.100.9/", proxy=None)
    netns.fault(bottle.topology, Fault.CONNECT_AGENT)

    assert "eth1" in bottle.agent.run("cat", "/proc/net/route").out
    assert bottle.agent.fetch("http://198.51.100.9/", proxy=None).status == 200


@pytest.mark.parametrize(
    "fault", [one for one in Fault if one is not Fault.STOP_ENGINE], ids=lambda one: one.name
)
def test_a_broken_bottle_goes_down(netns: NetnsBackend, fault: Fault) -> None:
    """After harm to a part of it a bottle can be taken down, and nothing of it is left."""
    with Bottle(netns, BottleSpec()) as first:
        first.guest(Vantage.HOST).run("true")  # H's own first process stays for the session
    before = netns.inventory()
    with Bottle(netns, BottleSpec()) as bottle:
        netns.fault(bottle.topology, fault)

    assert netns.inventory() == before


def test_an_engine_that_is_stopped() -> None:
    """Nothing of its session is left, and whoever takes a bottle down is told, but not twice."""
    backend = NetnsBackend()
    bottle = Bottle(backend, BottleSpec())
    session = backend.session

    backend.fault(bottle.topology, Fault.STOP_ENGINE)

    with pytest.raises(TransportError, match="server is gone"):
        bottle.close()
    assert backend.residue(session) == frozenset()
    backend.close()


def test_the_same_fault_again(netns: NetnsBackend, bottle: Bottle) -> None:
    """Killing the dead is no error; harm to a guest that is gone is one, in words."""
    for fault in (Fault.KILL_SIDECAR, Fault.KILL_SIDECAR, Fault.REMOVE_SIDECAR):
        netns.fault(bottle.topology, fault)
    with pytest.raises(TransportError, match="there is no such guest"):
        netns.fault(bottle.topology, Fault.REMOVE_SIDECAR)


@pytest.mark.parametrize(("disposable", "allowed"), [(True, False), (False, True), (False, False)])
def test_a_host_of_others_is_changed_only_if_allowed(
    netns: NetnsBackend, monkeypatch: pytest.MonkeyPatch, disposable: bool, allowed: bool
) -> None:
    """LIFE-05 reloads the firewall of a host that goes with the session, or with the flag."""
    info = netns.describe()._replace(disposable_host=disposable)
    monkeypatch.setattr(netns, "describe", lambda: info)
    reloads: list[Fault] = []
    monkeypatch.setattr(netns, "fault", lambda _, fault: reloads.append(fault))
    bench = Bench(netns, allow_host_faults=allowed)
    try:
        with pytest.raises(Inconclusive if disposable or allowed else NotSupported):
            bench.run(named("LIFE-05"))
    finally:
        bench.close()

    assert bool(reloads) == (disposable or allowed)
