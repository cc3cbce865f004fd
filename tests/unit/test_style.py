"""The rules of CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

# In parts, so that this file doesn't hold what it looks for.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "deb.debian" + ".org",
    "ubuntu" + ".com",
]
DEVELOPERS_PATH = re.compile(
    r"(?<![\w.])(?:/" + r"root/|/" + r"home/(?!agent\b)\w+/|/" + r"Users/\w+/|/" + r"work/\w+/)"
)


def run_tool(*command: str) -> int:
    """Run a tool of this environment on the whole checkout; its complaints are captured output."""
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode


def committed_files() -> Iterator[Path]:
    """Yield what git would track: all but hidden folders that are not ours, and caches."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = [part for part in parts[:-1] if part.startswith(".")]
        cached = {"__pycache__", "build", "dist"}.intersection(parts)
        if path.is_file() and not cached and set(hidden) <= {".ci", ".github"}:
            yield path


def lines_that_match(pattern: re.Pattern[str]) -> list[str]:
    """Return file:line of each match in the committed files."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in committed_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def functions_of_tests(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the test functions of a file, methods included."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    ]


def test_the_linter_is_content() -> None:
    """Ruff finds nothing to say about any file."""
    assert run_tool("ruff", "check", "--output-format=concise", ".") == 0


def test_the_formatter_would_change_nothing() -> None:
    """Every file has ruff's own layout."""
    assert run_tool("ruff", "format", "--check", ".") == 0


@pytest.mark.timeout(600)
def test_all_types_hold() -> None:
    """Strict mypy passes over the package, the tests and the benchmarks."""
    assert run_tool("mypy") == 0


def test_every_test_states_its_behaviour() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}:{test.lineno}: {test.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for test in functions_of_tests(path)
        if not ast.get_docstring(test)
    ]
    assert silent == []


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's affair: no committed file names a registry."""
    hosts = "|".join(map(re.escape, REGISTRY_HOSTS))
    assert lines_that_match(re.compile(rf"\b(?:{hosts})\b")) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    """No committed file holds a path that exists on its writer's machine only."""
    assert lines_that_match(DEVELOPERS_PATH) == []


def test_no_two_files_of_tests_have_one_name() -> None:
    """They are no package: pytest would import the first, and not collect the second."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
