"""The changelog's fragments are ready for a release."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRAGMENTS = sorted(path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md")


def test_a_release_would_take_every_fragment() -> None:
    """The draft of a release holds the text of each fragment, under the heading of its type."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "1.2.3"]
    draft = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200
    ).stdout
    lines = {line.strip().removeprefix("- ") for line in draft.splitlines()}

    assert "## 1.2.3" in draft
    assert FRAGMENTS
    for fragment in FRAGMENTS:
        wanted = {line.strip() for line in fragment.read_text().splitlines()}
        assert wanted <= lines, fragment.name


def test_every_fragment_is_of_a_known_type() -> None:
    """A fragment of an unknown type would be left out in silence."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    known = {kind["directory"] for kind in settings["type"]}

    for fragment in FRAGMENTS:
        _, kind, suffix = fragment.name.split(".")
        assert (kind in known, suffix) == (True, "md"), fragment.name
