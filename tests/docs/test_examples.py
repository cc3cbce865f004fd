"""Every example of the README and of ``docs/`` is executed, so that none can rot.

A fenced block below a comment ``<!-- example: folder/file -->`` is a file. The files of a folder
are one example project: pytest must pass in it, and every ``pytest`` command of the page, as a dry
run, in the folder that was shown last. ``<!-- package: … -->`` and ``<!-- change: … -->`` stand
above what ``test_backend_authors.py`` executes.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "research")
_BLOCK = re.compile(
    r"(?:^<!-- example: (?P<file>\S+) -->\n|^<!-- (?P<other>package|change): [^\n]* -->\n)?"
    r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


@dataclass
class Page:
    """What of a page can be executed: example projects, and commands with where they run."""

    projects: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    commands: list[tuple[str, str]] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)


def paths() -> list[Path]:
    """Return every page that users read."""
    return [ROOT / "README.md", *(p for f in FOLDERS for p in sorted((ROOT / f).glob("*.md")))]


def read(path: Path) -> Page:
    """Take a page apart."""
    page, folder = Page(), ""
    for block in _BLOCK.finditer(path.read_text()):
        if block["file"]:
            folder, _, name = block["file"].rpartition("/")
            page.projects[folder][name] = block["text"]
        elif block["kind"] == "python" and not block["other"]:
            page.unmarked.append(block["text"])
        elif block["kind"] == "sh":
            page.commands += [(folder, line) for line in commands_of(block["text"])]
    return page


def commands_of(text: str) -> Iterator[str]:
    """Yield the command lines of a shell block, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield shlex.join(words)


#: Options by which a run is red unless every planned check has a good verdict.
GATED = {"--bottle-gate", "--bottle-report", "--bottle-require"}
# Read here: a pytest run inside this process would register them a second time.
TITLES = {check.id: check.title for check in all_checks()}
PAGES = {str(path.relative_to(ROOT)): read(path) for path in paths()}
PROJECTS = [(name, folder) for name, page in PAGES.items() for folder in page.projects]
COMMANDS = [(name, *command) for name, page in PAGES.items() for command in page.commands]


def lay_out(pytester: pytest.Pytester, project: dict[str, str]) -> None:
    """Write the files of an example project."""
    for name, text in project.items():
        (pytester.path / name).write_text(text)


@pytest.mark.usefixtures("netns_works")
@pytest.mark.parametrize(("page", "folder"), PROJECTS)
def test_the_examples_pass(page: str, folder: str, pytester: pytest.Pytester) -> None:
    """Every test of an example project passes, on a real bottle; none is skipped."""
    if folder == "tinyproxy" and not shutil.which("tinyproxy"):
        pytest.skip("NOT RUN: tinyproxy is not installed (Debian package tinyproxy-bin)")
    lay_out(pytester, PAGES[page].projects[folder])

    # What is the page's point there, and not all of the suite's other checks.
    chosen = {"policy": ("-k", "USER-"), "suite": ("-k", "PXY-01 or NET-01")}.get(folder, ())
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", *chosen)

    outcomes = result.parseoutcomes()
    assert result.ret == pytest.ExitCode.OK
    assert outcomes.keys() <= ({"passed", "deselected"} if chosen else {"passed"})
    assert outcomes["passed"] > 0


@pytest.mark.parametrize(("page", "folder", "command"), COMMANDS)
def test_the_commands_are_understood(
    page: str, folder: str, command: str, pytester: pytest.Pytester
) -> None:
    """Every documented command names options, files and targets that exist."""
    lay_out(pytester, PAGES[page].projects.get(folder, {}))
    tool, *arguments = shlex.split(command)

    if tool == "make":
        if not shutil.which("make"):
            pytest.skip("NOT RUN: make is not installed")
        done = subprocess.run(
            ["make", "-n", *arguments], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    else:
        assert tool == "pytest", "a documented command that no test knows how to check"
        result = pytester.runpytest_subprocess(*arguments, "--collect-only", "-q")
        if GATED.intersection(argument.split("=")[0] for argument in arguments):
            # It is understood, and a dry run proves nothing: the gate says so.
            assert result.ret == pytest.ExitCode.TESTS_FAILED
            result.stdout.fnmatch_lines(["profile *: failed (* not run)"])
        else:
            assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_is_an_example(page: str) -> None:
    """No Python in the documentation escapes execution."""
    assert PAGES[page].unmarked == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every link to another file of the repository leads to one, and to a heading that is there."""
    path = ROOT / page
    targets = re.findall(r"\]\((?!https?:)([^)\s]*)\)", path.read_text())

    assert [t for t in targets if not exists(path, t)] == []


def exists(page: Path, target: str) -> bool:
    """Tell whether a relative link leads to a file, and its fragment to a heading there."""
    name, _, fragment = target.partition("#")
    file = page.parent / name if name else page
    if not fragment:
        return file.exists()
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
    return fragment in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_sample_output_is_the_suites_own() -> None:
    """The verdicts that the README shows are of checks that exist, under their present titles."""
    words = "|".join(verdict.value.upper() for verdict in Verdict)
    shown = re.findall(rf"^(?:{words}) +(\S+) +(.+)$", (ROOT / "README.md").read_text(), re.M)

    assert len(shown) > 5
    assert dict(shown).items() <= TITLES.items()
