"""The program that starts others in a guest, run on this machine."""

from __future__ import annotations

import ast
import marshal
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends import framed
from pytest_bottle.backends.engines.macos_container import inside

if TYPE_CHECKING:
    from pathlib import Path


def launch(
    log: Path, argv: list[str], code: str = "", seconds: float = 0.0, more: bytes = b""
) -> framed.Frame:
    """Start a program, or code of ours, as exec would in a guest."""
    word, given = inside.order(argv, str(log), {"A": "b"}, code=code, data=b"x", seconds=seconds)
    line = [sys.executable, *inside.launch()[1:]]
    done = subprocess.run(line, input=given + more, capture_output=True, check=False, timeout=30)
    frame = framed.frame(word, done.stdout)
    assert frame is not None, done
    return frame


def end_of(log: Path) -> str:
    """How it ended, by what waits for it."""
    argv = inside.wait(str(log), 10)
    return subprocess.run([sys.executable, *argv[1:]], capture_output=True, text=True).stdout


def test_its_programs_are_python_3_8() -> None:
    """A guest's interpreter is not pytest's."""
    _, _, launcher = marshal.loads(inside.order([], "log", {})[1])
    for program in (inside.launch()[-1], launcher, inside.SIDECAR, inside.FORWARDER):
        ast.parse(program, feature_version=(3, 8))


def test_a_program_is_let_go_of_and_its_end_written_down(tmp_path: Path) -> None:
    """The launcher ends at once; output, variables and status are the program's."""
    log = tmp_path / "log"
    frame = launch(log, ["sh", "-c", "echo $A; exit 3"])
    assert (frame.kind, frame.number, frame.stderr) == ("exit", 0, b"")
    assert end_of(log) == "exit 3\n"
    assert log.read_text() == "b\n"


def test_a_program_that_is_not_there_ends_with_the_reason(tmp_path: Path) -> None:
    """It is started all the same: its end tells."""
    log = tmp_path / "log"
    assert launch(log, ["/nowhere/program"]).number == 0
    assert end_of(log) == "exit 127\n"
    assert log.read_text() == "/nowhere/program: No such file or directory\n"


def test_code_of_ours_is_waited_for_until_it_serves(tmp_path: Path) -> None:
    """It runs in a process that lives on, with what it was given."""
    log = tmp_path / "log"
    code = "import os, time; print(told(), data, os.getpid(), flush=True); ready(); time.sleep(60)"
    assert launch(log, [], code, 20.0, inside.settings("é")).number == 0
    *said, pid = log.read_text().split()
    assert said == ["é", "b'x'"]
    os.kill(int(pid), signal.SIGKILL)
    assert end_of(log) == "signal 9\n"


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        ("raise ValueError('why')", 20.0, "exit 1; it said"),
        ("print('slowly', flush=True); import time; time.sleep(1)", 0.5, "it is not ready; it"),
    ],
)
def test_code_that_does_not_come_to_serve_is_told(
    tmp_path: Path, code: str, seconds: float, said: str
) -> None:
    """With how it ended, if it did, and the last that it said."""
    frame = launch(tmp_path / "log", [], code, seconds, inside.settings("x"))
    assert frame.number == 1
    assert frame.stderr.decode().startswith(said)
    assert b"why" in frame.stderr or b"slowly" in frame.stderr


def test_code_that_is_told_nothing_ends(tmp_path: Path) -> None:
    """Whoever was to tell it is gone: it does not wait for ever, and neither does its launcher."""
    log = tmp_path / "log"
    assert launch(log, [], "print(told()); ready()", 20.0).kind == "error"
    assert end_of(log) == "exit 1\n"
    assert log.read_text() == ""


def test_another_interpreter_compiles_what_starts_the_program(tmp_path: Path) -> None:
    """Compiled code is for one like ours; the text is there for all."""
    word, given = inside.order(["true"], str(tmp_path / "log"), {})
    whole = marshal.loads(given)
    size = len(marshal.dumps(whole, 2))
    line = [sys.executable, *inside.launch()[1:]]
    other = marshal.dumps((b"another's", b"", whole[2]), 2) + given[size:]
    done = subprocess.run(line, input=other, capture_output=True, check=True, timeout=30)
    frame = framed.frame(word, done.stdout)
    assert frame is not None
    assert (frame.kind, frame.number) == ("exit", 0)
    assert end_of(tmp_path / "log") == "exit 0\n"
