"""The core profile on the emulator: the verdicts that a hostOnly network is documented to give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

import pytest_bottle
from pytest_bottle.backends.engines import cli
from pytest_bottle.conformance.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import Callable

_PROFILE: Final = "core@1"
_DOCS: Final = Path(pytest_bottle.__file__).parents[1] / "docs"
#: Seconds for the whole profile: a quiet machine takes a fifth of it.
_LONGEST: Final = 480


class _Known(NamedTuple):
    """A verdict that is not PASSED: which, and the line of a page that says why it is expected."""

    verdict: str
    page: str
    why: str


#: A guest owns one IPv4 network; the addresses of others are not its own to be heard at.
_ADDRESSES: Final = _Known("NOT SUPPORTED", "far-side.md", "`every-address`")
_IPV4: Final = _Known("NOT SUPPORTED", "far-side.md", "`ipv6`")
#: The command takes no leg off a running container, and a restart changes addresses (S17).
_FAULTS: Final = _Known("NOT SUPPORTED", "apple-container.md", "restarts that keep an address")

#: What is not PASSED; everything else of the profile is.
KNOWN: Final = {
    # Source: no flag of the command sets no_new_privs, 1.0.0 to 1.2.2.
    "PRV-06": _Known("VIOLATED", "apple-container.md", "apple/container#2161"),
    "NET-10": _ADDRESSES,
    "NET-11": _ADDRESSES,
    "PXY-10": _ADDRESSES,
    "PXY-11": _ADDRESSES,
    "PXY-14": _ADDRESSES,
    "IP6-01": _IPV4,
    "IP6-04": _IPV4,
    "LIFE-02": _FAULTS,
    "LIFE-03": _FAULTS,
    # The engine is everybody's on that Mac, so nobody may stop it to see what cleaning says.
    "RES-06": _Known("NOT SUPPORTED", "apple-container.md", "it belongs to everybody on that Mac"),
}


@pytest.mark.timeout(_LONGEST + 20)
def test_the_core_profile_gives_the_documented_verdicts(
    netns_works: None, recorded: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    """Every check of the profile has a verdict: PASSED, or what the table above says."""
    report = tmp_path / "record.json"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"]
    argv += ["pytest_bottle.conformance", "--bottle-backend=macos-container-emulated"]
    argv += [f"--bottle-profile={_PROFILE}", f"--bottle-report={report}"]
    variables = {
        name: text
        for name, text in os.environ.items()
        if name[:7] != "BOTTLE_" or name == cli.RECORD
    }
    before = len(recorded())
    done = subprocess.run(
        argv, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=_LONGEST
    )
    assert len(recorded()) - before > len(PROFILES[_PROFILE]), "hardly a call was recorded"
    record = json.loads(report.read_text())
    verdicts = {one["id"]: one["verdict"].replace("_", " ").upper() for one in record["checks"]}
    unlike = {name: word for name, word in verdicts.items() if word != "PASSED"}
    assert unlike == {name: known.verdict for name, known in KNOWN.items()}, done.stdout
    assert verdicts.keys() == PROFILES[_PROFILE]
    assert record["backend"]["emulated"] is True


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_verdict_stands_in_the_pages(name: str) -> None:
    """A line of the page about the platform, or about its far side, has the check and the cause."""
    known = KNOWN[name]
    lines = (_DOCS / known.page).read_text().splitlines()
    assert [line for line in lines if name in line and known.why in line]
