"""RES: residue, what a bottle leaves on its host."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.boot import barrage
from pytest_bottle.conformance.direct import lost, open_control
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.conformance.runs import BOUND, Run, left_of, names_of, waiting, watched
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.boot import Boot
    from pytest_bottle.internet.lab import Mark


@check(
    "RES-01",
    "A normal end leaves nothing",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=frozenset({Feature.INVENTORY}),
    evidence=(
        "https://github.com/eltmon/overdeck/issues/3900",
        "https://github.com/ROCm/TheRock/issues/4926",
        "https://github.com/avast/pytest-docker/pull/33",
    ),
)
def normal_end_leaves_nothing(bench: Bench) -> str:
    """The host's inventory after teardown equals the one before."""
    before = bench.backend.inventory()
    topology = bench.backend.up(bench.spare)
    try:
        there = bench.backend.inventory() - before
    finally:
        bench.backend.down(topology)
    left = bench.backend.inventory() - before
    if left:
        raise bench.violation(f"{len(left)} of {len(there)} resources are left: {names_of(left)}")
    kinds = {resource.kind for resource in there}
    if len(kinds) < 2 or not any("process" in k or "guest" in k or "container" in k for k in kinds):
        raise bench.inconclusive(
            f"the inventory does not see a running bottle: kinds {sorted(kinds)}"
        )
    return f"{len(there)} resources of {len(kinds)} kinds came and went"


# -- runs that end badly ---------------------------------------------------------------------------

_SESSION = frozenset({Feature.SESSION})
#: Each test says what its bottle was and what it left, by the inventory of the backend itself.
_FAILING = """
@pytest.fixture(autouse=True)
def watch(bottle_backend, request):
    opened(bottle_backend)
    before = bottle_backend.inventory()
    yield lambda: tell("up", test=request.node.name, there=len(bottle_backend.inventory() - before))
    left = sorted(map(" ".join, bottle_backend.inventory() - before))
    tell("down", test=request.node.name, left=len(left), some=left[:10])

def test_raises(watch, bottle):
    watch()
    raise Original("in the test")

@pytest.fixture
def broken(watch, bottle):
    watch()
    raise Original("in a fixture behind the bottle")

def test_fixture(broken):
    pass

@pytest.fixture
def half(make_bottle):
    try:
        make_bottle(command=["/nonexistent/bottle-command"])
    except BottleError as error:
        raise Original("half way up") from error

def test_half(half):
    pass

@pytest.fixture
def sibling(bottle):
    yield
    raise RuntimeError("in the end of another fixture")

def test_sibling(watch, sibling):
    watch()
    raise Original("beside another fixture's end")

def test_after(watch, bottle):
    watch()

def test_crash(watch, bottle):
    watch()
    os._exit(3)
"""


class _Failing(NamedTuple):
    """A run whose tests fail: its arguments, and what must be reported of each test."""

    arguments: tuple[str, ...]
    errors: dict[str, str]


_FAILURES = (
    _Failing(
        ("-k", "not after and not crash"),
        {
            "test_raises": "Original: in the test",
            "test_fixture": "Original: in a fixture behind the bottle",
            "test_half": "Original: half way up",
            "test_sibling": "Original: beside another fixture's end",
        },
    ),
    _Failing(("-x", "-k", "raises or after"), {"test_raises": "Original: in the test"}),
    _Failing(
        ("-n", "1", "--max-worker-restart=0", "-k", "crash"),
        {"test_crash": "crashed while running"},
    ),
)


@check(
    "RES-02",
    "A failing test or fixture cleans up too",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=_SESSION | {Feature.INVENTORY},
    evidence=(
        "https://github.com/kubernetes-csi/csi-test/issues/89",
        "https://github.com/kubernetes-csi/csi-test/pull/195",
        "https://github.com/avast/pytest-docker/pull/33",
    ),
    apart=True,
)
def failures_leave_nothing(bench: Bench) -> str:
    """Exceptions in the test, in a fixture behind the bottle, half way up and in another fixture's
    end, ``-x`` and a worker that crashes do not stop removal; the original error is reported.
    """
    with ThreadPoolExecutor(len(_FAILURES)) as pool:
        counts = list(pool.map(lambda failing: _fail(bench, failing), _FAILURES))
    return f"{sum(counts)} bottles of {len(counts)} failing runs came and went"


def _fail(bench: Bench, failing: _Failing) -> int:
    """Let a run fail; returns how many bottles it had."""
    with (
        Run(bench.reopening, _FAILING, *failing.arguments) as run,
        watched(bench.backend, run) as session,
    ):
        run.go()
        run.end()
        what = f"the run of {' '.join(failing.arguments)}"
        left, _ = left_of(bench.backend, session)
        for event in run.told("down"):
            if event["left"]:
                raise bench.violation(
                    f"{event['left']} resources are left of {event['test']}: {event['some']}"
                )
        if left:
            raise bench.violation(f"{what} left {names_of(left)} for {BOUND:g} s")
        _require_reported(bench, run, failing)
        return _require_bottles(bench, run, failing)


