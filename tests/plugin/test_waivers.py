"""Waivers: one violation of one check on one backend, until a date; and the record tells of it."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from pytest_bottle import waivers
from pytest_bottle.conformance import profiles
from pytest_bottle.reports import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

FRONT_DOOR = ("--pyargs", "pytest_bottle.conformance")
TODAY = dt.date(2030, 1, 15)
GOOD = {
    "check": "PRV-01",
    "backend": "netns",
    "reason": "packet sockets are wanted here",
    "issue": "https://tracker.test/issues/7",
    "expires": "2030-01-31",
    "owner": "the kernel team",
}
GREEN, RED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always the same day here; and the profile has two fast checks."""
    monkeypatch.setattr(waivers, "today", lambda: TODAY)
    monkeypatch.setitem(profiles.PROFILES, "tiny@1", frozenset({"PRV-01", "PRV-02"}))


def written(*entries: dict[str, str]) -> str:
    """Write waivers down, as somebody would."""
    lines = ["waivers:"]
    for entry in entries:
        keys = [f"{name}: {value}" for name, value in entry.items()]
        lines += [f"  - {keys[0]}", *(f"    {key}" for key in keys[1:])]
    return "\n".join(lines) + "\n"


def without(name: str) -> dict[str, str]:
    """A good entry that lacks something."""
    return {key: value for key, value in GOOD.items() if key != name}


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            written({**GOOD, "check": "PRV-1"}),
            "bottle-waivers.yaml:2: waivers[0].check: this check is not known; did you mean "
            "'PRV-01'? expected the ID of a check, seen 'PRV-1'",
        ),
        (
            written({**GOOD, "backend": "netnz"}),
            "bottle-waivers.yaml:3: waivers[0].backend: this backend is not known; did you mean "
            "'netns'? *",
        ),
        (
            written({**GOOD, "until": "2030-01-31"}),
            "bottle-waivers.yaml:8: waivers[0].until: there is no such word*",
        ),
        (
            written({**GOOD, "resaon": "x"}),
            "*waivers[0].resaon: there is no such word; did you mean 'reason'? expected *",
        ),
        *(
            (written(without(name)), f"*waivers[0]: the word '{name}' is missing: *")
            for name in GOOD
            if name != "check"
        ),
        (written({**GOOD, "reason": "''"}), "*waivers[0].reason: this text will not do: *"),
        (written({**GOOD, "reason": "' '"}), "*waivers[0].reason: this says nothing: *"),
        (written({**GOOD, "issue": "see below"}), "*waivers[0].issue: this is no link: *"),
        (
            written({**GOOD, "expires": "2030-07-15"}),
            "*expires: this is too far ahead: expected a date up to 2030-07-14, 180 days *",
        ),
        (written({**GOOD, "expires": "2030-02-30"}), "*expires: this is no date: *"),
        (written({**GOOD, "expires": "soon"}), "*expires: this is no date: *seen 'soon'"),
        (written({**GOOD, "versions": "'~1'"}), "*versions: these are no versions: *"),
        (
            written(GOOD, {**GOOD, "reason": "again"}),
            "*waivers[1]: this is waived twice: *seen PRV-01 on netns, as in waivers[0]",
        ),
        ("waivers: PRV-01\n", "*waivers: a list is needed: *"),
        ("waivers: [PRV-01]\n", "*waivers[0]: a mapping is needed: *"),
        ("waiver: []\n", "*waiver: there is no such word; did you mean 'waivers'? *"),
        ("{}\n", "*the word 'waivers' is missing: *"),
        ("waivers: [\n", "*it is no YAML*"),
    ],
)
def test_a_file_that_will_not_do(
    pytester: pytest.Pytester, text: str, complaint: str, toy: Callable[[], object]
) -> None:
    """It is a usage error that names file, line, path and the nearest word; nothing was opened."""
    (pytester.path / "bottle-waivers.yaml").write_text(text)

    result = pytester.runpytest(*FRONT_DOOR, "--bottle-profile=tiny@1")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {complaint}".replace("waivers[", "waivers[[]")])
    assert toy() is None


def test_everything_at_once(pytester: pytest.Pytester) -> None:
    """All that is wrong with a file is told in one go."""
    broken = {"check": "NET-99", "backend": "here", "expires": "never"}
    (pytester.path / "w.yaml").write_text(written(broken))

    result = pytester.runpytest(*FRONT_DOOR, "--bottle-waivers=w.yaml")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sum("w.yaml" in line for line in result.errlines) == 6


def test_a_file_that_is_not_there(pytester: pytest.Pytester) -> None:
    """Whoever names a file wants it read."""
    (pytester.path / "mine.yaml").touch()

    result = pytester.runpytest(*FRONT_DOOR, "--bottle-waivers=mime.yaml")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*mime.yaml: it cannot be read; did you mean 'mine.yaml'?*"])


# -- what one does ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "version", "covered"),
    [
        ("", "anything", True),
        (">=6,<7", "6.18.4-fc", True),
        ("<6", "6.18.4-fc", False),
        (">=6", "v6.1", True),
        (">=6", "nightly", False),
    ],
)
def test_versions(versions: str, version: str, covered: bool) -> None:
    """A waiver for some versions is judged by the number at a version's front."""
    values = {name: text for name, text in GOOD.items() if name != "expires"}
    waiver = waivers.Waiver(**values, expires=TODAY, versions=versions)

    assert waiver.covers(version) is covered
    assert not waiver.expired


@pytest.fixture
def weakened(pytester: pytest.Pytester) -> Callable[..., tuple[pytest.RunResult, dict[str, Any]]]:
    """Run two checks on a mutant that violates PRV-01, behind the gate, with these waivers."""

    def run(
        *entries: dict[str, str], mutant: str = "PRV-04"
    ) -> tuple[pytest.RunResult, dict[str, Any]]:
        (pytester.path / "bottle-waivers.yaml").write_text(written(*entries))
        chosen = f"--bottle-mutant={mutant}" if mutant else "--bottle-backend=netns"
        result = pytester.runpytest(
            *(*FRONT_DOOR, chosen, "--bottle-profile=tiny@1", "--bottle-report=out/r.json")
        )
        made = json.loads((pytester.path / "out" / "r.json").read_text())
        jsonschema.validate(made, json.loads(SCHEMA.read_text()))
        return result, made

    return run


Weakened = "Callable[..., tuple[pytest.RunResult, dict[str, Any]]]"
pytestmark = pytest.mark.usefixtures("netns_works")


def test_a_waived_violation(weakened: Any) -> None:
    """It is a verdict of its own, and the result is partial: never conformant."""
    result, made = weakened(GOOD)

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(
        [
            "WAIVED        PRV-01 *",
            " * packet sockets are wanted here (until 2030-01-31, https://tracker.test/issues/7)",
            "1 passed, 0 violated, 0 inconclusive, 0 not supported, 0 not run, 1 waived",
            "profile tiny@1: partial (1 waived)",
            "=* 1 passed, 1 waived in *",
        ]
    )
    assert made["result"] == "partial"
    waived, passed = made["checks"]
    assert waived["verdict"] == "waived"
    assert waived["waiver"]["owner"] == "the kernel team"
    assert "PRV-01 VIOLATED" in waived["message"]
    assert passed["waiver"] is None
    assert [one["status"] for one in made["waivers"]] == ["used"]


def test_a_waiver_by_workers(pytester: pytest.Pytester) -> None:
    """Workers excuse, and the controller knows that the waiver was used."""
    (pytester.path / "bottle-waivers.yaml").write_text(written(GOOD))
    pytester.makeconftest(
        """
        import datetime as dt
        from pytest_bottle import waivers
        from pytest_bottle.conformance import profiles

        waivers.today = lambda: dt.date(2030, 1, 15)
        profiles.PROFILES["tiny@1"] = frozenset({"PRV-01", "PRV-02"})
        """
    )

    result = pytester.runpytest_subprocess(
        *(*FRONT_DOOR, "--bottle-mutant=PRV-04", "--bottle-profile=tiny@1", "--bottle-gate"),
        *("-n", "2"),
    )

    assert result.ret == GREEN
    result.stdout.fnmatch_lines(["WAIVED        PRV-01 *", "profile tiny@1: partial (1 waived)"])


def test_an_expired_waiver(weakened: Any) -> None:
    """The day after its last one it excuses nothing, and one line says so."""
    result, made = weakened({**GOOD, "expires": "2030-01-14"})

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        [
            "VIOLATED      PRV-01 *",
            "bottle: the waiver of PRV-01 on netns (waivers?0? of bottle-waivers.yaml) "
            "expired on 2030-01-14, and is not applied",
            "profile tiny@1: failed (1 violated, 1 more, as told above)",
        ]
    )
    assert [one["status"] for one in made["waivers"]] == ["expired"]


