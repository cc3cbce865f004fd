"""The page about the emulator: its commands run as they stand there, and its table is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_bottle.emulator.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "emulator.md").read_text()


@pytest.mark.usefixtures("netns_works")
def test_the_commands_run_as_they_stand_there(tmp_path: Path) -> None:
    """From an empty folder to a pair of containers and back, without an error."""
    (script,) = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
    folders = [os.path.dirname(sys.executable), os.environ["PATH"]]
    variables = {**os.environ, "PATH": os.pathsep.join(folders)}
    variables["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["sh", "-ec", f"trap 'container system stop' EXIT\n{script}"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, "API server is not running\n")
    assert '"id" : "sidecar"' in done.stdout
    assert done.stdout.endswith("agent\nsidecar\ninner\negress\n")


def test_every_fault_stands_in_its_tables() -> None:
    """The page says of each fault, and of no other, what happens and what catches it."""
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M) == [*FAULTS, *FAULTS]
