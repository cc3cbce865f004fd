"""The one way to run an engine's command-line interface.

Every call has a deadline, its outputs are read whole and apart, and its command line is recorded
before it runs. What failed is told with its exit status, its first bytes, and the file that has all
of it. A call is made again only where the caller says when.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_bottle.backends import running
from pytest_bottle.backends.contract import Endpoint
from pytest_bottle.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.backends.running import Said

#: The variable that names a file to which every command line is added, one JSON object a line.
RECORD = "BOTTLE_RECORD_ARGV"
#: Seconds for a call that nobody gave a deadline.
DEADLINE = 60.0
#: Seconds from one attempt to the next, where a call may be made again.
_PAUSE = 0.2


class Machine(NamedTuple):
    """What a place runs on: ``Darwin`` or ``Linux``, its release, its processor."""

    system: str
    release: str
    processor: str


class Place(Protocol):
    """Where an engine's command line runs: this machine, or another one over ssh."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def python(self) -> str:
        """A Python 3.8 or newer at the bottles' host."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """What is run on this machine so that ``argv`` runs there."""

    def at_host(self, argv: Sequence[str]) -> list[str]:
        """Likewise, so that it runs at the bottles' host, the thing with the gateway addresses."""

    def machine(self) -> Machine:
        """Tell what it is."""

    def first_free(self, addresses: Sequence[str], port: int) -> str:
        """Tell the first address that the bottles' host has, with nobody on a port; empty: none."""

    def share(self, path: str) -> str:
        """Make a file of this machine readable there; tells its path there."""

    def doors(self, published: Endpoint, machine_port: int) -> list[Endpoint]:
        """Tell where a port has to be published there, so that :meth:`reach` can lead to it."""

    def reach(self, published: Endpoint, machine_port: int) -> Endpoint:
        """Tell where a port that is published there can be had from this machine.

        Args:
            published: where it is published there.
            machine_port: the port on 127.0.0.1 here; 0 leaves it to the place.
        """

    def forget(self, published: Endpoint) -> None:
        """Let go of what :meth:`reach` had to make; unknown ones are no error."""

    def close(self) -> None:
        """Let go of all that is held to get there."""


class Here:
    """This machine, as a place: its own host, with nothing between."""

    name = "this machine"

    @property
    def python(self) -> str:
        """The interpreter that runs us."""
        import sys

        return sys.executable

    def command(self, argv: Sequence[str]) -> list[str]:
        """Run it as it is."""
        return list(argv)

    at_host = command

    def machine(self) -> Machine:
        """Ask Python."""
        system = platform.system()
        release = platform.mac_ver()[0] if system == "Darwin" else platform.release()
        return Machine(system, release, platform.machine())

    def first_free(self, addresses: Sequence[str], port: int) -> str:
        """Try; macOS has 127.0.0.1 only, until somebody adds an alias (S23)."""
        return next((address for address in addresses if _is_free(address, port)), "")

    def share(self, path: str) -> str:
        """It is right here."""
        return path

    def doors(self, published: Endpoint, machine_port: int) -> list[Endpoint]:
        """Publish it on 127.0.0.1 too, if this machine is to have it at a port of its own."""
        return [published, *([Endpoint("127.0.0.1", machine_port)] if machine_port else [])]

    def reach(self, published: Endpoint, machine_port: int) -> Endpoint:
        """It is right here."""
        return self.doors(published, machine_port)[-1]

    def forget(self, published: Endpoint) -> None:
        """There is nothing to let go of."""

    def close(self) -> None:
        """There is nothing to let go of."""


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError:
            return False
        return True


class Record(NamedTuple):
    """A command line that was run: its words behind the program's name, and when (seconds)."""

    argv: tuple[str, ...]
    at: float


class Retry(NamedTuple):
    """When a failed call is made again, and for how many seconds from the first."""

    when: Callable[[Said], bool]
    seconds: float


