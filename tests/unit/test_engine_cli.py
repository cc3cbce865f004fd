"""The one way to run an engine's command line, tried on a shell."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines import cli
from pytest_bottle.backends.engines.cli import Cli, Here, Retry
from pytest_bottle.errors import TransportError

if TYPE_CHECKING:
    from pytest_bottle.backends.running import Said


def shell() -> Cli:
    """Take the shell for an engine's program."""
    return Cli("/bin/sh", Here())


def test_both_outputs_come_apart_and_whole() -> None:
    """A call's outputs are not mixed, however long, and its standard input gets there."""
    program = "cat; head -c 300000 /dev/zero; echo warned >&2"
    said = shell().call("-c", program, stdin=b"given")
    assert (len(said.stdout), said.stdout[:5], said.stderr) == (300_005, b"given", b"warned\n")


def test_a_failure_quotes_the_call_and_names_the_file_with_all_of_it() -> None:
    """The error has command, exit status and first bytes; the file has what was cut from it."""
    program = "yes no | head -c 5000; exit 3"
    with pytest.raises(TransportError) as caught:
        shell().call("-c", program)
    error = caught.value
    assert error.where == f"/bin/sh -c '{program}' (this machine)"
    assert "exit status 3" in error.seen
    assert "(5000 bytes); standard error empty" in error.seen
    path = Path(error.seen.rpartition("all of it: ")[2])
    try:
        assert path.read_bytes().count(b"no\n") == 1667
        assert path.stat().st_mode & 0o077 == 0
    finally:
        path.unlink()


def test_a_call_is_cut_at_its_deadline_with_all_that_it_started() -> None:
    """A program that hangs costs its deadline, and says so."""
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"killed at its deadline of 0\.2 s") as caught:
        shell().call("-c", "sleep 60 & sleep 60", deadline=0.2)
    assert time.monotonic() - began < 30
    Path(caught.value.seen.rpartition("all of it: ")[2]).unlink()


def test_a_program_that_is_not_there_is_told_so() -> None:
    """The error is the kernel's, with the path."""
    with pytest.raises(TransportError, match="could not be started") as caught:
        Cli("/nowhere/container", Here()).call("list")
    assert "/nowhere/container" in caught.value.seen


def test_only_what_is_known_to_pass_is_tried_again(tmp_path: Path) -> None:
    """A call is repeated while the caller knows its failure, and not for another one."""
    program, count = f"echo x >> {tmp_path}/tries; echo busy >&2; exit 1", tmp_path / "tries"

    def busy(said: Said) -> bool:
        return b"busy" in said.stderr and len(count.read_text().split()) < 3

    with pytest.raises(TransportError) as caught:
        shell().call("-c", program, retry=Retry(busy, 60.0))
    Path(caught.value.seen.rpartition("all of it: ")[2]).unlink()
    assert len(count.read_text().split()) == 3


def test_every_command_line_is_recorded_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is in memory, and in the file that the environment names, failed calls too."""
    path = tmp_path / "argv"
    monkeypatch.setenv(cli.RECORD, str(path))
    program = shell()
    program.run("-c", f"wc -l < {path}")
    program.run("-c", "exit 1")
    assert [record.argv[1] for record in program.records] == [f"wc -l < {path}", "exit 1"]
    lines = [json.loads(line)["argv"] for line in path.read_text().splitlines()]
    assert [tuple(line) for line in lines] == [record.argv for record in program.records]


def test_variables_of_ours_do_not_leak_into_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call gets the starter's environment and what is meant for it, no other word of ours."""
    monkeypatch.setenv("BOTTLE_SECRET", "1")
    program = Cli("/bin/sh", Here(), variables={"BOTTLE_MEANT": "2"})
    said = program.call("-c", 'echo "$BOTTLE_SECRET-$BOTTLE_MEANT-$HOME"')
    assert said.stdout.decode().split() == [f"-2-{os.environ.get('HOME', '')}"]


def test_calls_beside_each_other_all_end_before_the_first_failure_is_told() -> None:
    """Nothing of a group is still running when its error is raised."""
    done: list[float] = []

    def slow() -> None:
        time.sleep(0.1)
        done.append(time.monotonic())

    def fails() -> None:
        raise TransportError("first")

    with pytest.raises(TransportError, match="first"):
        cli.together([fails, slow])
    assert len(done) == 1
