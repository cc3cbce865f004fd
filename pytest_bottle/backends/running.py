"""One command line, run to its end or to its deadline; whatever it prints, it is told whole."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

#: More output than this is no answer to anything.
LARGEST = 64 << 20
#: Seconds from one look at how much was printed to the next.
_LOOK = 0.2
#: How many bytes of an output a message shows.
_SHOWN = 300


class Said(NamedTuple):
    """How a command line ended.

    Attributes:
        status: its exit status; minus the signal's number when one ended it.
        cut: why it was killed; empty if it ended by itself.
    """

    line: str
    status: int
    stdout: bytes
    stderr: bytes
    cut: str
    duration: float

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, and well."""
        return not self.cut and self.status == 0

    def __str__(self) -> str:
        end = f"exit status {self.status}" if self.status >= 0 else f"signal {-self.status}"
        outputs = (("standard output", self.stdout), ("standard error", self.stderr))
        shown = [f"{name} {_beginning(output)}" for name, output in outputs]
        return "; ".join([self.cut or end, *shown])


def _beginning(output: bytes) -> str:
    if not output:
        return "empty"
    text = output[:_SHOWN].decode(errors="replace")
    more = f"… ({len(output)} bytes)" if len(output) > _SHOWN else ""
    return f"{text!r}{more}"


def run(
    line: Sequence[str],
    *,
    folder: str,
    variables: Mapping[str, str],
    deadline: float,
    stdin: bytes | int = b"",
    files: Sequence[int] = (),
) -> Said:
    """Run a command line in a session of its own, on three files that nobody waits for the end of.

    Pipes would not do: what a command line leaves running would hold them open. For its input one
    will do, of which only the end to write to is held here.

    Args:
        line: the program and its arguments.
        folder: where it runs.
        variables: those of ours that begin with ``BOTTLE_``; the rest is its starter's.
        deadline: seconds, after which it is killed with all of its process group.
        stdin: its standard input, or an open file that it comes from.
        files: further open files that it gets.

    Raises:
        TransportError: the program could not be started.
    """
    others = {name: text for name, text in os.environ.items() if not name.startswith("BOTTLE_")}
    started = time.monotonic()
    shown = shlex.join(line).partition("\n")[0][:200]
    with _files(3) as (source, out, err):
        if isinstance(stdin, bytes):
            source.write(stdin)
            source.seek(0)
        try:
            process = subprocess.Popen(
                list(line),
                stdin=source if isinstance(stdin, bytes) else stdin,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**others, **variables},
                pass_fds=tuple(files),
                start_new_session=True,
            )
        except OSError as error:
            raise TransportError(
                "a command line could not be started",
                where=shown,
                expected="a program that exists and can be executed",
                seen=f"{error.strerror}: {error.filename}",
            ) from error
        try:
            cut = _wait(process, started + deadline, (out, err))
        finally:
            _end(process)
        sizes = f"{deadline:g} s" if cut == _LATE else f"{LARGEST} bytes"
        printed = _read(out), _read(err)
    status = process.returncode
    return Said(shown, status, *printed, cut and cut.format(sizes), time.monotonic() - started)


_LATE = "killed at its deadline of {}"
_LOUD = "killed when it had printed more than {}"


def _wait(process: subprocess.Popen[bytes], end: float, outputs: Sequence[IO[bytes]]) -> str:
    """Wait for its end; returns why it is to be killed, if it is."""
    with _watch(process) as ended:
        while True:
            left = end - time.monotonic()
            if ended(max(0.0, min(_LOOK, left))):
                return ""
            if any(os.fstat(file.fileno()).st_size > LARGEST for file in outputs):
                return _LOUD
            if left <= 0:
                return _LATE


@contextlib.contextmanager
def _watch(process: subprocess.Popen[bytes]) -> Iterator[Callable[[float], bool]]:
    """Lend out a way to wait for a process, which on Linux costs no time at all."""
    if not hasattr(os, "pidfd_open"):
        yield lambda seconds: _ended(process, seconds)
        return
    pidfd = os.pidfd_open(process.pid)
    try:
        # A process that has ended makes its pidfd readable; then it has only to be reaped.
        yield lambda seconds: bool(_poll(pidfd, seconds)) and _ended(process, 1.0)
    finally:
        os.close(pidfd)


def _poll(fd: int, seconds: float) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(seconds * 1000)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not reaped: the group is still ours
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _files(count: int) -> Iterator[list[IO[bytes]]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(LARGEST)
