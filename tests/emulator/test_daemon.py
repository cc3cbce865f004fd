"""The emulator's daemon: started and stopped by the command line, and gone however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_bottle import emulator
from tests.emulating import IMAGE, Cli
from tests.family import allowed, family_of, is_running, process, wait_until_gone
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("netns_works")

_OWNER = """
import sys, time
from pytest_bottle.emulator import Emulator
with Emulator() as daemon:
    print(daemon.pid, daemon.root, flush=True)
    time.sleep(60)
"""


class Installed(NamedTuple):
    """A command line whose daemon is started by itself; enough of an emulator for :class:`Cli`."""

    path: Path
    environment: dict[str, str]


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[Cli]:
    """The command line with a folder of state of its own, and no daemon yet."""
    path = emulator.install(tmp_path / "bin", "1.2.2")
    # A path that no socket's address could hold.
    root = tmp_path / ("a" * 100)
    cli = Cli(Installed(path, {"CONTAINER_APP_ROOT": str(root)}))
    yield cli
    cli("system", "stop")


def test_it_is_started_and_stopped_by_the_command_line(by_hand: Cli) -> None:
    """Before and after, every client is told what to start; starting twice is no error."""
    found = by_hand("list")
    assert (found.status, found.out) == (1, "")
    assert "container system start" in found.err
    said = by_hand("system", "status", "--format", "json")
    assert (said.status, said.json["status"]) == (1, "unregistered")
    assert "Plugins are unavailable" in by_hand("compose", "up").err
    by_hand.ok("system", "start", "--enable-kernel-install")
    by_hand.ok("system", "start", "--enable-kernel-install")
    assert json.loads(by_hand.ok("system", "status", "--format", "json"))["status"] == "running"
    assert by_hand.ok("list", "--format", "json") == "[]\n"
    by_hand.ok("system", "stop")
    assert by_hand("system", "status").status == 1


def test_what_is_known_outlives_the_daemon(by_hand: Cli) -> None:
    """After a restart all containers are stopped, --rm ones are gone, and images are there."""
    by_hand.ok("system", "start")
    by_hand.load()
    by_hand.ok("network", "create", "--internal", "inner")
    by_hand.run("web", "--network", "inner")
    by_hand.run("brief", "--rm")
    by_hand.ok("system", "stop")
    by_hand.ok("system", "start")
    assert by_hand.ok("list", "-a", "-q") == "web\n"
    assert by_hand.inspect("web")["status"]["state"] == "stopped"
    assert by_hand("network", "delete", "inner").status == 1
    assert by_hand.ok("start", "web") == "web\n"
    assert by_hand.ok("image", "list", "-q") == f"{IMAGE}\n"


def test_it_outlives_who_started_it_in_a_worker(
    by_hand: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a worker of pytest-xdist a netns session ends with the worker's parent; not this one."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    by_hand.ok("system", "start")
    time.sleep(0.3)  # the one who started it has ended
    assert by_hand.ok("network", "create", "inner") == "inner\n"


def test_the_module_is_the_executable(by_hand: Cli) -> None:
    """`python -m pytest_bottle.emulator.apple_container` takes the same words."""
    argv = [sys.executable, "-m", "pytest_bottle.emulator.apple_container"]
    variables = {**os.environ, **by_hand.daemon.environment}

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*argv, *words], env=variables, capture_output=True, check=False, timeout=200
        )

    assert call("--version").stdout.startswith(b"container CLI version 1.2.2 (build: emulated")
    assert call("list").returncode == 1
    assert call("run", "--bad").returncode == 64


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The message of the daemon comes through."""
    path = emulator.install(tmp_path / "bin")
    cli = Cli(Installed(path, {"CONTAINER_APP_ROOT": str(tmp_path)}))
    (tmp_path / "state.json").write_text("no JSON")
    found = cli("system", "start")
    assert found.status == 1
    assert "failed to start the API server" in found.err
    assert "JSON" in found.err


def gone(path: str, seconds: float = 1.0) -> bool:
    """Tell whether a folder is gone within so many seconds."""
    end = time.monotonic() + allowed(seconds)
    while Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)
    return not Path(path).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_daemon_that_is_killed_leaves_nothing(number: int) -> None:
    """No process, no namespace and no folder a second later, with containers running."""
    with emulator.Emulator() as daemon:
        cli = Cli(daemon)
        cli.load()
        cli.ok("network", "create", "--internal", "inner")
        cli.run("agent", "--network", "inner", "-p", f"127.0.0.1:{free_port()}:80")
        family = family_of(daemon.pid)
        assert len(family.processes) > 5
        os.kill(daemon.pid, number)
        assert wait_until_gone(family, allowed()) == []
        assert gone(daemon.root)
        assert cli_is_refused(cli)


def cli_is_refused(cli: Cli) -> bool:
    """Whether the executable went with the folder, as it must, or finds no daemon."""
    try:
        return cli("list").status == 1
    except FileNotFoundError:
        return True


def test_an_owner_that_is_killed_takes_it_with_it() -> None:
    """The daemon, its namespaces and its folder go within a second of the owner."""
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True) as own:
        assert own.stdout is not None
        pid, root = own.stdout.readline().split()
        daemon, family = process(int(pid)), family_of(int(pid))
        assert Path(root).is_dir()
        own.kill()
        own.wait(60)
        assert wait_until_gone(family, allowed()) == []
        assert gone(root)
        assert not is_running(daemon)


def test_the_end_of_the_block_is_the_end_of_all() -> None:
    """Leaving the context leaves nothing, whatever still runs."""
    with emulator.Emulator() as daemon:
        cli = Cli(daemon)
        cli.load()
        cli.run("web")
        family, root = family_of(daemon.pid), daemon.root
    assert wait_until_gone(family, allowed()) == []
    assert not Path(root).exists()


def test_a_call_is_told_when_the_daemon_dies() -> None:
    """A client that waits for an answer ends with an error, and not never."""
    with emulator.Emulator() as daemon:
        cli = Cli(daemon)
        cli.load()
        cli.run("web")
        variables = {**os.environ, **daemon.environment}
        with subprocess.Popen(
            [daemon.path, "exec", "web", "sh", "-c", "echo there; exec sleep 600"],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as call:
            assert call.stdout is not None
            assert call.stdout.readline() == b"there\n"
            os.kill(daemon.pid, signal.SIGKILL)
            _, said = call.communicate(timeout=60)
        assert call.returncode == 1
        assert b"Connection interrupted" in said
