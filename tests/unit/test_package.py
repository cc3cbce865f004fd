"""What users install is whole."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from tarfile import TarFile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    """The wheel of this checkout, built without asking any registry."""
    folder = tmp_path_factory.mktemp("wheel")
    _build("wheel", ROOT, folder)
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TarFile]:
    """The source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    _build("sdist", ROOT, folder)
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        yield opened


def _build(target: str, source: Path, folder: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(
        build, cwd=source, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def metadata(wheel: ZipFile, name: str) -> str:
    """Return the text of one file of the wheel's metadata."""
    (path,) = (entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_the_wheel_holds_the_whole_package(wheel: ZipFile) -> None:
    """Every file of the package is in the wheel, the marker of typed packages and data included."""
    package = ROOT / "pytest_bottle"
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "pytest_bottle/py.typed" in wanted
    assert wanted - set(wheel.namelist()) == set()


def test_the_wheel_holds_nothing_but_the_package(wheel: ZipFile) -> None:
    """No test, tool or configuration of the project lands among the user's packages."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pytest_bottle"}


def test_every_folder_of_code_is_a_package(wheel: ZipFile) -> None:
    """Each folder with Python files has an ``__init__.py``: none is a namespace by accident."""
    names = set(wheel.namelist())
    folders = {name.rpartition("/")[0] for name in names if name.endswith(".py")}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in names} == set()


def test_pytest_finds_the_plugin(wheel: ZipFile) -> None:
    """The wheel registers the plugin under the name ``bottle``, and nothing else."""
    entries = ConfigParser()
    entries.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(entries["pytest11"]) == {"bottle": "pytest_bottle.plugin"}


def test_users_get_no_tool_of_the_developers(wheel: ZipFile) -> None:
    """What only the project's own tests need is not a dependency of the package."""
    requirements = Parser().parsestr(metadata(wheel, "METADATA")).get_all("Requires-Dist", [])
    tools = (
        *("dnspython", "hatchling", "hypothesis", "jsonschema", "mypy", "pytest-rerunfailures"),
        *("pytest-timeout", "ruff", "towncrier", "types-"),
    )
    assert [line for line in requirements if line.startswith(tools)] == []


def test_the_sdist_holds_all_that_its_own_tests_need(sdist: TarFile) -> None:
    """Tests, documents, tools and benchmarks are in the source distribution, whole."""
    held = {name.partition("/")[2] for name in sdist.getnames()}
    for folder in ("pytest_bottle", "tests", "docs", "benchmarks", "tools", ".ci", "changelog.d"):
        wanted = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert wanted
        assert wanted - held == set()
    assert {"Makefile", "conftest.py", "pyproject.toml", "README.md", "LICENSE"} <= held


def test_the_sdist_holds_nothing_of_a_machine(sdist: TarFile) -> None:
    """No environment, cache or compiled file is carried along."""
    parts = {part for name in sdist.getnames() for part in name.split("/")}
    assert {p for p in parts if p.startswith(".venv") or p.endswith(("_cache", ".pyc"))} == set()
    assert "__pycache__" not in parts


def test_the_sdist_makes_the_same_wheel(sdist: TarFile, wheel: ZipFile, tmp_path: Path) -> None:
    """Who builds from the source distribution gets the files that the checkout gives."""
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4
        sdist.extraction_filter = tarfile.data_filter
    sdist.extractall(tmp_path)
    (source,) = tmp_path.iterdir()
    _build("wheel", source, tmp_path)
    (path,) = tmp_path.glob("*.whl")

    with ZipFile(path) as again:
        ours = {info.filename: info.CRC for info in wheel.infolist()}
        assert {info.filename: info.CRC for info in again.infolist()} == ours
