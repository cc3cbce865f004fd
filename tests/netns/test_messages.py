"""What a verdict says of itself: every kind of check on a backend that fails it."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import Errand, Meddler, open_mutant
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import Inconclusive, TransportError, Violation
from tests.judging import named

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend, ExecResult

pytestmark = pytest.mark.usefixtures("netns_works")

NONCE = r"[0-9a-f]{32}"
PACKETS = r"the witness heard( \d+ packets, the first| one packet) from \S+ to \S+ at \d+\.\d{3} s"


def failure(backend: Backend, identity: str) -> Violation | Inconclusive:
    """Run one check on a backend that fails it, and end the backend."""
    check = named(identity)
    try:
        with pytest.raises((Violation, Inconclusive)) as caught:
            Bench(backend).run(check)
    finally:
        backend.close()
    error = caught.value
    assert isinstance(error, Violation | Inconclusive)
    return error


#: For each kind of check a mutant, and what the message says: sent, heard, how, cause.
KINDS = {
    "a claim": (
        "NET-01", "NET-01",
        r"NET-01 agent tcp/443 to 192\S+; NET-01 agent tcp/443 to 192\S+ as root; .*",
        rf"{PACKETS} \(nonce {NONCE}\)",
        r"agent: 4x connected",
        r"probably the agent has a way out past the sidecar: a route, and something that forwards",
    ),
    "a claim by a next hop": (
        "NET-09", "NET-09",
        r"NET-09 privileged tcp/443 to 192\S+ via 10\.86\.1\.1; .*",
        rf"{PACKETS} \(nonce {NONCE}\)",
        r"privileged: .*connected.*",
        r"probably 10\.86\.1\.1 forwards what it is handed; the agent only has no route to it",
    ),
    "a claim of one family": (
        "IP6-01", "IP6-01",
        r"IP6-01 agent tcp/443 to 2620:\S+; .*",
        rf"{PACKETS} \(nonce {NONCE}\)",
        r"agent: .*x connected, .*",
        r"probably the agent has a way out past .*; only IPv4 is held back",
    ),
    "a sweep": (
        "NET-04", "NET-04",
        r"NET-04 every tcp port via 10\.86\.1\.1",
        rf"{PACKETS} \(nonce {NONCE}\)",
        r"one packet to each port, handed to the next hop",
        r"probably 10\.86\.1\.1 forwards some ports: a rule lets more pass than it should",
    ),
    "an encounter": (
        "HST-01", "HST-01",
        r"agent: tcp/\d+ to 10\.86\.1\.1; .* to 255\.255\.255\.255; .*; and \d+ more",
        rf"the listener's own record names them \(nonce {NONCE}, .*\)",
        r"agent: .*connected, .*",
        r"probably something of the host listens where the bottle reaches it",
    ),
    "a name": (
        "DNS-03", "DNS-03",
        r"agent: resolve NONCE\.elsewhere\.test; .*",
        rf"{PACKETS}: b'.*elsewhere.*'",
        r"somebody asked in the agent's stead",
        r"probably a resolver serves more than the list, or port 53 is let through",
    ),
    "a dialect": (
        "PXY-03", "PXY-03",
        r"agent to its proxy: GET denied at 10\S+; .*",
        rf"{PACKETS}: b'.*",
        r"the sidecar went there, or looked the name up",
        r"probably the sidecar's policy, or how it reads a request",
    ),
    "a denial": (
        "PXY-02", "PXY-02",
        r"sidecar: GET http://the address of denied\.test/; .*",
        PACKETS,
        r"agent: .*answered",
        r"probably the sidecar's policy, or how it reads a request",
    ),
    "an inspection": (
        "PRV-06", "PRV-06",
        r"not with the survey: it looks and tries by itself, when it runs",
        r"",
        r"",
        r"probably how the agent is started: .*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_violation_says_all_that_is_known(kind: str) -> None:
    """Property, stimulus, who heard what, mechanism, likely cause, a source and a rerun line."""
    mutant, identity, *patterns = KINDS[kind]
    check = named(identity)

    error = failure(open_mutant(mutant), identity)

    assert isinstance(error, Violation)
    text = str(error)
    assert text.splitlines()[0] == f"{identity} VIOLATED: {check.title}"
    assert error.expected == check.requirement
    for pattern, said in zip(patterns, error.facts, strict=False):
        assert re.fullmatch(pattern, said), text
    assert error.facts.evidence in check.evidence
    assert f"test_conformance[{identity}]' --bottle-mutant={mutant}" in error.next_step
    assert max(map(len, text.splitlines())) < 1000


def test_what_is_inconclusive_says_why_and_where_to_look() -> None:
    """It has the same parts; the cause is that of the doubt, and not of a leak."""
    error = failure(BlackHole(), "NET-01")

    assert isinstance(error, Inconclusive)
    assert "PXY-01 GET through the proxy failed" in error.seen
    assert error.facts.sent.startswith("NET-01 agent tcp/443 to ")
    assert error.facts.how == "agent: 4x unreachable"
    assert error.facts.cause == (
        "probably the intended path is broken: look at the sidecar, and at PXY-01"
    )
    assert "--bottle-backend=black-hole" in error.next_step


class Mute(Meddler):
    """The agent's exec is broken."""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Let nothing run in the agent."""
        if errand.is_the_agents:
            raise TransportError("the exec came to nothing", where="agent", seen="a broken line")
        return errand


