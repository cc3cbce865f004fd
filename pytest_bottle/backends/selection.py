"""Which backend: by name, or the best one of this machine."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING

from pytest_bottle.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.command.orders import Orders
    from pytest_bottle.backends.contract import Backend


def _netns() -> Backend:
    from pytest_bottle.backends.engines.netns.client import Client

    client = Client()
    # While the server starts, on another core: import what the session is going to need.
    import pytest_bottle.bottle  # noqa: F401
    from pytest_bottle.backends.engine_backend import EngineBackend
    from pytest_bottle.backends.engines.netns.engine import NetnsEngine

    return EngineBackend(NetnsEngine(client))


def _black_hole() -> Backend:
    from pytest_bottle.backends.black_hole import BlackHole

    return BlackHole()


def _macos_container() -> Backend:
    raise BackendUnavailableError(
        "the macos-container backend is not part of this version",
        where="--bottle-backend=macos-container",
        expected="a version of pytest-bottle that has it",
        seen="only its name is reserved so far",
        next_step="on Linux use --bottle-backend=netns",
    )


def _command() -> Backend:
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


#: The backend of command lines, and where they are if nobody says so.
COMMAND, COMMAND_FILE = "command", "bottle-command.yaml"
#: The backends that come with the package, each opened by a function without arguments.
BUILT_IN: dict[str, Callable[[], Backend]] = {
    "netns": _netns,
    "black-hole": _black_hole,
    "command": _command,
    "macos-container": _macos_container,
}


def detect() -> str:
    """Choose for who did not: ``macos-container`` on a Mac that has it, else ``netns``."""
    if platform.system() == "Darwin" and shutil.which("container"):
        return "macos-container"
    return "netns"


def impossible_here(name: str) -> str:
    """Say why a named backend can never work on this machine; empty if it might.

    Pure: the platform's name and the search path, nothing is run.
    """
    system = platform.system()
    if name in ("netns", "black-hole") and system != "Linux":
        remedy = {
            "Darwin": "on a Mac choose macos-container",
            "Windows": "run pytest inside WSL 2",
        }.get(system, "run pytest on Linux")
        return f"{name!r} needs Linux 5.12 or newer, this is {system}; {remedy}"
    if name == "macos-container":
        if system != "Darwin":
            return (
                f"'macos-container' needs macOS 26 on Apple silicon, this is {system}; "
                "on Linux choose netns"
            )
        if not shutil.which("container"):
            return (
                "'macos-container' needs Apple's `container` command, which is not on the PATH; "
                "install Apple container 1.0.0 or newer and run `container system start`"
            )
    return ""
