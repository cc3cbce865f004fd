"""The command backend, on command lines that run here: what comes through, and what breaks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends import running
from pytest_bottle.backends.adapter import checked
from pytest_bottle.backends.command import backend as module
from pytest_bottle.backends.command.backend import CommandBackend
from pytest_bottle.backends.command.orders import Orders
from pytest_bottle.backends.contract import Fault, Feature, Resource, User, Vantage
from pytest_bottle.errors import (
    BottleError,
    BringUpError,
    ConfigurationError,
    DeadlineError,
    NotSupported,
    TransportError,
)
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_bottle.backends.contract import ExecResult, Topology

    Open = Callable[..., "Running"]

HERE = ("sh", "-c", 'exec "$@"', "sh")
SPEC = BottleSpec(timeout=60.0)
#: Seconds that no other process on the machine sleeps for.
FOREVER = f"4242.{os.getpid()}"


class Running:
    """A bottle of a command backend."""

    def __init__(self, backend: CommandBackend, topology: Topology) -> None:
        self.backend = backend
        self.topology = topology

    def run(self, *argv: str, **how: object) -> ExecResult:
        """Run a program in the agent."""
        return self.backend.exec(self.topology, Vantage.AGENT, argv, **how)  # type: ignore[arg-type]


def orders(folder: Path, places: Sequence[str] = HERE, **verbs: str) -> Orders:
    """Say what a backend runs: for each verb a line of shell."""
    return Orders(
        source="bottle-command.yaml",
        path=str(folder / "bottle-command.yaml"),
        python=sys.executable,
        deadline=60.0,
        places={"agent": tuple(places)},
        verbs={verb: ("sh", "-ec", line) for verb, line in verbs.items()},
    )


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a command backend and bring a bottle up; it is closed at the end."""
    monkeypatch.setattr(module, "_WAY", 30.0)
    backends = []

    def open_it(places: Sequence[str] = HERE, **verbs: str) -> Running:
        backend = CommandBackend(orders(tmp_path, places, **verbs))
        backends.append(backend)
        return Running(backend, backend.up(SPEC))

    yield open_it
    for backend in backends:
        backend.close()


# -- what comes through ----------------------------------------------------------------------------


def test_everything_of_a_program_comes_through(opened: Open) -> None:
    """Standard input, output and error, every byte of them, and the exit status."""
    every = bytes(range(256)) * 1000
    result = opened().run("sh", "-c", "cat; echo wrong >&2; exit 7", stdin=every)

    assert result.stdout == every
    assert (result.stderr, result.exit_status) == (b"wrong\n", 7)


@pytest.mark.parametrize("status", [1, 125, 126, 127, 255])
def test_no_exit_status_of_a_program_is_a_transports(opened: Open, status: int) -> None:
    """Numbers that transports end with are the program's own when it is the program's end."""
    assert opened().run("sh", "-c", f"exit {status}").exit_status == status


def test_a_program_ended_by_a_signal(opened: Open) -> None:
    """It is told apart from an exit status of 128 and more."""
    bottle = opened()

    assert bottle.run("sh", "-c", "kill -TERM $$").exit_status == -15
    assert bottle.run("sh", "-c", "exit 143").exit_status == 143


def test_arguments_and_variables_come_through(opened: Open) -> None:
    """Blanks, quotes, newlines and odd bytes are no affair of the transport's."""
    odd = "a b\n'\"$x\\ ü\udcff"
    show = "import os, sys; os.write(1, os.fsencode(sys.argv[1] + os.environ['ODD']))"
    result = opened().run(sys.executable, "-c", show, odd, environment={"ODD": odd})

    assert result.stdout == os.fsencode(odd * 2)


def test_what_a_program_leaves_running_is_not_waited_for(opened: Open) -> None:
    """A grandchild that holds the output open does not hold up the answer."""
    result = opened().run("sh", "-c", "sleep 120 & echo $!", timeout=100.0)

    os.kill(int(result.out), signal.SIGKILL)
    assert result.exit_status == 0
    assert result.duration < 60


def test_a_program_that_does_not_read(opened: Open) -> None:
    """Input that nobody wants is no error."""
    assert opened().run("true", stdin=b"x" * 1_000_000).exit_status == 0


