"""The page about bottles that somebody else launched is followed to the letter."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.docs.test_backend_authors import run_suite, verdicts, write
from tests.docs.test_examples import PAGES

if TYPE_CHECKING:
    from pathlib import Path

FILES = PAGES["docs/running-bottles.md"].projects["running"]


@pytest.mark.usefixtures("netns_works")
@pytest.mark.parametrize("leaky", [False, True])
def test_the_verdicts_are_those_of_the_page(leaky: bool, tmp_path: Path) -> None:
    """Without a way out nothing is proven and PXY-01 is red; with a network the witness hears."""
    for tool in ("unshare", "ip"):
        if not shutil.which(tool):
            pytest.skip(f"NOT RUN: {tool} is not installed")
    source = FILES["sandbox.py"].replace('"--net", ', "") if leaky else FILES["sandbox.py"]
    assert leaky == (source != FILES["sandbox.py"])
    write(tmp_path, {**FILES, "sandbox.py": source})

    printed = run_suite(tmp_path, "-k", "CTL or NET-01 or NET-03 or PXY-01")

    found = verdicts(printed)
    assert {found[f"CTL-0{number}"] for number in (1, 2, 3, 4)} == {"PASSED"}
    assert found["PXY-01"] == "VIOLATED"
    assert found["NET-01"] == found["NET-03"] == ("VIOLATED" if leaky else "INCONCLUSIVE")
    assert ("the witness heard" in printed) == leaky
