"""The gate: nothing that leaves out, skips, excuses or replaces a check makes a run green."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from pytest_bottle.conformance import profiles
from pytest_bottle.reports import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

pytestmark = pytest.mark.usefixtures("netns_works", "tiny")

#: A profile of two fast checks. They are real ones, on the real netns backend.
TINY = {"PRV-01", "PRV-02"}
CONFTEST = f"""
import pytest
from pytest_bottle.conformance import profiles
profiles.PROFILES["tiny@1"] = frozenset({TINY})
"""
GATE = ("--bottle-backend=netns", "--bottle-profile=tiny@1", "--bottle-gate")
FRONT_DOOR = ("--pyargs", "pytest_bottle.conformance")
OWN_FILE = "from pytest_bottle.conformance import test_conformance\n"

GREEN = pytest.ExitCode.OK
RED = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def tiny(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small profile, in this process and in those that run under its conftest.py."""
    monkeypatch.setitem(profiles.PROFILES, "tiny@1", frozenset(TINY))
    pytester.makeconftest(CONFTEST)


@pytest.fixture(params=[(), ("-n", "2")], ids=["alone", "-n 2"])
def gated(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Run:
    """Run the suite behind its gate, without workers and with two."""

    def run(*arguments: str, conftest: str = "") -> pytest.RunResult:
        pytester.makeconftest(CONFTEST + conftest)
        start = pytester.runpytest_subprocess if request.param else pytester.runpytest
        return start(*FRONT_DOOR, *GATE, *request.param, *arguments)

    return run


def test_all_passed(gated: Run) -> None:
    """Where every planned check passed, the run is green and the result is the best one."""
    result = gated()

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(
        ["2 passed, 0 violated, *, 0 not run, 0 waived", "profile tiny@1: conformant"]
    )


def test_a_deselected_check(gated: Run) -> None:
    """``-k`` leaves one out: red, though all that ran has passed, and it is named with the reason.

    pytest itself would call this run passed.
    """
    result = gated("-k", "PRV-01")

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "PASSED        PRV-01 *",
            "NOT RUN       PRV-02 *",
            " * it was deselected (-k=PRV-01)",
            "profile tiny@1: failed (1 not run)",
        ]
    )


AUTOUSE_SKIP = """
@pytest.fixture(autouse=True)
def not_today(request):
    if "PRV-02" in request.node.name:
        pytest.skip("not today")
"""
XFAIL = """
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.{mark})
"""


@pytest.mark.parametrize(
    ("conftest", "shown"),
    [
        (
            AUTOUSE_SKIP,
            ["NOT RUN *PRV-02 *", " * not today", "*suite's: not_today (conftest)"],
        ),
        (XFAIL.format(mark="skip(reason='flaky')"), ["NOT RUN *PRV-01 *", " * flaky"]),
    ],
    ids=["autouse", "skip"],
)
def test_a_skipped_check(gated: Run, conftest: str, shown: list[str]) -> None:
    """A user's fixture or mark skips checks: red, with the skip's own reason."""
    result = gated(conftest=conftest)

    assert result.ret == RED
    result.stdout.fnmatch_lines(shown)


def test_a_crashed_worker(pytester: pytest.Pytester) -> None:
    """A check in which its worker died has no verdict."""
    pytester.makeconftest(
        CONFTEST
        + """
@pytest.fixture(autouse=True)
def crash(request):
    if "PRV-02" in request.node.name:
        import os
        os._exit(7)
"""
    )

    result = pytester.runpytest_subprocess(*FRONT_DOOR, *GATE, "-n", "2")

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        ["PASSED        PRV-01 *", "NOT RUN       PRV-02 *", " * its worker crashed meanwhile"]
    )


# -- without workers -------------------------------------------------------------------------------


@pytest.fixture
def alone(pytester: pytest.Pytester) -> Run:
    """Run something behind the gate, in this process."""

    def run(*arguments: str, conftest: str = "", **files: str) -> pytest.RunResult:
        pytester.makeconftest(CONFTEST + conftest)
        for name, text in files.items():
            pytester.makepyfile(**{name: text})
        return pytester.runpytest(*GATE, *arguments)

    return run