class Cli:
    """An engine's program at a place.

    Args:
        program: its path or name there.
        place: where.
        variables: what is added to its environment.
        held: open files that each call gets, by whose end others can tell that it has ended.
    """

    def __init__(
        self,
        program: str,
        place: Place,
        *,
        variables: Mapping[str, str] | None = None,
        held: Sequence[int] = (),
    ) -> None:
        self.program = program
        self.place = place
        self.variables = dict(variables or {})
        self.held = tuple(held)
        self.records: list[Record] = []
        self._lock = threading.Lock()

    def run(self, *argv: str, stdin: bytes | int = b"", deadline: float = DEADLINE) -> Said:
        """Make a call and tell how it ended, whatever that was; ``stdin`` may be an open file.

        Raises:
            TransportError: the program could not be started.
        """
        self._record(argv)
        return self._run([self.program, *argv], stdin, deadline, self.place.command)

    def at_host(self, *argv: str, stdin: bytes = b"", deadline: float = DEADLINE) -> Said:
        """Run another program at the bottles' host; it is no call of the engine's."""
        return self._run(argv, stdin, deadline, self.place.at_host)

    def _run(
        self,
        argv: Sequence[str],
        stdin: bytes | int,
        deadline: float,
        command: Callable[[Sequence[str]], list[str]],
    ) -> Said:
        return running.run(
            command(argv),
            folder=os.path.abspath(os.sep),
            variables=self.variables,
            deadline=deadline,
            stdin=stdin,
            files=self.held,
        )

    def call(
        self,
        *argv: str,
        stdin: bytes = b"",
        deadline: float = DEADLINE,
        retry: Retry | None = None,
    ) -> Said:
        """Make a call that has to succeed; again, if it fails in a way that is known to pass.

        Raises:
            TransportError: it ended with another status than 0, or at its deadline.
        """
        end = time.monotonic() + (retry.seconds if retry else 0.0)
        while True:
            said = self.run(*argv, stdin=stdin, deadline=deadline)
            if said.ok:
                return said
            if retry is None or not retry.when(said) or time.monotonic() >= end:
                raise failure(said, self.place.name)
            time.sleep(_PAUSE)

    def _record(self, argv: Sequence[str]) -> None:
        record = Record(tuple(argv), time.time())
        with self._lock:
            self.records.append(record)
            if path := os.environ.get(RECORD):
                fields = {"program": self.program, "argv": record.argv, "at": record.at}
                line = json.dumps(fields) + "\n"
                # One write to the end of the file: other processes add to it too.
                with open(path, "ab", buffering=0) as file:
                    file.write(line.encode())


def failure(
    said: Said, place: str, *, what: str = "", expected: str = "", next_step: str = ""
) -> TransportError:
    """Make the error of a call that did not do what it should have."""
    path = save(said)
    return TransportError(
        what or "a call of the engine failed",
        where=f"{said.line} ({place})",
        expected=expected or "exit status 0",
        seen=f"{said}; all of it: {path}",
        next_step=next_step,
    )


def save(said: Said) -> str:
    """Write down all that a call printed; tell the file, which is left for who looks into it."""
    folder = os.path.join(tempfile.gettempdir(), f"pytest-bottle-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd, path = tempfile.mkstemp(prefix="call-", suffix=".txt", dir=folder)
    with open(fd, "wb") as file:
        head = f"{said.line}\nexit status {said.status} {said.cut}\n"
        for part in (head.encode(), b"-- standard output\n", said.stdout):
            file.write(part)
        file.write(b"\n-- standard error\n" + said.stderr)
    return path


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Make calls beside each other; when all have ended, raise what the first that failed says."""
    with ThreadPoolExecutor(max_workers=max(1, len(calls))) as pool:
        made = [pool.submit(call) for call in calls]
    for one in made:
        one.result()


def shown(argv: Sequence[str]) -> str:
    """Write a command line as for a shell."""
    return shlex.join(argv)