def test_the_last_day_counts(weakened: Any) -> None:
    """On the day that it names a waiver still holds."""
    result, _ = weakened({**GOOD, "expires": "2030-01-15"})

    assert result.ret == GREEN


def test_an_expired_waiver_of_a_check_that_passes(weakened: Any) -> None:
    """It has to go: red, even where nothing is wrong and nobody asked for a gate."""
    result, _ = weakened({**GOOD, "expires": "2030-01-14"}, mutant="")

    assert result.ret == RED
    result.stdout.fnmatch_lines(["2 passed, *", "bottle: the waiver of PRV-01 *expired*"])


def test_an_unexpected_pass(weakened: Any) -> None:
    """What is waived and passes fails: whoever repairs something removes its waiver."""
    result, made = weakened(GOOD, mutant="")

    assert result.ret == RED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "PRV-01 passed, and the waiver of PRV-01 on netns (*) is still there: remove it",
            "bottle: the waiver of PRV-01 on netns (*) is not used: the check is passed",
        ]
    )
    assert made["counts"]["passed"] == 2
    assert [one["status"] for one in made["waivers"]] == ["unused"]


def test_of_other_versions(weakened: Any) -> None:
    """A waiver that is not about this version excuses nothing, and says why."""
    result, _ = weakened({**GOOD, "versions": "'<1'"})

    assert result.ret == RED
    result.stdout.fnmatch_lines(
        ["VIOLATED      PRV-01 *", "bottle: *is not used: it is for versions <1, this is *"]
    )


