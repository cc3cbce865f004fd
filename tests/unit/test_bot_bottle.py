"""Bottles that somebody else launched: objects that run a script, and what can go wrong."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.backends.adapter import checked
from pytest_bottle.backends.bot_bottle import BotBottleBackend, Running, running
from pytest_bottle.backends.command import backend as module
from pytest_bottle.backends.contract import Feature, Resource, User, Vantage
from pytest_bottle.errors import (
    BringUpError,
    ConfigurationError,
    DeadlineError,
    NotSupported,
    TransportError,
)
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEC = BottleSpec()
#: What does not come back as it went in from an exec of texts only.
EVERY = bytes(range(256)) * 100


class Shell:
    """Runs scripts on this machine, as bot-bottle's bottle does in a guest: texts, no bytes."""

    def exec(self, script: str) -> object:
        """Run a script."""
        return subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, timeout=200
        )


class Answering:
    """Answers each script by a function, without running it."""

    def __init__(self, answer: Callable[[str], object]) -> None:
        self.exec = answer


def opened(bottle: Any, **how: Any) -> BotBottleBackend:
    """Open a backend of one bottle."""
    return BotBottleBackend(running(bottle), python=sys.executable, **how)


def test_everything_comes_through() -> None:
    """Bytes both ways, and an exit status, although exec knows texts only."""
    backend = opened(Shell())
    topology = backend.up(SPEC)

    result = backend.exec(
        topology, Vantage.AGENT, ["sh", "-c", "cat; cat <&0 >&2; echo w >&2; exit 125"], stdin=EVERY
    )

    assert (result.stdout, result.stderr, result.exit_status) == (EVERY, b"w\n", 125)
    backend.close()


def test_it_keeps_the_contract() -> None:
    """Offered by the hook, it is looked at as any other, and named as it is offered."""
    backend = checked("mine", lambda: opened(Shell(), name="mine", version="7"))
    topology = backend.up(SPEC)

    assert backend.describe().name == "mine"
    assert backend.describe().features == frozenset[Feature]()
    with pytest.raises(NotSupported, match="the mine backend has no"):
        backend.exec(topology, Vantage.AGENT, ["true"], user=User.ROOT)
    with pytest.raises(NotSupported):
        backend.exec(topology, Vantage.SIDECAR, ["true"])
    backend.down(topology)
    with pytest.raises(TransportError, match="the bottle is down"):
        backend.exec(topology, Vantage.AGENT, ["true"])
    backend.close()


def test_features_are_what_is_given() -> None:
    """A way to be root, and a list of what is active, are features."""
    active = [SimpleNamespace(slug="mine", services=("egress", "git-gate"))]
    backend = opened(Running(Shell(), root=Shell()), as_root=True, active=lambda: active)
    topology = backend.up(SPEC)

    assert backend.describe().features == {Feature.EXEC_ROOT, Feature.INVENTORY}
    assert backend.exec(topology, Vantage.AGENT, ["true"], user=User.ROOT).ok
    assert backend.inventory() == {
        Resource("agent", "mine"),
        Resource("service", "mine/egress"),
        Resource("service", "mine/git-gate"),
    }
    backend.close()


def _raise(_script: str) -> object:
    raise RuntimeError("the daemon is gone")


