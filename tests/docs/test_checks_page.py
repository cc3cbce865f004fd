"""``docs/checks.md`` is made of the registry; ``python tests/docs/test_checks_page.py`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bottle.conformance.mutants import MUTANTS
from pytest_bottle.conformance.registry import all_checks

if TYPE_CHECKING:
    from pytest_bottle.conformance.registry import Check

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"
_HEAD = """\
# Checks

<!-- Made of the registry by tests/docs/test_checks_page.py: do not edit. -->

Every check is a property of a bottle, with a permanent ID.
`pytest --pyargs pytest_bottle.conformance -k NET-01` runs one alone.

- **Level**: `core` must hold on every backend; `strict` on hardened ones; `quirk` records what a platform does.
- **Witness**: who gives the verdict. `required` is the recorder at the far end; `required (H)` is a record kept at the bottle's own host or sidecar; `no` is an inspection.
- **Mutant**: `yes` if `--bottle-mutant=ID` weakens the backend so that this check must report VIOLATED.
  CTL-01, CTL-03, CTL-04 and PXY-01 are VIOLATED on the `black-hole` backend.

| ID | property | level | severity | witness | mutant |
| --- | --- | --- | --- | --- | --- |
"""
_EVIDENCE = """
## Evidence

The reports, advisories and observations that each check rests on.
"S18" and the like are facts of bot-bottle's networking spike, as numbered in [research](../research/README.md).

"""


def render() -> str:
    """Write the page."""
    checks = all_checks()
    return "".join([_HEAD, *map(_row, checks), _EVIDENCE, *map(_evidence, checks)])


def _row(check: Check) -> str:
    mutant = "yes" if check.id in MUTANTS else "none yet"
    fields = (
        f"`{check.id}`",
        f"**{check.title}.** {check.requirement}",
        check.level.value,
        check.severity.value,
        check.witness.value,
        mutant,
    )
    return f"| {' | '.join(field.replace('|', chr(92) + '|') for field in fields)} |\n"


def _evidence(check: Check) -> str:
    return f"- `{check.id}`: {', '.join(check.evidence)}\n"


def test_the_page_of_the_checks_is_up_to_date() -> None:
    """The committed catalogue says of each check what the registry says."""
    assert PAGE.read_text() == render(), "write it anew: python tests/docs/test_checks_page.py"


if __name__ == "__main__":
    PAGE.write_text(render())
