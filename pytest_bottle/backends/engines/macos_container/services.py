"""What the engine itself runs in a guest: the reference sidecar, a published port's forwarder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends.engines.archive import archive
from pytest_bottle.backends.engines.macos_container import inside
from pytest_bottle.errors import BringUpError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.engines.contract import (
        Engine,
        ForwardRequest,
        Publishing,
        SidecarRequest,
    )

#: The port in a guest that the engine publishes; only the leg that it publishes to has it open.
PUBLISHED: Final = 46080
#: Where a guest's own command writes, by user: a place that it may write to.
OUTPUT: Final = {
    "agent": "/tmp/bottle-output.log",  # noqa: S108 - a guest's
    "root": "/run/bottle-output.log",
    "privileged": "/run/bottle-output.log",
}


@dataclass
class Guest:
    """A guest that runs.

    Attributes:
        name: at the engine.
        environment: its variables.
        outer: its address on its first network, which takes the published port (S22).
        publishes: what it was made to publish.
        log: where its own command writes.
    """

    name: str
    environment: Mapping[str, str]
    outer: str
    publishes: Publishing | None
    log: str = OUTPUT["root"]


def launch(engine: Engine, guest: str, order: bytes, user: str, seconds: float = 0.0) -> None:
    """Start a program in a guest, and wait for its word if the order says so.

    Raises:
        BringUpError: it did not start, with what it said.
    """
    result = engine.exec(guest, inside.launch(), stdin=order, user=user, timeout=30.0 + seconds)
    if not result.ok:
        raise BringUpError(
            "a program did not start in a guest",
            where=guest,
            expected=f"its word within {seconds:g} s" if seconds else "a guest that can start it",
            seen=result.err[-1000:],
        )


def run_sidecar(engine: Engine, name: str, guest: Guest, request: SidecarRequest) -> None:
    """Bring the proxy into a guest and run it.

    Raises:
        BringUpError: it does not serve in time, with what it said.
    """
    config = {**request.config, "listen": list(request.listen)}
    if request.publish is not None:
        config["status"] = [guest.outer, PUBLISHED]
    argv = [inside.PYTHON, "-I", "-S", "-c", inside.SIDECAR, json.dumps(config)]
    _serve(engine, name, argv, request.timeout)


def run_forwarder(engine: Engine, name: str, guest: Guest, request: ForwardRequest) -> None:
    """Run a forwarder on the port that the engine publishes.

    Raises:
        BringUpError: it does not serve in time, with what it said.
    """
    targets = [list(target) for target in request.targets]
    told = json.dumps([[guest.outer, PUBLISHED], targets])
    argv = [inside.PYTHON, "-I", "-S", "-c", inside.FORWARDER, told]
    _serve(engine, name, argv, request.timeout)


def _serve(engine: Engine, name: str, argv: list[str], seconds: float) -> None:
    order = inside.order(
        argv,
        inside.SERVICE_LOG,
        files={inside.ARCHIVE: archive()},
        ready=inside.READY,
        seconds=seconds,
    )
    launch(engine, name, order, "root", seconds)