BROKEN: dict[str, tuple[Callable[[str], object], str]] = {
    "garbage": (lambda _: SimpleNamespace(stdout="hm?", stderr="", returncode=0), "'hm"),
    "success": (lambda _: SimpleNamespace(stdout="", stderr="", exit_code=0), "output empty"),
    "refusal": (
        lambda _: SimpleNamespace(stdout="", stderr="no such container", exit_code=125),
        "exit status 125; .*'no such container",
    ),
    "bytes of another": (
        lambda _: SimpleNamespace(stdout=b"AAAA", stderr=b"", returncode=0),
        "exit status 0",
    ),
    "an exception": (_raise, "RuntimeError: the daemon is gone"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_exec_is_a_transport_error(way: str) -> None:
    """Whatever it answers: without the frame of this very order there is no outcome."""
    answer, seen = BROKEN[way]
    backend = opened(Answering(answer))
    topology = backend.up(SPEC)

    with pytest.raises(TransportError, match=seen):
        backend.exec(topology, Vantage.AGENT, ["true"])
    backend.close()


def test_an_exec_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up soon after the program's own deadline."""
    monkeypatch.setattr(module, "_WAY", 0.2)
    over = threading.Event()
    backend = opened(Answering(lambda _: over.wait(60)))
    topology = backend.up(SPEC)

    with pytest.raises(DeadlineError, match="given up at its deadline"):
        backend.exec(topology, Vantage.AGENT, ["true"], timeout=0.2)
    over.set()
    backend.close()


def test_a_program_that_hangs() -> None:
    """It is cut where it runs, and its output so far is told."""
    backend = opened(Shell())
    topology = backend.up(SPEC)

    with pytest.raises(DeadlineError) as caught:
        backend.exec(topology, Vantage.AGENT, ["sh", "-c", "echo so far; sleep 99"], timeout=2.0)

    assert caught.value.stdout == b"so far\n"
    backend.close()


def test_an_order_longer_than_an_argument() -> None:
    """It goes in by parts, and the file that they make is gone afterwards."""
    scripts: list[str] = []
    shell = Shell()

    def run(script: str) -> object:
        scripts.append(script)
        return shell.exec(script)

    backend = opened(Answering(run))
    topology = backend.up(SPEC)
    odd = random.Random(7).randbytes(400_000)

    result = backend.exec(topology, Vantage.AGENT, ["cat"], stdin=odd)

    assert result.stdout == odd
    files = {found for script in scripts for found in re.findall(r"/tmp/bottle-order-\w+", script)}
    assert len(files) == 1
    assert not any(Path(file).exists() for file in files)
    backend.close()


def test_a_part_that_gets_lost() -> None:
    """Then nobody knows what became of the program."""
    shell, count = Shell(), itertools.count()
    bottle = Answering(lambda script: shell.exec("true" if next(count) == 1 else script))
    backend = opened(bottle)
    topology = backend.up(SPEC)

    with pytest.raises(TransportError, match="frame did not come back"):
        backend.exec(topology, Vantage.AGENT, ["cat"], stdin=random.Random(7).randbytes(400_000))
    backend.close()


def test_launches_are_entered_and_left() -> None:
    """Each bottle is launched, and gone when it is taken down, or at the end of the session."""
    said = []

    @contextlib.contextmanager
    def launch(way_in: Callable[[str], list[str]]) -> Iterator[Shell]:
        assert way_in("/") == []
        said.append("up")
        try:
            yield Shell()
        finally:
            said.append("down")

    backend = BotBottleBackend(launch, python=sys.executable)
    first = backend.up(SPEC)
    backend.up(SPEC)
    backend.down(first)
    assert said == ["up", "up", "down"]
    backend.close()

    assert said == ["up", "up", "down", "down"]


def test_a_launch_that_fails() -> None:
    """It is an error of coming up, with what was raised; so is a bottle without its root."""

    @contextlib.contextmanager
    def launch(_way_in: object) -> Iterator[Shell]:
        with open("/no/such/image"):
            yield Shell()

    with pytest.raises(BringUpError, match=r"FileNotFoundError: .*/no/such/image"):
        BotBottleBackend(launch).up(SPEC)
    with pytest.raises(ConfigurationError, match="without a way to be root"):
        opened(Shell(), as_root=True).up(SPEC)


def test_one_bottle_is_lent_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bottle that runs already has no second one beside it, and is free again afterwards."""
    backend = opened(Shell())
    topology = backend.up(SPEC)

    with pytest.raises(BringUpError, match="there is only one bottle"):
        backend.up(SPEC)
    backend.down(topology)

    assert backend.up(SPEC).id != topology.id
    backend.close()
