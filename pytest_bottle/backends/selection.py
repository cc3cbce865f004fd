"""Which backend: by name, or the best one of this machine."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING

from pytest_bottle.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bottle.backends.command.orders import Orders
    from pytest_bottle.backends.contract import Backend


def _netns(internet: str) -> Backend:
    from pytest_bottle.backends.engines.netns.client import Client

    client = Client()
    # While the server starts, on another core: import what the session is going to need.
    import pytest_bottle.bottle  # noqa: F401
    from pytest_bottle import firing
    from pytest_bottle.backends.engine_backend import EngineBackend
    from pytest_bottle.backends.engines.netns.engine import NetnsEngine

    firing.probe_program(("http",))  # kept: a first fetch would wait for the disk
    return EngineBackend(NetnsEngine(client), internet)


def _black_hole(_internet: str) -> Backend:
    from pytest_bottle.backends.black_hole import BlackHole

    return BlackHole()


def _macos_container(internet: str) -> Backend:
    return containers(internet)


def containers(internet: str, hosts: Sequence[str] = (), saved_image: str = "") -> Backend:
    """Open ``macos-container``, on this Mac or on others.

    Args:
        internet: the kind of its far side.
        hosts: ``ssh://`` URLs of Macs; each worker of pytest-xdist has the next one.
        saved_image: the file to load the guests' image from, should it be missing.
    """
    from pytest_bottle.backends.engine_backend import EngineBackend
    from pytest_bottle.backends.engines.macos_container import opening

    place = None
    if hosts:
        from pytest_bottle.backends.engines.ssh import Ssh

        place = Ssh(host_of(hosts), shared=True)
    try:
        engine = opening.real(saved_image=saved_image, place=place)
    except BaseException:
        if place is not None:
            place.close()
        raise
    return EngineBackend(engine, internet)


def host_of(hosts: Sequence[str]) -> str:
    """Tell which of several Macs is this worker's."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return hosts[number % len(hosts)]


def _macos_container_emulated(internet: str) -> Backend:
    from pytest_bottle.backends.engine_backend import EngineBackend
    from pytest_bottle.backends.engines.macos_container import opening

    return EngineBackend(opening.emulated(), internet)


def _command(_internet: str) -> Backend:
    raise BackendUnavailableError(
        "the command backend has no command lines",
        where="--bottle-backend=command",
        expected="a file that says what they are: --bottle-command=PATH",
    )


def commands(orders: Orders) -> Backend:
    """Open the command backend on what its file says, and hold it to the contract."""
    from pytest_bottle.backends.adapter import checked
    from pytest_bottle.backends.command.backend import CommandBackend

    return checked(COMMAND, lambda: CommandBackend(orders))


#: The backend of Apple's container, which may be on another machine.
CONTAINERS = "macos-container"
#: The backend of command lines, and where they are if nobody says so.
COMMAND, COMMAND_FILE = "command", "bottle-command.yaml"
#: The backends that come with the package, each opened by a function of the kind of its
#: far side (:mod:`pytest_bottle.backends.kinds`).
BUILT_IN: dict[str, Callable[[str], Backend]] = {
    "netns": _netns,
    "black-hole": _black_hole,
    "command": _command,
    "macos-container": _macos_container,
    "macos-container-emulated": _macos_container_emulated,
}


def detect() -> str:
    """Choose for who did not: ``macos-container`` on a Mac that has it, else ``netns``."""
    if platform.system() == "Darwin" and shutil.which("container"):
        return "macos-container"
    return "netns"


def impossible_here(name: str, *, elsewhere: bool = False) -> str:
    """Say why a named backend can never work on this machine; empty if it might.

    Pure: the platform's name and the search path, nothing is run. ``elsewhere`` says that its
    bottles are on another machine.
    """
    system = platform.system()
    if name in ("netns", "black-hole", "macos-container-emulated") and system != "Linux":
        remedy = {
            "Darwin": "on a Mac choose macos-container",
            "Windows": "run pytest inside WSL 2",
        }.get(system, "run pytest on Linux")
        return f"{name!r} needs Linux 5.12 or newer, this is {system}; {remedy}"
    if name == "macos-container" and not elsewhere:
        if system != "Darwin":
            return (
                f"'macos-container' needs macOS 26 on Apple silicon, this is {system}; "
                "on Linux choose netns, or macos-container-emulated to try its own code"
            )
        if not shutil.which("container"):
            return (
                "'macos-container' needs Apple's `container` command, which is not on the PATH; "
                "install Apple container 1.0.0 or newer and run `container system start`"
            )
    return ""
