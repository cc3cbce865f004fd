"""What the engine itself runs in a guest: the reference sidecar, a published port's forwarder."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pytest_bottle.backends.engines.archive import modules
from pytest_bottle.backends.engines.macos_container import inside
from pytest_bottle.errors import BringUpError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.contract import ExecResult
    from pytest_bottle.backends.engines.contract import ForwardRequest, Publishing, SidecarRequest

#: The port in a guest that the engine publishes; only the leg that it publishes to has it open.
PUBLISHED: Final = 46080
#: Where a guest's own command writes, by user: a place that it may write to.
OUTPUT: Final = {
    "agent": "/tmp/bottle-output.log",  # noqa: S108 - a guest's
    "root": "/run/bottle-output.log",
    "privileged": "/run/bottle-output.log",
}


#: Seconds for a program to be started, besides what it is waited for.
_START: Final = 30.0
_HOMES: Final = {"agent": "/home/agent", "root": "/root", "privileged": "/root"}


class Engine(Protocol):
    """Runs what answers in a frame of its own."""

    def ask(
        self,
        guest: str,
        line: list[str],
        order: tuple[str, bytes | int],
        user: str,
        timeout: float,
    ) -> ExecResult:
        """Run a command line in a guest of the engine's on a frame's word and what goes in."""


class Service:
    """A service of ours on its way into a guest: it is imported there before it is told anything.

    Args:
        engine: runs it.
        guest: the engine's name of the guest.
        code: what it is: :data:`inside.SIDECAR` or :data:`inside.FORWARDER`.
        variables: its environment.
        seconds: that it may take to serve.
    """

    def __init__(
        self, engine: Engine, guest: str, code: str, variables: Mapping[str, str], seconds: float
    ) -> None:
        self._engine, self._guest, self._seconds = engine, guest, seconds
        self._end: list[ExecResult | Exception] = []
        word, self._order = inside.order(
            [], inside.SERVICE_LOG, variables, code=code, data=modules(), seconds=seconds
        )
        self._settings: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        source, self._door = os.pipe()
        self._run = threading.Thread(target=self._call, args=(word, source), daemon=True)
        self._run.start()
        threading.Thread(target=self._feed, daemon=True).start()

    def _call(self, word: str, source: int) -> None:
        line, seconds = inside.launch(), _START + self._seconds
        try:
            self._end.append(self._engine.ask(self._guest, line, (word, source), "root", seconds))
        except Exception as error:  # noqa: BLE001 - for who waits for it
            self._end.append(error)
        finally:
            os.close(source)

    def _feed(self) -> None:
        # What does not read any more has ended, and its end tells why.
        with contextlib.suppress(BrokenPipeError), open(self._door, "wb", buffering=0) as door:
            for data in (self._order, self._settings.get()):
                left = memoryview(data)
                while left:
                    left = left[door.write(left) :]

    def serve(self, settings: object) -> None:
        """Tell it what it is to do, and wait until it does that.

        Raises:
            BringUpError: it does not serve in time, with what it said.
        """
        self._settings.put(inside.settings(json.dumps(settings)))
        self._run.join()
        (end,) = self._end
        if isinstance(end, Exception):
            raise end
        _require_start(end, self._guest, self._seconds)

    def drop(self) -> None:
        """Tell it nothing: it ends, if it has not been told yet."""
        self._settings.put(b"")


@dataclass
class Guest:
    """A guest that runs.

    Attributes:
        name: at the engine.
        environment: its variables.
        outer: its address on its first network, which takes the published port (S22).
        publishes: what it was made to publish.
        log: where its own command writes.
        service: the reference sidecar, on its way.
    """

    name: str
    environment: Mapping[str, str]
    outer: str
    publishes: Publishing | None
    log: str = OUTPUT["root"]
    service: Service | None = None


def variables(guest: Guest, user: str) -> dict[str, str]:
    """A user's own variables, and the guest's; PATH is the image's."""
    who = "agent" if user == "agent" else "root"
    return {"HOME": _HOMES[user], "USER": who, "LANG": "C.UTF-8", **guest.environment}


def launch(engine: Engine, guest: str, order: tuple[str, bytes], user: str) -> None:
    """Start a program in a guest, and let go of it.

    Raises:
        BringUpError: it did not start, with what it said.
    """
    _require_start(engine.ask(guest, inside.launch(), order, user, _START), guest)


def _require_start(result: ExecResult, guest: str, seconds: float = 0.0) -> None:
    if not result.ok:
        raise BringUpError(
            "a program did not start in a guest",
            where=guest,
            expected=f"its word within {seconds:g} s" if seconds else "a guest that can start it",
            seen=result.err[-1000:],
        )


def begin_sidecar(engine: Engine, name: str, guest: Guest, seconds: float) -> Service:
    """Bring the proxy into a guest."""
    return Service(engine, name, inside.SIDECAR, variables(guest, "root"), seconds)


def run_sidecar(engine: Engine, name: str, guest: Guest, request: SidecarRequest) -> None:
    """Run the proxy in a guest, in which it may have been brought before.

    Raises:
        BringUpError: it does not serve in time, with what it said.
    """
    config = {**request.config, "listen": list(request.listen)}
    if request.publish is not None:
        config["status"] = [guest.outer, PUBLISHED]
    service, guest.service = guest.service, None
    (service or begin_sidecar(engine, name, guest, request.timeout)).serve(config)


def run_forwarder(engine: Engine, name: str, guest: Guest, request: ForwardRequest) -> None:
    """Run a forwarder on the port that the engine publishes.

    Raises:
        BringUpError: it does not serve in time, with what it said.
    """
    targets = [list(target) for target in request.targets]
    told = [[guest.outer, PUBLISHED], targets]
    service = Service(engine, name, inside.FORWARDER, variables(guest, "root"), request.timeout)
    service.serve(told)
