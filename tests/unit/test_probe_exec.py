"""What the probe tells of open files, variables, and programs that change who runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from pytest_bottle.firing import _BOOT, probe_program
from tests.probing import ask

if TYPE_CHECKING:
    from pathlib import Path

STATUS = "/proc/self/status"


def test_three_files_and_the_given_variables_are_all() -> None:
    """A process that was started with care has three files, and the variables it was given."""
    record = ask("inherited", environment={"ONE": "1"})

    own = record["processes"]["self"]
    assert own["files"].keys() == {"0", "1", "2"}
    assert {kind for _, kind in own["files"].values()} == {"file"}
    assert own["environment"] == ["ONE=1"]
    assert len(record["processes"]) > 1


def test_an_open_folder_is_told_by_kind_and_place(tmp_path: Path) -> None:
    """A folder that came along shows with its path."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    orders = {"deadline": 5, "operations": [{"id": "one", "kind": "inherited"}]}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BOOT],
            input=probe_program(["inherited"]) + json.dumps(orders).encode(),
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            check=True,
            timeout=60,
        )
    finally:
        os.close(fd)

    record = json.loads(done.stdout.splitlines()[0])
    assert record["processes"]["self"]["files"][str(fd)] == [str(tmp_path), "folder"]


def test_setuid_files_are_found_as_deep_as_asked(tmp_path: Path) -> None:
    """Set-user-ID and set-group-ID files count, ordinary ones do not; the depth is a bound."""
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    for folder, name, mode in (
        (tmp_path, "setuid", 0o4755),
        (tmp_path / "one", "setgid", 0o2755),
        (deep, "deep", 0o4755),
        (tmp_path, "plain", 0o755),
    ):
        path = folder / name
        path.write_text("")
        path.chmod(mode)
    (tmp_path / "link").symlink_to("setuid")

    record = ask("find-setuid", folders=[str(tmp_path), str(tmp_path)], depth=1)

    assert record["found"] == {
        str(tmp_path / "setuid"): "4755",
        str(tmp_path / "one" / "setgid"): "2755",
    }
    assert (record["files"], record["complete"]) == (3, True)


def test_a_search_that_has_no_time_says_that_it_is_not_complete(tmp_path: Path) -> None:
    """What was not looked at is not said to be clean."""
    record = ask("find-setuid", folders=[str(tmp_path)], deadline=0)

    assert (record["files"], record["complete"]) == (0, False)


def test_planted_programs_run_and_tell_their_state(tmp_path: Path) -> None:
    """A copy of cat is set-user-ID, and prints the status of the process that it is."""
    folder = tmp_path / "bait"
    planted = ask("plant", folder=str(folder))["answers"]
    program = str(folder / "setuid" / "cat")

    (said,) = ask("gains", programs=[[program, STATUS]])["said"]

    assert planted[program] == "done"
    assert (folder / "setuid" / "cat").stat().st_mode & 0o7777 == 0o4755
    assert planted[str(folder / "capable" / "cat")] in ("done", "EPERM")
    assert said["status"] == 0
    assert f"\nUid:\t{os.getuid()}\t{os.geteuid()}\t" in said["output"]


def test_programs_run_at_once_and_are_cut_at_the_deadline() -> None:
    """One that is missing says so, one that takes too long says what it has said so far."""
    started = time.monotonic()
    slow = ["sh", "-c", "echo early; exec sleep 300"]

    record = ask("gains", programs=[["/nonexistent"], slow, ["echo", "here"]], deadline=3.0)

    missing, cut, quick = record["said"]
    assert missing == {"errno": "ENOENT"}
    assert cut == {"status": -9, "output": "early\n"}
    assert quick == {"status": 0, "output": "here\n"}
    assert time.monotonic() - started < 100