def _require_reported(bench: Bench, run: Run, failing: _Failing) -> None:
    said = run.reported()
    for test, error in failing.errors.items():
        if error not in said.get(test, ""):
            raise bench.violation(
                f"{error!r} of {test} is not reported, but {said.get(test)!r}; {said.keys()}; "
                f"the run's output: {run.output()[-1000:]}"
            )


def _require_bottles(bench: Bench, run: Run, failing: _Failing) -> int:
    """The control: the inventory saw a bottle of each test that had one, and of no other."""
    there = {str(event["test"]): event["there"] for event in run.told("up")}
    if there.keys() != failing.errors.keys() - {"test_half"} or not all(there.values()):
        raise bench.inconclusive(f"the inventory saw {there}, not a bottle of each test")
    return len(there)


class _Trial(NamedTuple):
    """Signals to a run: so many seconds after an event, and then each after a pause."""

    signals: tuple[signal.Signals, ...]
    moment: str
    delay: float
    pause: float

    def __str__(self) -> str:
        names = ", ".join(one.name for one in self.signals)
        return f"{names} {self.delay * 1000:.1f} ms into {self.moment}"


#: How a run is told to end: Ctrl-C, an impatient Ctrl-C, a CI runner, a terminal that closes.
_SIGNALS = (
    (signal.SIGINT,),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM,),
    (signal.SIGHUP,),
)
#: What a signal may interrupt, and the seconds that it takes at the most.
_MOMENTS = {"set-up": 0.1, "body": 0.05, "teardown": 0.05}
#: How many runs are interrupted; for the thorough, as many as the catalogue says.
_TRIALS, _TRIALS_THOROUGH = 6, 50
#: How many of them at once: what is to be seen is what one leaves, and not what a load does to it.
_AT_ONCE = 3


@check(
    "RES-03",
    "Ctrl-C and SIGTERM clean up",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=_SESSION,
    evidence=("https://github.com/Jc2k/pytest-docker-tools/issues/17",),
    apart=True,
)
def signals_leave_nothing(bench: Bench) -> str:
    """One SIGINT, two in quick succession, SIGTERM and SIGHUP, at random moments of set-up, body
    and teardown, end with nothing left.
    """
    trials = _draw(_TRIALS_THOROUGH if bench.thorough else _TRIALS)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        took = list(pool.map(lambda trial: _interrupt(bench, trial), trials))
    return f"{len(took)} runs interrupted, nothing left {max(took) * 1000:.0f} ms after their ends"


def _draw(count: int) -> list[_Trial]:
    """Draw trials; every kind of signal and every moment comes up as often as any other."""
    signals = random.sample(_SIGNALS, len(_SIGNALS))
    moments = random.sample(sorted(_MOMENTS), len(_MOMENTS))
    return [
        _Trial(
            signals[number % len(signals)],
            moments[number % len(moments)],
            random.uniform(0, _MOMENTS[moments[number % len(moments)]]),  # noqa: S311
            random.uniform(0, 0.02),  # noqa: S311
        )
        for number in range(count)
    ]


def _interrupt(bench: Bench, trial: _Trial) -> float:
    """Interrupt a run; returns the seconds from its end until nothing was left."""
    source = waiting(wait=trial.moment != "teardown")
    with Run(bench.reopening, source) as run, watched(bench.backend, run) as session:
        run.go()
        if trial.moment != "set-up":
            run.wait_for(trial.moment)
        time.sleep(trial.delay)
        for number in trial.signals:
            run.send(number)
            time.sleep(trial.pause)
        ended = run.end_after_signal()
        left, took = left_of(bench.backend, session)
        if left:
            raise bench.violation(f"{trial}: {names_of(left)} left {BOUND:g} s after the run's end")
        if not ended:
            raise bench.violation(f"{trial}: the run went on and had to be killed")
        return took


#: Seconds in which the heir of a killed run must have said how the orphaned agent fares.
_HEIR = 15
#: A fork of pytest inherits its hold on the session, and goes on when pytest itself is gone.
_FORK = """\
    parent = os.getpid()
    if os.fork():
        tell("body")
        time.sleep(60)
        return
    signal.alarm({seconds})
    while os.getppid() == parent:
        time.sleep(0.001)
"""
#: It asks what NET-01 asks.
_ORPHANED = """
from pytest_bottle.conformance import again
from pytest_bottle.verdict import combine

@pytest.fixture(autouse=True)
def watch(bottle_backend):
    opened(bottle_backend)

def test_it(bottle, bottle_backend):
{fork}    try:
        judged = again.net_01(bottle_backend, bottle.topology)
        verdict, said = combine(one.finding for one in judged).value, again.told(judged)
    except Exception as error:
        verdict, said = "lost", str(error).partition("\\n")[0]
    tell("orphan", verdict=verdict, said=said[:1000])
    os._exit(0)
"""
#: Where that run has no far side to ask, its agent fires at ours all the time, and the fork tells
#: that it still does so as an orphan.
_FIRING = """
@pytest.fixture(autouse=True)
def watch(bottle_backend):
    opened(bottle_backend)

def rounds(backend, topology):
    lines = b"\\n".join(backend.logs(topology).values()).splitlines()
    said = [json.loads(one) for one in lines if b'"so_far"' in one and one.endswith(b"}")]
    return max((one["so_far"] for one in said), default=0)

def test_it(make_bottle, bottle_backend):
    topology = make_bottle(command={command}).topology
{fork}    try:
        last = first = rounds(bottle_backend, topology)
        while last <= first:
            last = rounds(bottle_backend, topology)
        tell("orphan", rounds=last - first)
    except Exception as error:
        tell("orphan", rounds=0, said=str(error).partition("\\n")[0])
    os._exit(0)
"""
#: Seconds that such an agent goes on for.
_FIRES = 60.0
#: How many runs may be killed until one orphan could be asked.
_TRIES = 3


