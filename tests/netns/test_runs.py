"""Runs of pytest by the suite itself: how they come to a backend, what is judged, what is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.conformance import runs
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.checks import residue
from pytest_bottle.conformance.mutants.base import NetnsBackend, open_mutant
from pytest_bottle.conformance.runs import Reopening, Run, left_of, watched
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import named

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.contract import Backend, Resource

pytestmark = pytest.mark.usefixtures("netns_works")

NETNS = Reopening(("--bottle-backend=netns",))
OPENS = """
@pytest.fixture(autouse=True)
def watch(bottle_backend):
    opened(bottle_backend)

def test_it(bottle_backend):
    tell("name", name=bottle_backend.describe().name)
    {then}
"""


def opens(then: str = "pass") -> str:
    """A test file that opens the backend, says its name, and then does something."""
    return OPENS.replace("{then}", then)


def test_a_run_tells_what_happens_and_leaves_no_trace(netns: NetnsBackend) -> None:
    """Its events arrive in order; in the end neither its folder nor its session is there."""
    with Run(NETNS, opens()) as run, watched(netns, run) as session:
        there = netns.residue(session)
        assert run.told("name") == []
        run.go()
        assert run.wait_for("name")["name"] == "netns"
        assert run.end()
        left, took = left_of(netns, session)
        reported = run.reported()

    assert there
    assert (left, took < 1) == (frozenset(), True)
    assert reported == {"test_it": ""}
    assert not Path(run.folder).exists()


def test_a_run_that_is_given_up_is_killed_and_swept(netns: NetnsBackend) -> None:
    """A run whose watcher fails leaves nothing, not even of a session that nobody else reaps."""
    sessions = []

    def give_up() -> None:
        reopening = Reopening(("--bottle-mutant=RES-04",))
        with (
            Run(reopening, opens("time.sleep(60)")) as run,
            watched(netns, run) as session,
        ):
            sessions.append((session, run.folder))
            run.go()
            run.wait_for("name")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()

    ((session, folder),) = sessions
    assert netns.residue(session) == frozenset()
    assert not Path(folder).exists()


def test_a_run_that_does_not_get_there_proves_nothing(netns: NetnsBackend) -> None:
    """A run that ends before it has opened its backend is inconclusive, in its own words."""
    unknown = Reopening(("--bottle-backend=nonesuch",))

    with (
        pytest.raises(Inconclusive, match="'nonesuch' is not known"),
        Run(unknown, opens()) as run,
        watched(netns, run),
    ):
        pass


class Blind(NetnsBackend):
    """A backend that never sees anything of a session."""

    def residue(self, session: str) -> frozenset[Resource]:
        """See nothing."""
        return frozenset()


def test_a_session_that_cannot_be_seen_proves_nothing(netns: NetnsBackend) -> None:
    """If a live session shows no residue, its absence later would be worth nothing."""
    backend = Blind(netns.netns)

    with (
        pytest.raises(Inconclusive, match="cannot be seen from outside"),
        Run(NETNS, opens()) as run,
        watched(backend, run),
    ):
        pass


def test_the_suites_own_settings_do_not_reach_a_run(
    netns: NetnsBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its options in the environment nor its place among workers are inherited."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "--nonesuch")
    monkeypatch.setenv("BOTTLE_KEEP", "always")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")

    with Run(NETNS, opens()) as run, watched(netns, run) as session:
        run.go()
        assert run.end()
        assert run.told("name")
        assert left_of(netns, session)[0] == frozenset()


OFFER = """
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from beside import NAME

def pytest_addoption(parser):
    parser.addoption("--own-option", default="here")

def pytest_bottle_backends(config):
    assert config.getoption("--own-option") == "here"
    return {NAME: lambda: EngineBackend(NetnsEngine())}
