"""Mutants of the CTL checks: here it is the suite that is broken, and not the bottle.

No negative may be PASSED on them: what nobody could have seen was not seen.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import User
from pytest_bottle.backends.engines.netns.rtnetlink import RTN_BLACKHOLE
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import (
    Errand,
    Meddler,
    NetnsBackend,
    mutant,
    patched,
    patched_engine,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_bottle.backends.contract import ExecResult, Topology, Vantage
    from pytest_bottle.backends.engines.netns.engine import NetnsEngine
    from pytest_bottle.spec import BottleSpec

#: Where the far side is that the survey aims at; names lead elsewhere.
_TARGETS = ("192.175.48.0/24", "192.31.196.0/24", "192.52.193.0/24", "2620:4f:8000:ff::/120")
#: What the witness does instead; its keeper's process is where it comes from.
_DEAF = """
from pytest_bottle.internet.witness import Recorder
hears = Recorder.drain
Recorder.drain = lambda self, limit: (hears(self, limit), self._frames.clear())[0]
"""
#: Whatever came while it was stopped is lost to it, as if nothing had fitted into its buffer.
_FORGETFUL = """
import signal
from pytest_bottle.internet.witness import Recorder
begin = Recorder.__init__

def forget(recorder):
    try:
        while True:
            recorder._ear.recv(1)
            recorder._dropped += 1
    except OSError:
        pass

def begun(self, *arguments):
    begin(self, *arguments)
    signal.signal(signal.SIGCONT, lambda *_: forget(self))

Recorder.__init__ = begun
"""
#: What the orders hold of those places that speak in the middle of the survey.
_IN_THE_MIDDLE = re.compile(rb'"PXY-01 GET"|\(open\)"')


@mutant("CTL-01", also={"CTL-03", "CTL-04", "CTL-05", "PXY-01"}, harness=True)
def deaf_witness() -> NetnsBackend:
    """The witness answers and hears nothing; the network is as it was.

    In the catalogue only CTL-01 is red. But heartbeats, mirrors and the intended path are what the
    witness hears as well: who has nothing to show for one of them says so.
    """
    return patched(f"exec({_DEAF!r}, {{}})")


@mutant("CTL-02", also={"PXY-01"}, harness=True)
class NoProbe(Meddler):
    """In the agent ``/bin/false`` runs in place of the probe.

    So the intended path is not tried either, and PXY-01 cannot say that it works.
    """

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        return errand._replace(argv=["/bin/false"]) if errand.is_the_agents else errand


class _PausedWitness(NetnsBackend):
    def __init__(self, engine: NetnsEngine) -> None:
        super().__init__(engine)
        self._lock = threading.Lock()
        self._speaking = 0
        self._witness = 0

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: User = User.AGENT,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> ExecResult:
        with self._paused() if _IN_THE_MIDDLE.search(stdin) else nullcontext():
            return super().exec(
                *(topology, vantage, argv),
                stdin=stdin,
                user=user,
                timeout=timeout,
                environment=environment,
            )

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Let the first who speaks stop the witness, and the last one let it go on."""
        with self._lock:
            self._speaking += 1
            if self._speaking == 1:
                self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with self._lock:
                self._speaking -= 1
                if not self._speaking:
                    self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if not self._witness:
            names = [one.name.split() for one in self.residue(self.session)]
            (self._witness,) = [int(n) for n, *name in names if name == ["bottle-witness"]]
        os.kill(self._witness, number)


@mutant("CTL-03", also={"CTL-04", "CTL-05"}, harness=True)
def paused_witness() -> NetnsBackend:
    """The witness is stopped for the middle of the window, and knows that it lost what came then.

    Mirrors are among that.
    """
    return _PausedWitness(patched_engine(f"exec({_FORGETFUL!r}, {{}})"))


@mutant("CTL-04", also={"CTL-01", "CTL-03", "CTL-05"}, harness=True)
class NobodysTargets(NetnsBackend):
    """What the survey aims at is nobody's: the host drops it, whoever sends it.

    The sidecar's own beats go to such addresses as well.
    """

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        if topology.id == "b1":  # one host for all bottles
            holes = [["route", target, {"kind": RTN_BLACKHOLE}] for target in _TARGETS]
            self.netns.configure("host", holes)
        return topology


@mutant("CTL-05", harness=True, blind={"NET-01"})
class ConstantTrue(NetnsBackend):
    """NET-01's assertion is constant true."""

    def __init__(self) -> None:
        super().__init__()
        self._sound = sound = Bench.require_blocked

        def require_blocked(bench: Bench) -> str:
            return "blocked" if bench.current.id == "NET-01" else sound(bench)

        Bench.require_blocked = require_blocked  # type: ignore[method-assign,assignment]

    def close(self, *, keep: bool = False) -> str:
        Bench.require_blocked = self._sound  # type: ignore[method-assign]
        return super().close(keep=keep)