@pytest.mark.parametrize(
    ("ini", "arguments", "reason"),
    [
        ("", ["-m", "nothing"], "it was deselected (-m=nothing)"),
        ("python_files = check_*.py", [], "no item of it was collected (*)"),
        ("python_functions = check_*", [], "no item of it was collected (*)"),
        ("", ["--collect-only"], "the run ended before its turn (--collect-only)"),
        ("", ["--setup-plan"], "the run ended before its turn (*--setup-plan)"),
    ],
)
def test_nothing_runs(
    alone: Run, pytester: pytest.Pytester, ini: str, arguments: list[str], reason: str
) -> None:
    """A run of no check at all is red: no items, a marker expression, a mere look."""
    pytester.makeini(f"[pytest]\n{ini}")

    result = alone(*FRONT_DOOR, *arguments)

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        ["NOT RUN *PRV-01 *", f" * {reason}", "profile tiny@1: failed (2 not run)"]
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--deselect", "test_own.py::test_conformance[PRV-02]"],
            "it was deselected (--des*",
        ),
        (["--ignore=test_own.py"], "no item of it was collected (--ignore=test_own.py)"),
        (["test_other.py"], "no item of it was collected (*)"),
    ],
)
def test_left_out_by_a_path(alone: Run, arguments: list[str], reason: str) -> None:
    """A node that is deselected, a file that is ignored, a path that is another one: red."""
    result = alone(*arguments, test_own=OWN_FILE, test_other="def test_good(): pass\n")

    assert result.ret == RED
    result.stdout.fnmatch_lines(["NOT RUN       PRV-02 *", f" * {reason}"])


def test_stopped_early(alone: Run) -> None:
    """``-x`` and a failure before the checks: they are named, all of them."""
    result = alone("-x", test_a="def test_bad(): assert False", test_own=OWN_FILE)

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "NOT RUN       PRV-01 *",
            " * the run ended before its turn (--maxfail=1)",
            "NOT RUN       PRV-02 *",
        ]
    )


def test_only_the_last_failed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--lf`` runs what failed last, and that passes now: red, for the checks did not run."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    pytester.makepyfile(test_own=OWN_FILE, test_a="def test_it(): assert False")
    pytester.runpytest(*GATE)
    pytester.makepyfile(test_a="def test_it(): assert True")

    result = pytester.runpytest(*GATE, "--lf")

    assert result.ret == RED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["NOT RUN *PRV-01 *", " * (*--lf)", "profile tiny@1: failed (2 *"])


@pytest.mark.parametrize(
    "conftest",
    [
        "def pytest_collection_modifyitems(items): items.clear()",
        "def pytest_runtest_protocol(item): return True",
        "def pytest_runtestloop(session): return True",
        "def pytest_runtest_setup(item): pytest.exit('enough', returncode=0)",
    ],
)
def test_a_conftest_that_knows_better(alone: Run, conftest: str) -> None:
    """Hooks of a conftest.py that let no check run, and an exit that claims success: red."""
    result = alone(conftest=conftest, test_own=OWN_FILE)

    assert result.ret == RED
    result.stdout.fnmatch_lines(["profile tiny@1: failed (2 not run)"])


def test_a_file_that_cannot_be_collected(alone: Run) -> None:
    """Errors of collection keep their own status, and the checks are named."""
    result = alone(test_a="import nothing_of_that_name", test_own=OWN_FILE)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["NOT RUN *PRV-01 *", "profile tiny@1: failed (2 not run)"])


@pytest.mark.parametrize(
    "mark", ["xfail", "xfail(run=False)", "xfail(raises=Exception)", "xfail(strict=True)"]
)
def test_a_violation_is_not_excused_by_a_mark(pytester: pytest.Pytester, mark: str) -> None:
    """On a weakened backend the check is violated, whatever a conftest.py marks it with."""
    pytester.makeconftest(CONFTEST + XFAIL.format(mark=mark))

    result = pytester.runpytest(
        *FRONT_DOOR, "--bottle-mutant=PRV-04", "--bottle-profile=tiny@1", "--bottle-gate"
    )

    assert result.ret == RED
    word = "NOT RUN " if "run=False" in mark else "VIOLATED"
    result.stdout.fnmatch_lines([f"{word}      PRV-01 *", "profile tiny@1: failed (*"])


def test_a_mark_alone_changes_nothing(alone: Run) -> None:
    """A check that is expected to fail and passes is passed."""
    result = alone(*FRONT_DOOR, conftest=XFAIL.format(mark="xfail"))

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(["profile tiny@1: conformant"])


def test_a_bench_of_somebody_elses(alone: Run) -> None:
    """A fixture in the place of the suite's own bottle is told of, and nothing is believed."""
    result = alone(
        *FRONT_DOOR,
        conftest="""
class Fake:
    def run(self, check):
        return "all is well"

@pytest.fixture
def _bottle_bench():
    return Fake()
""",
    )

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "*INCONCLUSIVE: a fixture stands in the place of the suite's own",
            "*where: *_bottle_bench (conftest)",
            "INCONCLUSIVE  PRV-01 *",
            "profile tiny@1: failed (2 inconclusive)",
        ]
    )


