"""RES: what cleaning spares, what it says when it cannot, and what many bottles wear out."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.conformance.runs import BOUND, Run, left_of, names_of, waiting, watched
from pytest_bottle.errors import BottleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bottle.backends.contract import Resource
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.runs import Event

_SESSION = frozenset({Feature.SESSION})


# -- who is spared ---------------------------------------------------------------------------------


@check(
    "RES-05",
    "Cleaning never touches what is not ours",
    witness=Witness.NO,
    needs=_SESSION,
    evidence=(
        "https://github.com/kubernetes-csi/csi-test/issues/223",
        "https://github.com/adcontextprotocol/adcp/pull/296",
    ),
    apart=True,
)
def cleaning_spares_others(bench: Bench) -> str:
    """Sweeping a dead session removes what that session left, by its identity, and nothing else:
    two sessions that are alive keep everything, and so does a process of somebody else's that has
    the name of a session's part and carries the labels of a live one. A live session is not swept.
    """
    with contextlib.ExitStack() as stack:
        live, body = stack.enter_context(_live_session(bench))
        dead = stack.enter_context(_kept_session(bench))
        strangers = stack.enter_context(_lookalikes(bench.backend.residue(live)))
        before = {one: bench.backend.residue(one) for one in (live, bench.backend.session)}
        gone = bench.backend.residue(dead)
        if not gone:
            raise bench.inconclusive("a run that keeps its bottle left nothing that can be seen")
        _require_refusal(bench, live)
        bench.backend.sweep(dead)
        if left := bench.backend.residue(dead):
            raise bench.violation(f"a sweep left {names_of(left)} of a session that is dead")
        body.append("swept")
        for session, had in before.items():
            if lost := had - bench.backend.residue(session):
                raise bench.violation(f"the sweep of {dead} took {names_of(lost)} of {session}")
        if fallen := [one.name for one in strangers if one.process.poll() is not None]:
            raise bench.violation(f"the sweep took processes of nobody's: {', '.join(fallen)}")
    return (
        f"{len(gone)} resources of a dead session removed; two live sessions and "
        f"{len(strangers)} look-alikes spared"
    )


@contextlib.contextmanager
def _live_session(bench: Bench) -> Iterator[tuple[str, list[str]]]:
    """Lend out a session that is alive, with a bottle; it must be alive in the end, too."""
    with (
        Run(bench.reopening, waiting(wait=True)) as run,
        watched(bench.backend, run) as session,
    ):
        run.go()
        run.wait_for("body")
        reached: list[str] = []
        yield session, reached
        if reached and run.status is not None:
            raise bench.violation(f"the sweep ended the run of {session}, which was alive")


@contextlib.contextmanager
def _kept_session(bench: Bench) -> Iterator[str]:
    """Lend out a session that is dead and whose bottle was kept."""
    with (
        Run(bench.reopening, waiting(wait=False), "--bottle-keep=always") as run,
        watched(bench.backend, run) as session,
    ):
        run.go()
        run.wait_for("body")
        if not run.end():
            raise bench.inconclusive("a run that keeps its bottle did not end")
        yield session


def _require_refusal(bench: Bench, live: str) -> None:
    """Require that a live session is not swept, and that the refusal is told."""
    there = bench.backend.residue(live)
    try:
        bench.backend.sweep(live)
    except BottleError:
        if lost := there - bench.backend.residue(live):
            raise bench.violation(f"a refused sweep took {names_of(lost)}") from None
        return
    raise bench.violation("a session that is alive was swept, and not refused")


class _Stranger(NamedTuple):
    """A process of nobody's session: what it is called, and its handle."""

    name: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def _lookalikes(parts: Iterable[Resource]) -> Iterator[list[_Stranger]]:
    """Run processes with the names, and where they can be read the variables, of a session's."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bottle-strangers-"))
        strangers: dict[str, _Stranger] = {}
        for part in sorted(parts):
            pid, _, name = part.name.partition(" ")
            if part.kind != "process" or "/" in name or not name or name in strangers:
                continue
            strangers[name] = stranger = _Stranger(name, _started(f"{folder}/{name}", pid))
            stack.callback(stranger.process.wait)
            stack.callback(stranger.process.kill)
        yield list(strangers.values())


def _started(path: str, pid: str) -> subprocess.Popen[bytes]:
    # The kernel takes a process's name from the file that it runs, a link's name in this case.
    os.symlink(shutil.which("sleep") or "/bin/sleep", path)
    return subprocess.Popen([path, "120"], env=_variables(pid), start_new_session=True)


def _variables(pid: str) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = (entry.partition(b"=") for entry in file.read().split(b"\0") if entry)
            return {name.decode(): value.decode() for name, _, value in pairs}
    except (OSError, UnicodeDecodeError):
        return {}  # its name alone has to do


# -- cleaning that cannot be done ------------------------------------------------------------------

_STOPPED = """
from pytest_bottle import Fault

@pytest.fixture(autouse=True)
def watch(bottle_backend):
    opened(bottle_backend)