@check(
    "RES-04",
    "SIGKILL is survivable",
    severity=Severity.HIGH,
    needs=_SESSION | {Feature.LAB, Feature.OPEN_GUEST},
    evidence=(
        "https://github.com/vitali87/code-graph-rag/issues/1628",
        "https://github.com/vitali87/code-graph-rag/pull/1751",
        "https://github.com/interuss/monitoring/pull/1514",
    ),
    apart=True,
)
def sigkill_is_survivable(bench: Bench) -> str:
    """After SIGKILL of pytest a reaper, or the start of the next session, removes that session's
    objects within a bound; an agent that is orphaned until then is still isolated (NET-01).
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(_UnaskedError):
            return _kill(bench)
    try:
        return _kill(bench)
    except _UnaskedError as unasked:
        raise bench.inconclusive(f"the next session removed what was left, but {unasked}") from None


class _UnaskedError(Exception):
    """What was left of a killed session is gone, but nobody knows how its agent fared till then."""


def _kill(bench: Bench) -> str:
    """Kill a run, and see to what it left.

    Raises:
        _UnaskedError: another session, of another check, swept it under our eyes.
    """
    boot = None if bench.reopening.far_side else barrage(bench, _FIRES)
    source = (_FIRING if boot else _ORPHANED).replace("{fork}", _FORK)
    source = source.replace("{seconds}", str(_HEIR))
    source = source.replace("{command}", repr(list(boot.spec(bench).command)) if boot else "")
    mark = bench.backend.internet.mark()
    with Run(bench.reopening, source) as run, watched(bench.backend, run) as session:
        run.go()
        run.wait_for("body")
        there = bench.backend.residue(session)
        run.kill_alone()
        left, took = left_of(bench.backend, session)
        orphan = _fired(bench, run, boot, mark) if boot else _orphan(bench, run)
        if not left:
            return f"{len(there)} resources gone {took * 1000:.0f} ms after the kill; {orphan}"
        _start_another(bench)
        left, _ = left_of(bench.backend, session)
        if left:
            raise bench.violation(
                f"{names_of(left)} left {BOUND:g} s after the kill and as long after the start of "
                f"another session; {orphan}"
            )
        if not orphan.endswith(Verdict.PASSED.value):
            raise _UnaskedError(orphan)
        return f"{len(there)} resources gone with the start of the next session; {orphan}"


def _orphan(bench: Bench, run: Run) -> str:
    """Tell how the orphaned agent fared; red if it got out."""
    event = run.heard_from_orphan("orphan", _HEIR)
    if event is None:
        return "the orphaned agent could not be asked"
    if event["verdict"] == Verdict.VIOLATED.value:
        raise bench.violation(f"an orphaned agent gets out: {event['said']}")
    if event["verdict"] == Verdict.PASSED.value:
        return f"NET-01 from the orphaned agent: {event['verdict']}"
    return f"the orphaned agent could not be asked: {event['said']}"


def _fired(bench: Bench, run: Run, boot: Boot, mark: Mark) -> str:
    """Tell how an orphaned agent fared that fired at our own far side; red if it got out."""
    event = run.heard_from_orphan("orphan", _HEIR)
    hearing = bench.backend.internet.heard(mark)
    if heard := boot.heard(hearing):
        raise bench.violation(
            f"an orphaned agent gets out: the witness heard {len(heard)} packets, the first from "
            f"{heard[0].src} to {heard[0].dst}"
        )
    if event is None or not event["rounds"]:
        return f"the orphaned agent could not be asked: {event and event['said']}"
    if why := lost(hearing) or open_control(bench, boot.attempts()):
        return f"the orphaned agent was not to be heard: {why}"
    return f"{event['rounds']} rounds fired by the orphaned agent: {Verdict.PASSED.value}"


def _start_another(bench: Bench) -> None:
    source = waiting(wait=False)
    with Run(bench.reopening, source) as run, watched(bench.backend, run):
        run.go()
        run.end()