def test_of_another_backend(weakened: Any) -> None:
    """A waiver of another backend, or of a check that is not planned, is nobody's affair here."""
    elsewhere = {**GOOD, "backend": "black-hole"}
    result, made = weakened(elsewhere, {**GOOD, "check": "NET-01"}, mutant="")

    assert result.ret == GREEN
    assert made["result"] == "conformant"
    assert [one["status"] for one in made["waivers"]] == ["elsewhere", "elsewhere"]


@pytest.mark.parametrize("error", ["Inconclusive", "TransportError", "RuntimeError"])
def test_only_a_violation_is_excused(pytester: pytest.Pytester, error: str) -> None:
    """What is inconclusive, or an error, stays what it is."""
    (pytester.path / "bottle-waivers.yaml").write_text(written(GOOD))
    pytester.makeconftest(
        f"""
        import pytest
        from pytest_bottle.errors import *

        @pytest.fixture(autouse=True)
        def broken(_bottle_bench):
            raise {error}("something is broken")
        """
    )

    result = pytester.runpytest(
        *(*FRONT_DOOR, "--bottle-backend=netns", "--bottle-profile=tiny@1", "--bottle-gate")
    )

    assert result.ret == RED
    result.stdout.fnmatch_lines(["INCONCLUSIVE  PRV-01 *", "*0 waived"])


