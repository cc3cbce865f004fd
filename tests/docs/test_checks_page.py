"""What ``docs/checks.md`` says of each check is made of the registry.

``python tests/docs/test_checks_page.py`` writes it anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bottle.conformance.mutants.base import all_mutants
from pytest_bottle.conformance.registry import all_checks

if TYPE_CHECKING:
    from pytest_bottle.conformance.registry import Check

CHECKS = all_checks()
CAUGHT = {mutant.check for mutant in all_mutants().values()}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"
_TABLE = """\
| ID | property | level | severity | witness | mutant |
| --- | --- | --- | --- | --- | --- |
"""


def render(page: str) -> str:
    """Give the page with its generated parts made anew."""
    page = _fill(page, "table", _TABLE + "".join(map(_property, CHECKS)))
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


def _evidence(check: Check) -> str:
    return f"- `{check.id}`: {', '.join(check.evidence)}\n"


def test_the_page_of_the_checks_is_up_to_date() -> None:
    """The committed page says of each check what the registry says."""
    page = PAGE.read_text()

    assert page.count("<!-- end -->") == 2
    assert page == render(page), "write it anew: python tests/docs/test_checks_page.py"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