def test_a_broken_exec_is_inconclusive_like_all_else() -> None:
    """What the backend raises has the check's own message around it, and a line to rerun it by."""
    error = failure(Mute(), "PRV-01")

    assert isinstance(error, Inconclusive)
    assert str(error).startswith("PRV-01 INCONCLUSIVE: ")
    assert "a broken line" in error.seen
    assert error.facts.cause.startswith("probably ")
    assert "test_conformance[PRV-01]' --bottle-backend=netns" in error.next_step


def test_the_rerun_line_runs_the_check_again_alone(pytester: pytest.Pytester) -> None:
    """With the file, the mutant and all else that was chosen, wherever that was; and only it."""
    (pytester.path / "conf").mkdir()
    (pytester.path / "conf" / "mine.yaml").write_text(
        "policy:\n"
        "  - {id: USER-1, to: '203.0.113.7:443/tcp', expect: blocked}\n"
        "  - {id: USER-10, to: '203.0.113.7:443/tcp', expect: blocked}\n"
    )
    pytester.makeini("[pytest]\nbottle_mutant = NET-01\nbottle_timeout = 29\n")
    pytester.makepyfile(test_mine="from pytest_bottle.conformance import test_conformance\n")
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")

    result = pytester.run(
        *(*command, "--bottle-config=conf/mine.yaml", "test_mine.py", "-k", "USER-1")
    )
    told = re.findall(r"rerun alone: pytest (.*)", result.stdout.str())
    (line,) = {one for one in told if "[USER-1]" in one}
    (pytester.path / "pytest.ini").unlink(missing_ok=True)
    (pytester.path / "tox.ini").unlink()
    again = pytester.run(*command, *shlex.split(line))

    assert line == (
        "'test_mine.py::test_conformance[USER-1]' --bottle-mutant=NET-01 "
        "--bottle-config=conf/mine.yaml --bottle-timeout=29.0"
    )
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["VIOLATED *USER-1 *203.0.113.7:443/tcp is blocked *"])


def test_a_bottle_that_does_not_come_up_is_told_once(pytester: pytest.Pytester) -> None:
    """All checks fail for one reason; the first says it in full, the others refer to it."""
    pytester.makeconftest(
        """
        from pytest_bottle.backends.base import BackendBase
        from pytest_bottle.errors import BringUpError
        from pytest_bottle import BackendInfo

        class Broken(BackendBase):
            def describe(self): return BackendInfo("broken", "1", frozenset())
            def up(self, spec): raise BringUpError("it will not start", seen="a cable is missing")
            def down(self, topology): pass
            def exec(self, topology, vantage, argv, **more): pass
            def close(self, *, keep=False): return ""

        def pytest_bottle_backends(config):
            return {"broken": Broken}
        """
    )

    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance"),
        *("--bottle-backend=broken", "-p", "no:cacheprovider", "-k", "NET-0"),
    )

    assert result.ret == 1
    count = sum(check.id.startswith("NET-0") for check in all_checks())
    text = result.stdout.str().partition("= INCONCLUSIVE =")[2]
    assert text.count("a cable is missing") == 1
    assert text.count("the error is told in full at ") == count - 1
