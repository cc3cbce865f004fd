"""What ``docs/bottle-yaml.md`` says of each word is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_bottle.row_words import ROW
from pytest_bottle.sidecar_words import CONDITIONS, SIDECAR
from pytest_bottle.words import FOREIGN, FOREIGN_EGRESS, FOREIGN_ROUTE, READERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "bottle-yaml.md").read_text()
#: Other names of the same things, explained in the text.
SHORT = {"publish", "env"}


def first_cells(heading: str) -> str:
    """Return the first cells of the table below a heading."""
    part = PAGE.partition(f"\n{heading}\n")[2]
    rows = re.split(r"\n\n", part[part.index("\n| ") :].lstrip("\n"), maxsplit=1)[0]
    return "\n".join(row.split(" | ")[0] for row in rows.splitlines())


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("## Every word", READERS.keys() - SHORT),
        ("### `sidecar`", SIDECAR.keys() - SHORT),
        ("### `wait`", CONDITIONS.keys()),
        ("### `policy`", {*ROW}),
        (
            "## bot-bottle's own words",
            {*FOREIGN, *(f"egress.{word}" for word in FOREIGN_EGRESS), *FOREIGN_ROUTE},
        ),
    ],
)
def test_every_word_is_in_its_table(heading: str, words: set[str]) -> None:
    """Each word that the parser knows has a row, and each row is of a word that it knows."""
    rows = set(re.findall(r"`([\w.-]+)(?:`|:)", first_cells(heading)))
    assert rows == words
