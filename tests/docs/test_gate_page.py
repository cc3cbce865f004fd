"""What ``docs/gate.md`` says is what the code does."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bottle import waivers
from pytest_bottle.assessment import FOUNDATIONS, PRINTED
from pytest_bottle.conformance.profiles import PROFILES
from pytest_bottle.reports import FORMATS, SCHEMA

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gate.md").read_text()


def block(kind: str) -> str:
    """The only fenced block of a kind."""
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(text)


def first_column(heading: str) -> list[str]:
    """The first cells of the table below a heading, without its head."""
    part = PAGE.partition(f"\n## {heading}\n")[2]
    table = part[part.index("\n| ") :].lstrip("\n").split("\n\n")[0]
    return [row.split(" | ")[0].strip("| `") for row in table.splitlines()[2:]]


def test_the_waiver_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is a waiver, on the day before it ends."""
    monkeypatch.setattr(waivers, "today", lambda: dt.date(2027, 2, 27))
    (tmp_path / "bottle-waivers.yaml").write_text(block("yaml"))

    (one,) = waivers.load(tmp_path / "bottle-waivers.yaml", {"HST-01"}, {"netns"})

    assert not one.expired
    assert one.covers("6.18")


def test_every_word_of_a_waiver_is_told() -> None:
    """Each has a row, in the order of the example; and the limit is the real one."""
    words = re.findall(r"^ {2}[- ] (\w+):", block("yaml"), re.M)

    assert first_column("Waivers") == words == [*waivers.READERS]
    assert f"at most {waivers.LONGEST_DAYS} days" in PAGE


def test_every_profile_is_told() -> None:
    """Each has a row."""
    assert first_column("Profiles") == [*PROFILES]


def test_every_verdict_is_told() -> None:
    """Each has a row; and so have the controls without which nothing is proven."""
    assert sorted(map(str.lower, first_column("Verdicts and the result"))) == sorted(PRINTED)
    assert sorted(FOUNDATIONS) == ["CTL-01", "CTL-02", "CTL-03", "CTL-04", "PXY-01"]


def test_the_check_in_the_record_is_one() -> None:
    """The shown part of a record has fields that the schema has, with values that it allows."""
    fields = json.loads(SCHEMA.read_text())["$defs"]["check"]["properties"]
    shown = json.loads(block("json"))

    assert {*fields} - {*shown} == {"requirement", "references"}
    assert shown["verdict"] in fields["verdict"]["enum"]
    assert [*FORMATS] == [".json"]
