"""The core profile on the emulator: the verdicts that a hostOnly network is documented to give.

The areas that the platform decides; the proxy's are the same program's as on netns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: What is not PASSED, and why; each stands in the pages about the platform or the emulator.
KNOWN = {
    # Source: no flag of the command sets no_new_privs, 1.0.0 to 1.2.2, nobody has reported it;
    # docs/apple-container.md, "What each red check means there", PRV-06.
    "PRV-06": "VIOLATED",
    # Emulated only: a guest's first process has no_new_privs, and an exec, as on a Mac, has not;
    # docs/emulator.md, "Known differences", process 1.
    "PRV-08": "VIOLATED",
    # Source: /proc/sys is read-only from 1.2.0 on, for a privileged guest too: no control can write
    # it; docs/apple-container.md, "What each red check means there", PRV-07.
    "PRV-07": "INCONCLUSIVE",
    "IP6-02": "INCONCLUSIVE",
    # The far side is a guest: it owns one IPv4 network, not every address.
    "IP6-01": "NOT SUPPORTED",
    "IP6-04": "NOT SUPPORTED",
    "NET-10": "NOT SUPPORTED",
    "NET-11": "NOT SUPPORTED",
}


def test_the_core_profile_gives_the_documented_verdicts(
    netns_works: None, recorded: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    """Every check of network, host, privileges and IPv6 is PASSED, or is in the table above."""
    report = tmp_path / "record.json"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"]
    argv += ["pytest_bottle.conformance", "--bottle-backend=macos-container-emulated"]
    argv += ["--bottle-profile=core@1", f"--bottle-report={report}"]
    argv += ["-k", "NET- or HST- or PRV- or IP6-"]
    variables = {
        name: text
        for name, text in os.environ.items()
        if name[:7] != "BOTTLE_" or name == cli.RECORD
    }
    before = len(recorded())
    done = subprocess.run(
        argv, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=280
    )
    assert len(recorded()) - before > len(KNOWN), "hardly a call of that run was recorded"
    record = json.loads(report.read_text())
    verdicts = {
        one["id"]: one["verdict"].replace("_", " ").upper()
        for one in record["checks"]
        if one["id"][:3] in ("NET", "HST", "PRV", "IP6")
    }
    assert {name: word for name, word in verdicts.items() if word != "PASSED"} == KNOWN, done.stdout
    assert "macos-container-emulated" in report.read_text()
    assert len(verdicts) > 2 * len(KNOWN)


pytestmark = pytest.mark.timeout(300)