# -- the record ------------------------------------------------------------------------------------


def test_what_a_record_says(weakened: Any) -> None:
    """Who was judged, on what, by what profile, and what came of it."""
    _, made = weakened({**GOOD, "check": "NET-01"}, mutant="")

    assert (made["result"], made["complete"], made["extent"]) == ("conformant", True, "quick")
    assert (made["backend"]["name"], made["backend"]["mode"]) == ("netns", "lab")
    assert "lab" in made["backend"]["features"]
    assert made["backend"]["contradictions"] == []
    root = {"name": "exec-root", "state": "supported", "checks": 2, "passed": 2}
    assert root in made["features"]
    assert (made["profile"]["name"], made["profile"]["gating"]) == ("tiny@1", 2)
    assert made["counts"]["passed"] == 2
    assert made["run"]["exit_status"] == 0
    assert made["run"]["began"] < made["run"]["ended"]
    first = made["checks"][0]
    assert (first["id"], first["severity"], first["verdict"]) == ("PRV-01", "critical", "passed")
    assert first["seconds"] > 0
    assert first["note"]


def test_a_record_by_workers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers found out is in it, with the evidence of the witness."""
    pytester.makeconftest(
        "from pytest_bottle.conformance import profiles\n"
        "profiles.PROFILES['tiny@1'] = frozenset({'NET-01', 'PRV-01'})"
    )

    result = pytester.runpytest_subprocess(
        *(*FRONT_DOOR, "--bottle-mutant=NET-01", "--bottle-profile=tiny@1", "-n", "2"),
        "--bottle-report=one.json,two.json",
    )

    assert result.ret == RED
    text = (pytester.path / "one.json").read_text()
    made = json.loads(text)
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))
    assert json.loads((pytester.path / "two.json").read_text()) == made
    assert (made["run"]["workers"], made["backend"]["mutant"]) == (2, "NET-01")
    (lab,) = (one for one in made["features"] if one["name"] == "lab")
    assert lab == {"name": "lab", "state": "failed", "checks": 1, "passed": 0}
    leak, _ = made["checks"]
    assert leak["verdict"] == "violated"
    (claim, *_) = [one for one in leak["evidence"] if one["finding"].startswith("leaked")]
    assert claim["vantage"] == "agent"
    assert claim["heard"][0]["to"] in leak["message"]
    assert claim["nonce"] in leak["message"]


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ("out.jsn", "*: '.jsn' is not known; did you mean '.json'? (known: .json)"),
        ("a.json,b.sarif", "*'b.sarif', by its end: '.sarif' is not known (known: .json)"),
        ("", "*'' is not known*"),
        ("report", "*'' is not known*"),
    ],
)
def test_a_format_that_there_is_not(pytester: pytest.Pytester, paths: str, complaint: str) -> None:
    """The end of a name says what is wanted; another one is a usage error."""
    result = pytester.runpytest(*FRONT_DOOR, f"--bottle-report={paths}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --bottle-report: {complaint}"])


def test_a_record_that_cannot_be_written(pytester: pytest.Pytester) -> None:
    """It is an error, the run is red, and no half of a file is left."""
    (pytester.path / "there.json").mkdir()

    result = pytester.runpytest(
        *(*FRONT_DOOR, "--bottle-backend=netns", "--bottle-profile=tiny@1"),
        "--bottle-report=there.json",
    )

    assert result.ret == RED
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["bottle: the report *there.json could not be written: *"])
    assert not list(pytester.path.glob("*.tmp"))


def test_a_record_of_an_earlier_run(pytester: pytest.Pytester) -> None:
    """It is gone when a run begins: nobody takes it for the record of one that was killed."""
    (pytester.path / "r.json").write_text("{}")
    pytester.makepyfile("import os\ndef test_it(): os._exit(0)")

    pytester.runpytest_subprocess("--bottle-report=r.json")

    assert not (pytester.path / "r.json").exists()