def test_a_bench_handed_on(alone: Run) -> None:
    """A fixture that wraps ours and hands it on is named, and harms nothing."""
    result = alone(
        *FRONT_DOOR,
        conftest="""
@pytest.fixture
def _bottle_bench(_bottle_bench):
    yield _bottle_bench
""",
    )

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(["*not the suite's: _bottle_bench (conftest)"])


def test_a_check_of_somebody_elses(alone: Run) -> None:
    """A fixture named bottle_check does not get in: the planned checks run."""
    result = alone(
        *FRONT_DOOR,
        conftest="""
@pytest.fixture
def bottle_check():
    return None
""",
    )

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(["PASSED        PRV-01 *", "profile tiny@1: conformant"])


def test_a_test_of_somebody_elses(alone: Run) -> None:
    """A test that takes the checks and looks at nothing gives them no verdict."""
    result = alone(test_mine="def test_mine(bottle_check): pass")

    assert result.ret == RED
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "INCONCLUSIVE  PRV-01 *",
            " * test_mine.py::test_mine?PRV-01? said passed, and that is not the suite's own test",
        ]
    )


def test_a_second_try(alone: Run) -> None:
    """A check that passes when it is run again is inconclusive."""
    pytest.importorskip("pytest_rerunfailures")
    result = alone(
        *(*FRONT_DOOR, "--reruns=1"),
        conftest="""
tries = []

@pytest.fixture(autouse=True)
def shaky(request):
    tries.append(request.node.name)
    assert "PRV-02" not in request.node.name or len(tries) > 2
""",
    )

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "PASSED        PRV-01 *",
            "INCONCLUSIVE  PRV-02 *",
            " * it was run again after it had ended as inconclusive",
            "*2 passed*1 rerun*",
        ]
    )


def test_a_backend_that_is_not_there(pytester: pytest.Pytester) -> None:
    """A backend that cannot be opened is no skip: every check is inconclusive."""
    pytester.makeconftest(
        CONFTEST
        + """
def pytest_bottle_backends(config):
    def none():
        raise OSError("no daemon")
    return {"mine": none}
"""
    )

    result = pytester.runpytest(
        *(*FRONT_DOOR, "--bottle-backend=mine", "--bottle-profile=tiny@1", "--bottle-gate")
    )

    assert result.ret == RED
    result.stdout.fnmatch_lines(["profile tiny@1: failed (2 inconclusive)"])


def test_without_the_gate(pytester: pytest.Pytester) -> None:
    """Who explores with ``-k`` is told that there is no result, and the run is green."""
    result = pytester.runpytest(*FRONT_DOOR, *GATE[:2], "-k", "PRV-01")

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(["profile tiny@1: no result, for 1 of 2 checks were not run"])
    result.stdout.no_fnmatch_line("NOT RUN *")


def test_the_gate_by_a_variable(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can be asked for by the environment, and taken back there."""
    monkeypatch.setenv("BOTTLE_GATE", "yes")
    on = pytester.runpytest(*FRONT_DOOR, *GATE[:2], "-k", "nothing")
    monkeypatch.setenv("BOTTLE_GATE", "no")
    off = pytester.runpytest(*FRONT_DOOR, *GATE[:2], "-k", "nothing")

    assert on.ret == RED
    assert off.ret == pytest.ExitCode.NO_TESTS_COLLECTED


POLICY = """
policy:
  - {id: USER-WEB, from: agent, to: 203.0.113.9:443/tcp, expect: blocked}
"""


def test_a_row_of_ones_own(alone: Run, pytester: pytest.Pytester) -> None:
    """A policy of the user's own is planned in every profile; its evidence is in the record."""
    (pytester.path / "bottle.yaml").write_text(POLICY)

    result = alone(*FRONT_DOOR, "--bottle-report=r.json")

    assert result.ret == GREEN
    made = json.loads((pytester.path / "r.json").read_text())
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))
    row = made["checks"][-1]
    assert (row["id"], row["verdict"], row["gating"]) == ("USER-WEB", "passed", True)
    assert row["evidence"]


def test_a_row_that_is_left_out(alone: Run, pytester: pytest.Pytester) -> None:
    """Deselected, a row of the user's own is missed like any check."""
    (pytester.path / "bottle.yaml").write_text(POLICY)

    result = alone(*FRONT_DOOR, "--deselect=somewhere", "-k", "PRV")

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "NOT RUN *USER-WEB *",
            " * it was deselected (-k=PRV, --deselect=somewhere)",
            "profile tiny@1: failed (1 not run)",
        ]
    )


