"""The page about backends of command lines is followed to the letter."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pytest_bottle.backends.command import answers, loading, orders
from tests.docs.test_backend_authors import marked, run_suite, verdicts, wait_for_cells, write
from tests.docs.test_examples import PAGES, ROOT, TITLES

if TYPE_CHECKING:
    from pathlib import Path

NAME = "docs/command-backend.md"
TEXT = (ROOT / NAME).read_text()
FILES = PAGES[NAME].projects["shell-cell"]


@pytest.fixture(autouse=True)
def tools(netns_works: None) -> None:
    """Skip, as NOT RUN, where the example's tools are not installed."""
    for tool in ("unshare", "nsenter", "setpriv", "mount", "ip", "python3"):
        if not shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin"):
            pytest.skip(f"NOT RUN: {tool} is not installed")


def shown(when: str) -> str:
    """Find the verdicts that the page shows."""
    found = re.search(rf"^<!-- verdicts: {when} -->\n```text\n(.*?)^```$", TEXT, re.M | re.S)
    assert found is not None
    return found[1]


def files(when: str) -> dict[str, str]:
    """Lay out the example as it is, or with nothing dropped."""
    script = re.sub(r"^DROP=.*$", "DROP=", FILES["cell.sh"], count=1, flags=re.M)
    assert script != FILES["cell.sh"]
    return {**FILES, "cell.sh": script} if when == "before" else FILES


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_verdicts_are_those_of_the_page(when: str, tmp_path: Path) -> None:
    """The shell script has the verdicts shown, word for word."""
    write(tmp_path, files(when))

    printed = run_suite(tmp_path)

    found, wanted = verdicts(printed), verdicts(shown(when))
    assert {identity: found.get(identity) for identity in wanted} == wanted
    assert found.keys() == TITLES.keys()
    told = {re.sub(r"\d+", "#", line) for line in printed.splitlines()}
    lines = [line for line in shown(when).splitlines() if line != "…"]
    assert [line for line in lines if re.sub(r"\d+", "#", line) not in told] == []


def test_nothing_is_left_when_pytest_is_killed(tmp_path: Path) -> None:
    """SIGKILL to pytest while cells are up and a command runs: within a second none is there."""
    body = (
        "def test_it(bottle, sibling_bottle):\n"
        "    print('cell-' + bottle.topology.id.partition('-')[0], flush=True)\n"
        "    bottle.agent.run('sh', '-c', \"trap '' TERM HUP INT; sleep 1000\")\n"
    )
    write(tmp_path, {**FILES, "test_cell.py": body})
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_cell.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        mark = next(line for line in process.stdout if line.startswith("cell-")).strip()
        before = list(marked(mark))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()

    assert len(before) >= 4  # two of each cell: unshare, and the agent's first process
    assert wait_for_cells(mark, 0) == []


def test_the_tables_are_complete() -> None:
    """The page names every word of the file, of ``up``'s answer, and every place."""
    words = {*orders.VERBS, *loading.WORDS_OF_THE_FILE}
    assert column("The file") == words
    assert column("What it answers") == {*answers.Answer._fields}
    said = set(re.findall(r"`([a-z0-9-]+)`", TEXT))
    assert {one.value for one in orders.SAID} | {*orders.PLACES} <= said


def column(heading: str) -> set[str]:
    """Read the names in the first column of the table below a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_block_of_yaml_can_be_read(tmp_path: Path) -> None:
    """What the page shows of the file is a file that is understood."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        said: dict[str, Any] = yaml.safe_load(block)
        program = said["exec"][0] if isinstance(said["exec"], list) else "sh"
        if shutil.which(program):
            (tmp_path / "bottle-command.yaml").write_text(block)
            loading.load(tmp_path / "bottle-command.yaml")
