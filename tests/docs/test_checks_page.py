"""What ``docs/checks.md`` says of each check is made of the registry.

``python tests/docs/test_checks_page.py`` writes it anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.engine import FEATURES
from pytest_bottle.conformance.mutants.base import all_mutants
from pytest_bottle.conformance.registry import all_checks

if TYPE_CHECKING:
    from pytest_bottle.conformance.mutants.base import Mutant
    from pytest_bottle.conformance.registry import Check

CHECKS = all_checks()
MUTANTS = all_mutants()
CAUGHT = {mutant.check for mutant in MUTANTS.values()}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"
_MATRIX = """\
| mutant | what it weakens | also seen by |
| --- | --- | --- |
"""
_TABLE = """\
| ID | property | level | severity | witness | mutant |
| --- | --- | --- | --- | --- | --- |
"""


def render(page: str) -> str:
    """Give the page with its generated parts made anew."""
    page = _fill(page, "table", _TABLE + "".join(map(_property, CHECKS)))
    page = _fill(page, "matrix", _MATRIX + "".join(map(_mutant, MUTANTS.values())))
    unproven = [f"- `{one.id}`: {one.title}\n" for one in CHECKS if one.id not in CAUGHT]
    page = _fill(page, "unproven", "".join(unproven))
    page = _fill(page, "netns", "".join(map(_not_here, CHECKS)))
    return _fill(page, "evidence", "".join(map(_evidence, CHECKS)))


def _fill(page: str, name: str, text: str) -> str:
    head, mark, rest = page.partition(f"<!-- {name} -->\n\n")
    _, end, tail = rest.partition("\n<!-- end -->")
    return head + mark + text + end + tail


def _property(check: Check) -> str:
    facts = (check.level.value, check.severity.value, check.witness.value)
    mutant = "yes" if check.id in CAUGHT else "none yet"
    text = f"**{check.title}.** {check.requirement}".replace("|", "\\|")
    return f"| `{check.id}` | {text} | {' | '.join(facts)} | {mutant} |\n"


def _mutant(mutant: Mutant) -> str:
    what = (mutant.make.__doc__ or "").strip().partition("\n\n")[0]
    others = ", ".join(f"`{one}`" for one in sorted(mutant.also)) or "none"
    return f"| `{mutant.name}` | {' '.join(what.split())} | {others} |\n".replace("||", "|")


def _not_here(check: Check) -> str:
    missing = sorted(feature.name for feature in check.needs - FEATURES)
    return f"- `{check.id}`, for want of {', '.join(missing)}\n" if missing else ""


def _evidence(check: Check) -> str:
    return f"- `{check.id}`: {', '.join(check.evidence)}\n"


def test_the_page_of_the_checks_is_up_to_date() -> None:
    """The committed page says of each check what the registry says."""
    page = PAGE.read_text()

    assert page.count("<!-- end -->") == 5
    assert page == render(page), "write it anew: python tests/docs/test_checks_page.py"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