def test_variables_of_the_bottle(opened: Open) -> None:
    """The agent has what ``up`` says and what the specification says; an exec's own win."""
    bottle = opened(up="""echo '{"environment": {"ONE": "up", "TWO": "up"}}'""")
    topology = bottle.topology._replace(environment={**bottle.topology.environment, "THREE": "3"})
    result = bottle.backend.exec(
        topology, Vantage.AGENT, ["sh", "-c", "echo $ONE $TWO $THREE"], environment={"TWO": "2"}
    )

    assert result.out == "up 2 3"


# -- what breaks -----------------------------------------------------------------------------------

BROKEN = {
    "garbage": ("echo garbage", "exit status 0; standard output 'garbage"),
    "nothing": ("exit 0", "exit status 0; standard output empty"),
    "refused": ("echo no such container >&2; exit 125", "exit status 125; .*'no such container"),
    "killed": ("kill -9 $$", "signal 9"),
    "a banner": ('echo welcome; exec "$@"', "standard output 'welcome"),
    "a word behind": ('"$@"; echo bye', "exit status 0; standard output"),
    "midway": ('"$@" | head -c 20', "exit status 0; standard output"),
    "no input": ('"$@" </dev/null', "exit status 1; .*standard error"),
    "half of it": ('head -c 700 | "$@"', "standard input broke off"),
    "a terminal": ('"$@" | sed "s/$/\\r/"', "exit status 0; standard output"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_exec_is_a_transport_error(opened: Open, way: str) -> None:
    """Whatever it prints and ends with: without the program's own word there is no outcome."""
    script, seen = BROKEN[way]
    bottle = opened(("sh", "-c", script, "sh"))

    with pytest.raises(TransportError, match=seen) as caught:
        bottle.run("echo", "hello", stdin=b"x" * 1000)
    assert "frame" in str(caught.value) or "could not be run" in str(caught.value)


def test_a_forged_outcome_is_none(opened: Open) -> None:
    """Somebody who says that all went well, without the word of this very command, says nothing."""
    bottle = opened(("sh", "-c", 'echo "$(printf %032d 0) exit 0 0 0"; echo; printf "%032d\\n" 0'))

    with pytest.raises(TransportError, match="exit status 0"):
        bottle.run("true")


def test_a_program_that_does_not_exist(opened: Open) -> None:
    """It could not be run, and the message says why."""
    with pytest.raises(TransportError, match="no-such-program: No such file or directory"):
        opened().run("no-such-program")


def test_a_command_line_that_does_not_exist(opened: Open) -> None:
    """A transport that cannot be started is no outcome of the program."""
    with pytest.raises(TransportError, match="could not be started"):
        opened(("./no-such-transport",)).run("true")


def test_a_program_that_hangs(opened: Open) -> None:
    """It is cut where it runs, and its output so far is told."""
    with pytest.raises(DeadlineError) as caught:
        opened().run("sh", "-c", "echo so far; sleep 100", timeout=2.0)

    assert caught.value.stdout == b"so far\n"


def test_a_transport_that_hangs(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed with all of its process group, soon after the program's own deadline."""
    monkeypatch.setattr(module, "_WAY", 2.0)
    bottle = opened(("sh", "-c", f"sleep {FOREVER} & sleep {FOREVER}"))
    started = time.monotonic()

    with pytest.raises(DeadlineError, match="killed at its deadline"):
        bottle.run("true", timeout=0.3)

    assert time.monotonic() - started < 60
    assert left_sleeping() == []


def left_sleeping() -> list[str]:
    """Find processes of ours that sleep for ever, and still do a little later."""
    end = time.monotonic() + 20
    while (found := list(sleepers())) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def sleepers() -> Iterator[str]:
    """Find processes that sleep for just so long."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read() == f"sleep\0{FOREVER}\0".encode():
                    yield pid
        except OSError:
            continue


def test_a_transport_that_never_stops_talking(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when it has said more than any answer is long."""
    monkeypatch.setattr(running, "LARGEST", 1 << 20)

    with pytest.raises(TransportError, match="printed more than"):
        opened(("sh", "-c", "yes")).run("true", timeout=60.0)


# -- up and down -----------------------------------------------------------------------------------

FAILING = {
    "it fails": ("echo halfway >> log; echo why >&2; exit 3", "exit status 3; .*'why"),
    "it is killed": ("echo halfway >> log; kill -9 $$", "signal 9"),
    "it hangs": (f"echo halfway >> log; sleep {FOREVER}", "killed at its deadline of 2 s"),
    "it prints no JSON": ("echo halfway >> log; echo up", "(?s)JSON; this is none.*'up"),
    "it prints a list": ("echo halfway >> log; echo '[]'", "a mapping is needed"),
    "it prints another's words": (
        """echo halfway >> log; echo '{"agnet": "10.0.0.2", "proxy": "here"}'""",
        "(?s)did you mean 'agent'.*proxy: this is no address with a port",
    ),
}


@pytest.mark.parametrize("way", FAILING)
def test_a_bottle_that_does_not_come_up(tmp_path: Path, way: str) -> None:
    """The error quotes the command line and what it said; ``down`` takes away what there was."""
    script, seen = FAILING[way]
    backend = CommandBackend(orders(tmp_path, up=script, down='echo "down $BOTTLE_ID" >> log'))

    with pytest.raises(BringUpError, match=seen) as caught:
        backend.up(BottleSpec(timeout=2.0 if way == "it hangs" else 60.0))

    assert "sh -ec" in str(caught.value)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert (first, second.split()[0]) == ("halfway", "down")
    assert len(second.split()) == 2
    backend.close()
    assert left_sleeping() == []


def test_a_down_that_fails_too(tmp_path: Path) -> None:
    """Both are told: why it did not come up, and why not all of it may be gone."""
    backend = CommandBackend(orders(tmp_path, up="exit 3", down="echo stuck >&2; exit 4"))

    with pytest.raises(BringUpError) as caught:
        backend.up(SPEC)

    assert "stuck" in caught.value.__notes__[0]


def test_a_bottle_has_an_identity(opened: Open, tmp_path: Path) -> None:
    """``down`` gets the same identity as ``up``, and the handle that this printed."""
    say = 'echo "$BOTTLE_SESSION $BOTTLE_ID $BOTTLE_HANDLE" >> log'
    bottle = opened(up=f"""{say}; echo '{{"handle": "4711"}}'""", down=say)
    bottle.backend.down(bottle.topology)
    bottle.backend.down(bottle.topology)  # a second time is no error

    up, down = (tmp_path / "log").read_text().splitlines()
    assert up.split() == [bottle.backend.session, bottle.topology.id]
    assert down.split() == [bottle.backend.session, bottle.topology.id, "4711"]
    with pytest.raises(TransportError, match="the bottle is down"):
        bottle.run("true")


def test_up_reads_what_the_bottle_is_to_be(opened: Open) -> None:
    """The specification comes by standard input."""
    bottle = opened(up="cat > spec.json")
    with open(f"{bottle.backend._orders.folder}/spec.json") as file:
        spec = json.load(file)

    assert spec["egress"] == [{"host": "allowed.test", "ports": [80, 443]}]
    assert spec["timeout"] == SPEC.timeout


def test_words_that_up_does_not_understand(tmp_path: Path) -> None:
    """They are refused before anything is run, not ignored."""
    backend = CommandBackend(orders(tmp_path, up="echo up >> log"))

    with pytest.raises(ConfigurationError, match=r"seen: +image"):
        backend.up(BottleSpec(image="agent:latest"))

    assert not (tmp_path / "log").exists()


def test_the_pipe_of_a_bottle_ends_with_it(opened: Open, tmp_path: Path) -> None:
    """What ``up`` has left running sees the end of its pipe at ``down``, before ``down`` runs."""
    waits = "until test -e ended; do sleep 0.01; done"
    bottle = opened(up='(cat <"$BOTTLE_LIFE"; touch ended) >/dev/null 2>&1 &', down=waits)
    time.sleep(0.2)
    assert not (tmp_path / "ended").exists()

    bottle.backend.down(bottle.topology)

    assert (tmp_path / "ended").exists()


def test_the_pipe_of_a_bottle_ends_with_its_owner(tmp_path: Path) -> None:
    """So it does when the process that brought it up is killed: no code of ours has to run."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.unit.test_command_orders import SPEC, orders\n"
        "from pytest_bottle.backends.command.backend import CommandBackend\n"
        "up = '(cat <\"$BOTTLE_LIFE\"; touch ended) >/dev/null 2>&1 &'\n"
        "CommandBackend(orders(Path(sys.argv[1]), up=up)).up(SPEC)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.wait()
    process.stdout.close()

    end = time.monotonic() + 30
    while not (tmp_path / "ended").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / "ended").exists()


def test_bottles_come_up_beside_each_other(opened: Open) -> None:
    """Threads may bring bottles up at once; each has an identity of its own."""
    # Each waits until all have begun: after each other none would come up.
    meeting = "touch meet.$BOTTLE_ID; until set -- meet.*; test $# -gt 4; do sleep 0.01; done"
    backend = opened(up=f"test -e all || {{ touch all meet.first; exit; }}; {meeting}").backend
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(backend.up(SPEC).id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({*found}) == 4


# -- the other verbs -------------------------------------------------------------------------------


def test_the_other_verbs(opened: Open, tmp_path: Path) -> None:
    """Each has its answer, read from JSON; a fault is told by a word."""
    bottle = opened(
        inventory="""echo '[{"kind": "process", "name": "7"}]'""",
        audit="""echo '{"host": "a.test"}'; echo '{"host": "b.test"}'""",
        logs="""echo '{"sidecar": "it spoke"}'""",
        fault='echo "$BOTTLE_FAULT" > fault',
        address="""echo '"192.0.2.9"'""",
        residue="""printf '[{"kind": "process", "name": "%s"}]' "$BOTTLE_SESSION" """,
        sweep='echo "$BOTTLE_SESSION" > swept',
    )
    backend, topology = bottle.backend, bottle.topology

    backend.fault(topology, Fault.KILL_SIDECAR)
    backend.sweep("another")

    assert backend.inventory() == {Resource("process", "7")}
    assert backend.audit(topology) == [{"host": "a.test"}, {"host": "b.test"}]
    assert backend.logs(topology) == {"sidecar": b"it spoke"}
    assert backend.address(topology, Vantage.PRIVILEGED) == "192.0.2.9"
    assert backend.residue("another") == {Resource("process", "another")}
    assert (tmp_path / "fault").read_text() == "kill-sidecar\n"
    assert (tmp_path / "swept").read_text() == "another\n"


def test_what_is_not_mapped_is_not_supported(opened: Open) -> None:
    """A missing command line is a missing feature, and no error of a transport's."""
    bottle = opened()
    backend, topology = bottle.backend, bottle.topology

    for ask in (
        lambda: backend.inventory(),
        lambda: backend.audit(topology),
        lambda: backend.fault(topology, Fault.KILL_SIDECAR),
        lambda: backend.exec(topology, Vantage.HOST, ["true"]),
        lambda: backend.exec(topology, Vantage.AGENT, ["true"], user=User.ROOT),
        lambda: backend.internet,
    ):
        with pytest.raises(NotSupported, match="the command backend has no"):
            ask()
    assert backend.logs(topology) == {}
    assert backend.trust() == ""


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "process 7",
        "{}",
        '[["process", "7"]]',
        '[{"kind": "process"}]',
        '[{"kind": 1, "name": "7"}]',
    ],
)
def test_an_inventory_of_garbage(opened: Open, answer: str) -> None:
    """What cannot be read is an error, and not an inventory of nothing."""
    bottle = opened(inventory=f"printf %s {shlex.quote(answer)}")

    with pytest.raises(TransportError, match="something else than it was asked"):
        bottle.backend.inventory()


def test_a_verb_that_hangs(opened: Open, tmp_path: Path) -> None:
    """Every command line has a deadline."""
    backend = CommandBackend(orders(tmp_path, inventory=f"sleep {FOREVER}"))
    object.__setattr__(backend._orders, "deadline", 0.3)

    with pytest.raises(TransportError, match=r"killed at its deadline of 0\.3 s"):
        backend.inventory()
    assert left_sleeping() == []


def test_it_is_held_to_the_contract(tmp_path: Path) -> None:
    """A python that is not there is found at the first bottle, which is taken down."""
    wrong = orders(tmp_path, down="echo down >> log")
    object.__setattr__(wrong, "python", "/no/such/python")
    backend = checked("command", lambda: CommandBackend(wrong))

    with pytest.raises(BringUpError, match="the probe's interpreter does not run"):
        backend.up(SPEC)

    assert (tmp_path / "log").read_text() == "down\n"
    assert backend.describe().features == frozenset[Feature]()
    backend.close()


def test_errors_are_of_the_family(opened: Open) -> None:
    """Whatever breaks is a BottleError, which the suite reports as INCONCLUSIVE."""
    for way in BROKEN.values():
        with pytest.raises(BottleError):
            opened(("sh", "-c", way[0], "sh")).run("echo", "hello", stdin=b"x" * 1000)
