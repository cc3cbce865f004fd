"""Mutants of the RES checks."""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress
from itertools import count
from pathlib import Path
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


@mutant("RES-05")
class ByPrefix(NetnsBackend):
    """A sweep also kills whatever is named as a part of a session is, whose-ever it is.

    Only among what the suite has started since, so that nobody else on the machine comes to harm.
    """

    def __init__(self) -> None:
        self._before = _descendants(os.getpid())
        super().__init__()

    def sweep(self, session: str) -> None:
        super().sweep(session)
        spared = self._before | {one.name.partition(" ")[0] for one in self.residue(self.session)}
        for pid in _descendants(os.getpid()) - spared:
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("bottle-"):
                    os.kill(int(pid), signal.SIGKILL)


def _descendants(pid: int) -> set[str]:
    found: set[str] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                found |= {child} | _descendants(int(child))
    return found


@mutant("RES-06")
class Swallowing(NetnsBackend):
    """Trouble on the way down is swallowed."""

    def down(self, topology: Topology) -> None:
        with suppress(Exception):
            super().down(topology)

    def close(self, *, keep: bool = False) -> str:
        with suppress(Exception):
            return super().close(keep=keep)
        return ""


class LosesOneInTwenty(NetnsEngine):
    """An engine that forgets the networks of every twentieth bottle."""

    def __init__(self) -> None:
        super().__init__()
        self._deletions = count(1)

    def delete_networks(self, names: Sequence[str]) -> None:
        if next(self._deletions) % 20:
            super().delete_networks(names)


@mutant("RES-07")
def loses_one_in_twenty() -> NetnsBackend:
    """The networks of one bottle in twenty stay.

    The catalogue's mutant loses one in ten; RES-01, which looks at one bottle, must not meet it.
    """
    return NetnsBackend(LosesOneInTwenty())