"""


def test_a_backend_of_a_conftest_is_come_to_again(tmp_path: Path) -> None:
    """The checks that run pytest themselves work on a backend that a conftest.py offers."""
    (tmp_path / "conftest.py").write_text(OFFER)
    (tmp_path / "beside.py").write_text("NAME = 'third'\n")
    (tmp_path / "test_mine.py").write_text(
        "from pytest_bottle.conformance import test_conformance\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "RES-04"),
            *("--bottle-backend=third", "test_mine.py"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )

    assert done.returncode == 0, done.stdout
    assert "resources gone" in done.stdout


def test_a_bench_knows_how_its_backend_is_come_to(netns: NetnsBackend) -> None:
    """By the backend's own name, or by that of its mutant."""
    backends: dict[str, Backend] = {
        "--bottle-backend=black-hole": BlackHole(),
        "--bottle-mutant=RES-01": open_mutant("RES-01"),
    }
    for option, backend in backends.items():
        try:
            assert Bench(backend).reopening == Reopening((option,))
        finally:
            backend.close()


# -- what the checks make of it --------------------------------------------------------------------


@pytest.fixture
def run_check(netns: NetnsBackend) -> Callable[[str], str]:
    """Run one check on a sound backend, with a bench of its own."""

    def run(identity: str) -> str:
        bench = Bench(netns)
        try:
            return bench.run(named(identity))
        finally:
            bench.close()

    return run


def test_an_error_that_is_not_reported_is_a_violation(
    run_check: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RES-02 wants the original error, not just any."""
    wanted = residue._Failing(("-k", "raises"), {"test_raises": "Original: something else"})
    monkeypatch.setattr(residue, "_FAILURES", (wanted,))

    with pytest.raises(
        Violation, match="'Original: something else' of test_raises is not reported"
    ):
        run_check("RES-02")


def test_a_test_that_never_ran_proves_nothing(
    run_check: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RES-02 counts only bottles that the inventory has seen."""
    monkeypatch.setattr(residue, "_FAILURES", (residue._Failing(("-k", "none"), {"test_x": ""}),))

    with pytest.raises(Inconclusive):
        run_check("RES-02")


def test_a_run_that_goes_on_after_a_signal_is_a_violation(
    run_check: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RES-03 gives a run so many seconds to live; one that has to be killed is red."""
    monkeypatch.setattr("pytest_bottle.conformance.runs._TO_LIVE", 0.3)
    deaf = runs._WAITING.replace('tell("body")', 'signal.signal(15, print); tell("body")')
    monkeypatch.setattr(runs, "_WAITING", deaf)
    trial = residue._Trial((signal.SIGTERM,), "body", 0.0, 0.0)
    monkeypatch.setattr(residue, "_draw", lambda count: [trial])

    with pytest.raises(Violation, match=r"SIGTERM 0.0 ms into body: the run went on"):
        run_check("RES-03")


#: A backend that nobody but its own end removes, and whose agents get out.
ORPHANS = """
from pytest_bottle.conformance.mutants.network import LiteralTcp
from pytest_bottle.conformance.mutants.residue import NoReaper

class Orphans(NoReaper, LiteralTcp):
    pass

def pytest_bottle_backends():
    return {"orphans": Orphans}
"""


def test_an_orphan_that_gets_out_is_a_violation(netns: NetnsBackend, tmp_path: Path) -> None:
    """RES-04 lets the orphaned agent try, while nobody removes it, and the far end decides."""
    offer = tmp_path / "offer.py"
    offer.write_text(ORPHANS)
    reopening = Reopening(("--bottle-backend=orphans",), (str(offer),))
    bench = Bench(netns, reopening=reopening)
    try:
        with pytest.raises(Violation, match=r"an orphaned agent gets out: NET-01 .*leaked"):
            bench.run(named("RES-04"))
    finally:
        bench.close()


def test_trials_cover_every_signal_and_every_moment() -> None:
    """Whatever is drawn: each kind of signal at least once, each moment twice."""
    for _ in range(50):
        trials = residue._draw(residue._TRIALS)
        moments = [trial.moment for trial in trials]
        assert {trial.signals for trial in trials} == set(residue._SIGNALS)
        assert {moments.count(moment) for moment in residue._MOMENTS} == {2}
        assert all(0 <= trial.delay <= residue._MOMENTS[trial.moment] for trial in trials)