def test_it(bottle, bottle_backend):
    tell("body")
    bottle_backend.fault(bottle.topology, Fault.STOP_ENGINE)
    tell("stopped")
"""


@check(
    "RES-06",
    "Cleanup trouble is reported, not swallowed",
    severity=Severity.MEDIUM,
    witness=Witness.NO,
    needs=_SESSION | {Feature.STOP_ENGINE},
    evidence=("https://github.com/opendcdiag/opendcdiag/pull/440",),
    apart=True,
)
def trouble_is_reported(bench: Bench) -> str:
    """When the engine is gone before a bottle is taken down, the run ends red although its test
    passed; what is left is listed by name, and a sweep removes it.
    """
    with Run(bench.reopening, _STOPPED) as run, watched(bench.backend, run) as session:
        run.go()
        run.wait_for("stopped")
        if not run.end():
            raise bench.violation("the run without an engine did not end by itself")
        left, _ = left_of(bench.backend, session)
        said = run.output()
        if run.status == 0:
            raise bench.violation("the run ended with status 0, though nothing could be removed")
        if unnamed := [one for one in left if one.name not in said]:
            raise bench.violation(f"left, and not told: {names_of(unnamed)}")
        bench.backend.sweep(session)
        if still := bench.backend.residue(session):
            raise bench.violation(f"a sweep did not remove {names_of(still)}")
    return f"status {run.status}; {len(left)} resources were left for {BOUND:g} s, and all told"


# -- many bottles ----------------------------------------------------------------------------------

#: Bottles in a row, bottles at once, and after how many the state is looked at.
_QUICK, _THOROUGH, _STRIDE = (30, 4), (100, 16), 10
#: Seconds that each of them may take.
_EACH = 10.0
_MANY = """
from concurrent.futures import ThreadPoolExecutor
from pytest_bottle import BottleSpec

def state(backend):
    return {
        "resources": sorted(map(" ".join, backend.inventory())),
        "files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "disk": sum(len(names) for _, _, names in os.walk(HERE)),
    }

def once(backend):
    topology = backend.up(BottleSpec())
    backend.down(topology)
    return [topology.internal.subnet, topology.egress.subnet]

def test_it(bottle_backend):
    opened(bottle_backend)
    once(bottle_backend)
    tell("start", **state(bottle_backend))
    for number in range({row} // {stride}):
        subnets = [once(bottle_backend) for _ in range({stride})]
        tell("state", after=(number + 1) * {stride}, subnets=subnets[-1], **state(bottle_backend))
    with ThreadPoolExecutor({wide}) as pool:
        topologies = list(pool.map(lambda _: bottle_backend.up(BottleSpec()), range({wide})))
        there = len(bottle_backend.inventory())
        list(pool.map(bottle_backend.down, topologies))
    tell("wide", subnets=[one.internal.subnet for one in topologies], there=there)
    tell("end", **state(bottle_backend))
"""


@check(
    "RES-07",
    "Many bottles in a row do not wear the host out",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    witness=Witness.NO,
    needs=_SESSION | {Feature.INVENTORY},
    evidence=(
        "https://github.com/elitan/frost/issues/259",
        "https://github.com/microsoft/aspire/issues/9785",
        "https://github.com/testcontainers/testcontainers-python/issues/489",
    ),
    apart=True,
)
def many_bottles_leave_nothing(bench: Bench) -> str:
    """Bottles in a row (30; 100 when thorough) and at once (4; 16) leave the host's resources,
    address pools, open files and disk as they were after the first one.
    """
    row, wide = _THOROUGH if bench.thorough else _QUICK
    source = _MANY
    for name, number in (("row", row), ("wide", wide), ("stride", _STRIDE)):
        source = source.replace(f"{{{name}}}", str(number))
    with Run(bench.reopening, source) as run, watched(bench.backend, run) as session:
        run.go()
        run.wait_for("end", _EACH * (row + wide))
        run.end()
        (start,), (end,), (at_once,) = (run.told(name) for name in ("start", "end", "wide"))
        for event in (*run.told("state"), end):
            _require_same(bench, start, event)
        if len(set(at_once["subnets"])) != wide or at_once["there"] <= len(start["resources"]):
            raise bench.inconclusive(f"{wide} bottles at once were not seen: {at_once}")
        left, _ = left_of(bench.backend, session)
        if left:
            raise bench.violation(f"the session left {names_of(left)}")
    return f"{row} bottles in a row and {wide} at once left nothing"


def _require_same(bench: Bench, start: Event, event: Event) -> None:
    when = f"after {event['after']} bottles" if "after" in event else "in the end"
    if more := sorted(set(event["resources"]) - set(start["resources"])):
        raise bench.violation(f"{len(more)} resources more {when}: {', '.join(more[:10])}")
    for what in ("files", "disk"):
        if event[what] > start[what]:
            raise bench.violation(f"{what} grew from {start[what]} to {event[what]} {when}")
