"""One command in a guest, from the owner's side: its pipes, its deadline, its end."""

from __future__ import annotations

import json
import os
import selectors
import threading
import time
import uuid
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import ExecResult
from pytest_bottle.errors import DeadlineError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle._wire import Message


#: Seconds for reading what is left in the pipes of a command that has ended.
_DRAIN = 0.2


class Command:
    """A command that is about to run, on pipes of its own.

    Attributes:
        theirs: what the command gets: standard input, output, error, and the status pipe.
    """

    def __init__(self, where: str, timeout: float) -> None:
        self.id = uuid.uuid4().hex
        self._where = where
        self._timeout = timeout
        self._started = time.monotonic()
        stdin_read, self._stdin = os.pipe()
        self._reads: dict[str, int] = {}
        self.theirs = [stdin_read]
        for name in ("stdout", "stderr", "status"):
            self._reads[name], write = os.pipe()
            self.theirs.append(write)
        self._open = {self._stdin, *self._reads.values(), *self.theirs}

    def close(self) -> None:
        """Close whatever is still open; idempotent."""
        for fd in self._open.copy():
            self._shut(fd)

    def _shut(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)

    def run(self, stdin: bytes, cut: Callable[[], object]) -> ExecResult:
        """Feed, collect and wait; at the deadline, ``cut`` ends the command.

        Raises:
            DeadlineError: it was cut.
            TransportError: it could not be run, or ended without a word.
        """
        for fd in self.theirs:
            self._shut(fd)
        output = {name: bytearray() for name in self._reads}
        with selectors.DefaultSelector() as selector:
            for name, fd in self._reads.items():
                selector.register(fd, selectors.EVENT_READ, name)
            os.set_blocking(self._stdin, False)
            selector.register(self._stdin, selectors.EVENT_WRITE, "stdin")
            if not self._pump(selector, bytearray(stdin), output):
                cut()
                raise self._late(output)
        return self._result(output)

    def _pump(
        self, selector: selectors.BaseSelector, stdin: bytearray, output: dict[str, bytearray]
    ) -> bool:
        """Move bytes until the command has ended; False when the deadline came first.

        A grandchild may hold the output open beyond the command's end: what is there by then
        counts.
        """
        end = self._started + self._timeout
        while selector.get_map():
            ended = b"\n" in output["status"]
            if ended:  # what lies in the pipes counts, what others go on to write does not
                end = min(end, time.monotonic() + _DRAIN)
            left = end - time.monotonic()
            if left < 0:
                return ended
            left = 0.0 if ended else left
            events = selector.select(left)
            if not events and ended:
                return True
            for key, _ in events:
                if key.data == "stdin":
                    finished = _feed(key.fd, stdin)
                else:
                    finished = _collect(key.fd, output[key.data])
                if finished:
                    selector.unregister(key.fd)
                    self._shut(key.fd)
        return True

    def _late(self, output: dict[str, bytearray]) -> DeadlineError:
        return DeadlineError(
            "a command was cut at its deadline",
            where=self._where,
            expected=f"its end within {self._timeout:g} s",
            seen="" if output["stdout"] or output["stderr"] else "no output so far",
            next_step="raise the timeout, or look at what the command waits for",
            stdout=bytes(output["stdout"]),
            stderr=bytes(output["stderr"]),
        )

    def _result(self, output: dict[str, bytearray]) -> ExecResult:
        status = read_status(bytes(output["status"]))
        if "error" in status:
            raise TransportError(
                "a command could not be run",
                where=self._where,
                expected="a program that exists in the guest and can be executed",
                seen=str(status["error"]),
                next_step="guests see /usr, /bin, /lib and the interpreter that runs pytest",
            )
        if not status:
            raise TransportError(
                "a command ended without a word",
                where=self._where,
                expected="an exit status or a signal",
                seen="the engine's server closed the status pipe",
            )
        return ExecResult(
            status["exit"] if "exit" in status else -status["signal"],
            bytes(output["stdout"]),
            bytes(output["stderr"]),
            time.monotonic() - self._started,
        )


class Running:
    """A guest's own command, which nobody waits for: how it ended, once it has.

    Args:
        status: the reading end of its status pipe; ours to close.
    """

    def __init__(self, status: int) -> None:
        self._status = status
        self._lock = threading.Lock()
        self._end: str | None = None

    def ended(self, timeout: float) -> str | None:
        """Tell the end, such as ``exit 3``; None if it still runs after so many seconds."""
        with self._lock:
            if self._end is None and self._status >= 0:
                with selectors.DefaultSelector() as selector:
                    selector.register(self._status, selectors.EVENT_READ)
                    if selector.select(timeout):
                        self._end = _end_of(read_status(os.read(self._status, 4096)))
            return self._end

    def close(self) -> None:
        """Take no more interest in it."""
        with self._lock:
            if self._status >= 0:
                os.close(self._status)
                self._status = -1


def _end_of(status: Message) -> str:
    """Put an end into words; that of a server that is gone is empty."""
    said = ", ".join(f"{key} {value}" for key, value in status.items())
    return str(status.get("error") or said or "nobody knows how: the engine's server is gone")


def read_status(raw: bytes) -> Message:
    """Read a status pipe: ``exit``, ``signal``, or ``error`` when the program never ran."""
    lines = [json.loads(line) for line in raw.splitlines() if line.endswith(b"}")]
    # A command that could not be exec'd says why; its helper's own end comes behind.
    return next((line for line in lines if "error" in line), lines[0] if lines else {})


def _feed(fd: int, stdin: bytearray) -> bool:
    """Write what the pipe takes; True when there is no more, or nobody reads it."""
    try:
        while stdin:
            del stdin[: os.write(fd, stdin[:65536])]
    except BlockingIOError:
        return False
    except BrokenPipeError:
        pass
    return True


def _collect(fd: int, into: bytearray) -> bool:
    part = os.read(fd, 1 << 16)
    into += part
    return not part
