"""The page for authors of backends is followed to the letter, from an empty directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Backend, Feature
from pytest_bottle.backends.engines.contract import Engine
from tests.docs.test_examples import PAGES, ROOT, TITLES
from tests.family import allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME = "docs/backend-authors.md"
TEXT = (ROOT / NAME).read_text()
FILES = PAGES[NAME].projects["cell"]
_VERDICT = re.compile(r"^([A-Z]+(?: [A-Z]+)?) +([A-Z0-9]+-\d+) ", re.M)
SUITE = ("--pyargs", "pytest_bottle.conformance", "-q", "-p", "no:cacheprovider")


def blocks(comment: str) -> dict[str, str]:
    """Find the blocks below comments of one kind, by the rest of the comment."""
    pattern = rf"^<!-- {comment}: ([^\n]*) -->\n```\w+\n(.*?)^```$"
    return dict(re.findall(pattern, TEXT, re.M | re.S))


def verdicts(text: str) -> dict[str, str]:
    """Read verdicts by the checks' IDs."""
    return {identity: verdict for verdict, identity in _VERDICT.findall(text)}


def shown(when: str) -> dict[str, str]:
    """Read the verdicts that the page shows."""
    return verdicts(blocks("verdicts")[when])


def changed(text: str) -> str:
    """Make the page's one change."""
    ((where, new),) = blocks("change").items()
    _, _, old = where.partition(": ")
    assert text.count(f"\n{old}\n") == 1
    return text.replace(f"{old}\n", new)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Lay out files."""
    for name, text in files.items():
        (folder / name).write_text(text)


def run_suite(folder: Path, *arguments: str, **variables: str) -> str:
    """Run the suite in a folder as a user would, and return what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "BOTTLE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *SUITE, *arguments],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def util_linux(netns_works: None) -> None:
    """Skip, as NOT RUN, where the example's tools are not installed."""
    for tool in ("unshare", "nsenter", "setpriv", "mount"):
        if not shutil.which(tool):
            pytest.skip(f"NOT RUN: {tool} of util-linux is not installed")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_verdicts_are_those_of_the_page(when: str, tmp_path: Path) -> None:
    """Offered by a conftest.py, the backend has the verdicts shown, and supports nothing else."""
    write(tmp_path, FILES)
    if when == "after":
        write(tmp_path, {"cell.py": changed(FILES["cell.py"])})

    found = verdicts(run_suite(tmp_path))

    wanted = dict.fromkeys(TITLES, "NOT SUPPORTED") | shown(when)
    assert found == wanted
    assert {"VIOLATED", "PASSED"} >= {*shown(when).values()} - {"NOT SUPPORTED"}
    assert ("VIOLATED" in shown(when).values()) == (when == "before")


def test_the_titles_and_notes_of_the_page_are_the_suites_own(tmp_path: Path) -> None:
    """Every other line of the tables shown is printed too, word for word but for its numbers."""
    for when in ("before", "after"):
        write(tmp_path, FILES)
        if when == "after":
            write(tmp_path, {"cell.py": changed(FILES["cell.py"])})
        printed = {re.sub(r"\d+", "#", line) for line in run_suite(tmp_path).splitlines()}

        lines = [line for line in blocks("verdicts")[when].splitlines() if line != "…"]
        assert [line for line in lines if re.sub(r"\d+", "#", line) not in printed] == []


def test_as_an_installed_package(tmp_path: Path) -> None:
    """Built and installed as the page says, its entry point offers it in an empty directory."""
    source, target, empty = (tmp_path / name for name in ("source", "target", "empty"))
    for folder in (source, target, empty):
        folder.mkdir()
    write(source, {**blocks("package"), "cell.py": changed(FILES["cell.py"])})
    # Nothing is fetched: what it is built with and what it needs are here already.
    options = ("--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check")
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), "."]
    done = subprocess.run(
        install, cwd=source, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr

    paths = [str(target), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = verdicts(run_suite(empty, "--bottle-backend=cell", PYTHONPATH=os.pathsep.join(paths)))

    assert found == dict.fromkeys(TITLES, "NOT SUPPORTED") | shown("after")
    assert list(empty.iterdir()) == []


def test_nothing_is_left_when_pytest_is_killed(tmp_path: Path) -> None:
    """SIGKILL to pytest while cells are up and a command runs: within a second none is there."""
    files = {
        **FILES,
        "test_cell.py": (
            "def test_it(bottle, sibling_bottle, bottle_backend):\n"
            "    print(bottle_backend._mark, flush=True)\n"
            "    bottle.agent.run('sh', '-c', \"trap '' TERM HUP INT; sleep 1000\")\n"
        ),
    }
    write(tmp_path, files)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_cell.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        mark = next(line for line in process.stdout if line.startswith("cell-")).strip()
        before = wait_for_cells(mark, 4)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()

    assert len(before) >= 4  # two of each cell: unshare, and the agent's first process
    assert wait_for_cells(mark, 0) == []


def wait_for_cells(mark: str, count: int) -> list[str]:
    """Wait, for a second, until there are as many processes of cells as that; tell them."""
    end = time.monotonic() + allowed()
    while len(found := list(marked(mark))) != count and time.monotonic() < end:
        time.sleep(0.01)
    return found


def marked(mark: str) -> Iterator[str]:
    """Find the processes of cells by their command lines."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                yield path.parent.name
        except OSError:
            continue


def first_column(heading: str) -> set[str]:
    """Read the names in the first column of the table below a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)[(`]", cell)}


def members(protocol: type) -> set[str]:
    """Name what a protocol requires."""
    return {name for name in vars(protocol) if not name.startswith("_")}


def test_the_tables_are_complete() -> None:
    """The page names every method of a backend and of an engine, and every feature."""
    assert first_column("The contract") == members(Backend)
    assert members(Engine) - first_column("A backend out of a container runtime") == set()
    assert first_column("Honest features") - {"Feature"} == {one.name for one in Feature}


def test_no_check_without_a_lab_touches_the_internet(tmp_path: Path) -> None:
    """What runs on a backend without a lab never asks for one."""
    trap = (
        "from cell import CellBackend as Cell\n"
        "class CellBackend(Cell):\n"
        "    @property\n"
        "    def internet(self):\n"
        "        raise RuntimeError('somebody asked for the internet')\n"
    )
    write(tmp_path, {**FILES, "cell.py": changed(FILES["cell.py"])})
    conftest = FILES["conftest.py"].replace("from cell import CellBackend\n", trap)
    write(tmp_path, {"conftest.py": conftest})

    found = run_suite(tmp_path)

    assert "somebody asked" not in found
    assert verdicts(found) == dict.fromkeys(TITLES, "NOT SUPPORTED") | shown("after")