# -- quirks, features, requirements ----------------------------------------------------------------

SUITE = """
from pytest_bottle.errors import Inconclusive, Violation

def test_mine(bottle_check):
    raise {error}(bottle_check.id + " is not as it should be")
"""


@pytest.mark.parametrize("error", ["Violation", "Inconclusive"])
@pytest.mark.parametrize("identity", ["HST-04", "NET-01"])
def test_a_quirk_is_recorded(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, error: str, identity: str
) -> None:
    """What a quirk finds is shown and fails nobody; a check that is none fails the run."""
    pytester.makepyfile(SUITE.format(error=error))

    result = pytester.runpytest("-k", identity)

    quirk = identity == "HST-04"
    assert result.ret == (GREEN if quirk else RED)
    verdict = {"Violation": "VIOLATED", "Inconclusive": "INCONCLUSIVE"}[error]
    kind = " (quirk: recorded, does not count)" if quirk else ""
    result.stdout.fnmatch_lines([f"{verdict} *{identity} *{kind}"])
    if quirk:
        result.stdout.fnmatch_lines([" *HST-04 is not as it should be", "=* 1 recorded in *"])


@pytest.mark.parametrize(
    ("required", "status"), [("", GREEN), ("partial", GREEN), ("conformant", RED)]
)
def test_a_check_that_is_not_supported(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str, status: int
) -> None:
    """It makes the result partial, which is green unless more is required."""
    monkeypatch.setitem(profiles.PROFILES, "tiny@1", frozenset({"PRV-01", "TRN-01"}))
    arguments = [f"--bottle-require={required}"] if required else ["--bottle-gate"]
    pytester.makeconftest("")

    result = pytester.runpytest(*FRONT_DOOR, *GATE[:2], *arguments)

    assert result.ret == status
    result.stdout.fnmatch_lines(
        ["NOT SUPPORTED TRN-01 *", "profile tiny@1: partial (1 not supported)"]
    )


LIAR = """
from pytest_bottle.backends.contract import Feature, Resource, User
from pytest_bottle.conformance.mutants.base import NetnsBackend

class Liar(NetnsBackend):
    def describe(self):
        info = super().describe()
        return info._replace(name="liar", features={features})

    def inventory(self):
        return {inventory}

def pytest_bottle_backends(config):
    return {{"liar": Liar}}
"""


@pytest.mark.parametrize(
    ("features", "inventory", "told"),
    [
        ("info.features - {Feature.EXEC_ROOT}", "super().inventory()", "no exec-root is declared*"),
        ("info.features - {Feature.AUDIT}", "super().inventory()", "no audit is declared*"),
        ("info.features - {Feature.PUBLISH}", "super().inventory()", "no publish is declared*"),
        ("info.features - {Feature.SESSION}", "super().inventory()", "no session is declared*"),
        ("info.features", "frozenset()", "inventory is declared, and it lists nothing*"),
    ],
)
def test_a_feature_that_is_contradicted(
    pytester: pytest.Pytester, features: str, inventory: str, told: str
) -> None:
    """A declaration that the running bottle refutes fails the run, also without a gate."""
    pytester.makeconftest(CONFTEST + LIAR.format(features=features, inventory=inventory))

    result = pytester.runpytest(
        *FRONT_DOOR, "--bottle-backend=liar", "--bottle-profile=tiny@1", "-k", "PRV-01"
    )

    assert result.ret == RED
    result.stdout.fnmatch_lines([f"bottle: a declared feature is contradicted: {told}"])


def test_nothing_is_proven_without_a_control(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, toy: object
) -> None:
    """Where a backend supports none of the controls, the result is failed and not partial."""
    monkeypatch.setitem(profiles.PROFILES, "tiny@1", frozenset({"CTL-01", "NET-01"}))

    result = pytester.runpytest(*FRONT_DOOR, "--bottle-profile=tiny@1", "--bottle-gate")

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "bottle: CTL-01 is not supported: without this control no block is proven",
            "profile tiny@1: failed (2 not supported, 1 more, as told above)",
        ]
    )


# -- the record ------------------------------------------------------------------------------------


def test_a_record_of_nothing(alone: Run, pytester: pytest.Pytester) -> None:
    """A run without any check has a record too, and it says so."""
    result = alone("--bottle-report=out.json", test_other="def test_good(): pass")

    assert result.ret == RED
    made: dict[str, Any] = json.loads((pytester.path / "out.json").read_text())
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))
    assert (made["result"], made["complete"]) == ("failed", False)
    assert made["backend"]["version"] is None
