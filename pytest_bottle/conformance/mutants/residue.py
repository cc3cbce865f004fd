"""Mutants of the RES checks."""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec


class KeepsNetworks(NetnsEngine):
    """An engine that forgets to remove networks."""

    def delete_networks(self, names: Sequence[str]) -> None:
        del names


@mutant("RES-01")
def keeps_networks() -> NetnsBackend:
    """Networks stay when their bottle goes."""
    return NetnsBackend(KeepsNetworks())


@mutant("RES-02")
class HalfWay(NetnsBackend):
    """What a bottle had got so far stays when it fails half way up."""

    def up(self, spec: BottleSpec) -> Topology:
        return self._build(f"b{next(self._numbers)}", spec)


@mutant("RES-04")
class NoReaper(NetnsBackend):
    """Only the backend's own end removes its session."""

    def __init__(self) -> None:
        super().__init__()
        self.netns.client.keep()

    def close(self, *, keep: bool = False) -> str:
        hint = super().close(keep=keep)
        if not keep:
            with suppress(ProcessLookupError):
                os.kill(self.netns.client.keeper_pid, signal.SIGKILL)
        return hint


@mutant("RES-03")
class AtExit(NoReaper):
    """Removal is left to the interpreter's own end."""

    def __init__(self) -> None:
        super().__init__()
        atexit.register(self.close)

    def close(self, *, keep: bool = False) -> str:
        atexit.unregister(self.close)
        return super().close(keep=keep)
