"""Rows of a user's own policy on real bottles: sound, weakened, and where nothing gets through."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend, open_mutant
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.conformance.rows import checks_of
from pytest_bottle.errors import Inconclusive, Violation
from pytest_bottle.rows import Row, Target
from pytest_bottle.spec import PLAIN, EgressRoute
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend

pytestmark = pytest.mark.usefixtures("netns_works")

P, V, I = Verdict.PASSED, Verdict.VIOLATED, Verdict.INCONCLUSIVE  # noqa: E741 - one letter a column


def row(identity: str, to: str, expect: str, origin: str = "agent", via: str = "direct") -> Row:
    """Make a row."""
    return Row(f"USER-{identity}", Target.parse(to), expect, origin, via)


#: Each with its verdict on the sound backend, on NET-01, PXY-02, and on the black hole.
ROWS = {
    row("LITERAL", "203.0.113.7:443/tcp", "blocked"): (P, V, P, I),
    row("NAME", "db.internal:443/tcp", "blocked"): (P, V, P, I),
    # The proxy itself goes there all the time: that is not taken for the agent's doing.
    row("BUSY", "allowed.test:80,443/tcp", "blocked"): (P, V, P, I),
    row("OTHER", "203.0.113.7:5432/tcp", "blocked"): (P, P, P, I),
    row("UDP", "203.0.113.7:443/udp", "blocked"): (P, P, P, I),
    row("PING", "203.0.113.7/icmp", "blocked"): (P, P, P, I),
    row("V6", "[2001:db8::7]:443/tcp", "blocked"): (P, P, P, I),
    # One destination, asked for from three places: each is told from the others.
    row("GATEWAY", "203.0.113.7:443/tcp", "blocked", "privileged"): (P, V, P, I),
    row("OUT", "203.0.113.7:443/tcp", "allowed", "sidecar"): (P, P, P, I),
    row("OUT-UDP", "203.0.113.7:443/udp", "allowed", "sidecar"): (P, P, P, I),
    row("OUT-PING", "203.0.113.7/icmp", "allowed", "sidecar"): (P, P, P, I),
    row("SIDECAR", "203.0.113.7:443/tcp", "blocked", "sidecar"): (V, V, V, I),
    row("OPEN", "203.0.113.7:443/tcp", "allowed"): (V, P, V, I),
    row("PKG", "packages.test:80,443,5432/tcp", "allowed", via="proxy"): (P, P, P, I),
    row("SHUT", "db.internal:80,443/tcp", "blocked", via="proxy"): (P, P, V, I),
    row("WISH", "db.internal:443/tcp", "allowed", via="proxy"): (V, V, P, I),
    row("NOBODY", "nxdomain.test:80/tcp", "blocked"): (I, I, I, I),
    row("INSIDE", "10.86.1.1:80/tcp", "blocked"): (I, I, I, I),
}
SPEC = replace(PLAIN, policy=tuple(ROWS), egress=(EgressRoute("packages.test", (80, 443, 5432)),))


def judged(backend: Backend) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Run the rows and nothing else; returns verdicts, and what was said."""
    verdicts, said = {}, {}
    try:
        bench = Bench(backend, SPEC)
        for check in checks_of(SPEC.policy):
            try:
                said[check.id], verdicts[check.id] = bench.run(check), P
            except Violation as error:
                said[check.id], verdicts[check.id] = str(error), V
            except Inconclusive as error:
                said[check.id], verdicts[check.id] = str(error), I
        bench.close()
    finally:
        backend.close()
    return verdicts, said


@pytest.mark.parametrize("place", ["netns", "NET-01", "PXY-02", "black-hole"])
def test_each_row_has_its_verdict(place: str) -> None:
    """A block passes on a sound bottle, fails on a leak, and proves nothing where all is dead."""
    makers = {"netns": NetnsBackend, "black-hole": BlackHole}
    backend = makers[place]() if place in makers else open_mutant(place)
    column = ["netns", "NET-01", "PXY-02", "black-hole"].index(place)

    verdicts, said = judged(backend)

    wanted = {row.id: expected[column] for row, expected in ROWS.items()}
    assert verdicts == wanted, said


def test_a_row_that_proves_nothing_says_why() -> None:
    """No address, and a control that does not arrive, are named."""
    _, said = judged(NetnsBackend())

    assert "the far side has no address for nxdomain.test" in said["USER-NOBODY"]
    assert (
        "its control did not arrive: USER-INSIDE agent tcp/80 to 10.86.1.1 (open, before)"
        in (said["USER-INSIDE"])
    )


FILE = """
egress: ["packages.test:443"]
policy:
  - {id: USER-DB, to: "db.internal:443/tcp", expect: blocked}
  - {to: "packages.test:443/tcp", expect: allowed}
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_rows_of_a_file_are_items_of_the_suite(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    """They stand in its report beside the catalogue's; a leak fails the run by the row's ID."""
    (pytester.path / "mine.yaml").write_text(FILE)

    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance", *workers),
        *("--bottle-mutant=NET-01", "--bottle-config=mine.yaml", "-p", "no:cacheprovider"),
        *("-k", "USER- or NET-01 or PXY-01"),
    )

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "VIOLATED *NET-01 *",
            "PASSED *PXY-01 *",
            "PASSED *USER-2 *packages.test:443/tcp is allowed from the agent, through the proxy",
            "VIOLATED *USER-DB *db.internal:443/tcp is blocked from the agent, directly",
            f"2 passed, 2 violated, 0 inconclusive, 0 not supported, {len(all_checks()) - 2} not *",
        ]
    )
