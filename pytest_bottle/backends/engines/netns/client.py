"""The owner's side of the netns engine's server: start it, ask it, end it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns import session
from pytest_bottle.errors import (
    BackendUnavailableError,
    BottleError,
    BringUpError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What is there at the start never goes: frozen, it is not gone through again in every child.
_BOOT = (
    "import gc, sys; gc.disable(); sys.path.extend(sys.argv[2:]); "
    "from pytest_bottle.backends.engines.netns.keeper import main; "
    "gc.freeze(); gc.enable(); main(*map(int, sys.argv[1].split(',')))"
)
#: Seconds until the server must answer, on top of what the request itself may take.
_ANSWER = 20.0
#: What it means that the server said no.
_KINDS: dict[str, type[BottleError]] = {
    "network_add": BringUpError,
    "guest_add": BringUpError,
    "settled": BringUpError,
    "lab": BackendUnavailableError,
    "sidecar": BringUpError,
    "forward": BringUpError,
    "exec": TransportError,
    "fault": TransportError,
}


def _words(error: Exception) -> str:
    if isinstance(error, _wire.Closed):
        return str(error) or "it closed the connection"
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return "the connection was closed when an earlier request failed"
    return getattr(error, "strerror", None) or str(error)


def interpreter() -> str:
    """The real path of the interpreter that runs us: the one guests get."""
    return os.path.realpath(sys.executable)


class _Keeper(subprocess.Popen[bytes]):
    """The keeper's process: it sees to the end by itself, and nobody needs to wait for it."""

    def __del__(self) -> None:
        if getattr(self, "pid", None):  # it was started
            self.poll()  # and no warning that it still runs: it is meant to


#: Keepers that have been told to end: whoever comes by takes them away when they have.
_ended: list[_Keeper] = []


def _reap() -> None:
    _ended[:] = [keeper for keeper in _ended if keeper.poll() is None]


class Client:
    """A keeper and a server that are starting, and the conversation with them.

    The start takes as long as the imports of what talks to them: whoever wants both makes a client
    first, imports, and then calls :meth:`greet`.

    Attributes:
        boot: what the keeper's interpreter runs; mutants run something else before it.
    """

    boot: ClassVar[str] = _BOOT

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._life = -1
        _reap()
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                self._start(theirs, ours)
            except OSError as error:
                raise BackendUnavailableError(
                    "the netns engine's server could not be started",
                    where=f"{interpreter()} on this machine",
                    expected="a socket pair, a pipe, a memory file and a process",
                    seen=error.strerror or str(error),
                    next_step="free what this machine is short of, or raise its limit",
                ) from error
            ours.pop_all()

    def _start(self, theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> None:
        """Open the files of both sides, each closed by its own stack, and start the keeper."""
        self._control, control = socket.socketpair()
        ours.callback(self._control.close)
        theirs.callback(control.close)
        life_read, life = os.pipe()
        ours.callback(os.close, life)
        theirs.callback(os.close, life_read)
        self._errors = os.memfd_create("keeper-stderr")
        ours.callback(os.close, self._errors)
        self._keeper = self._spawn(control, life_read, self._errors)
        ours.callback(_ended.append, self._keeper)
        prefixes = {sys.base_prefix, sys.base_exec_prefix, str(Path(interpreter()).parent.parent)}
        settings = {"prefixes": sorted(prefixes), "import_paths": [p for p in sys.path if p]}
        with contextlib.suppress(_wire.Closed):  # :meth:`greet` hears why
            _wire.send(self._control, settings)
        self._life = life
        #: What the session is told by, also from outside and when it is dead.
        self.session = session.Session.of(self._mark, self._keeper.pid, os.getpid())

    def greet(self) -> None:
        """Wait until the server is there.

        Raises:
            BackendUnavailableError: this machine cannot make the namespaces; nothing is left.
        """
        try:
            answer, _ = _wire.call(self._control, {"op": "hello"}, timeout=_ANSWER)
        except (_wire.Closed, OSError) as error:  # TimeoutError is an OSError
            said = self._last_words()
            self.close()
            self.wait()
            raise BackendUnavailableError(
                "the netns engine's server did not start",
                where=f"{interpreter()} on this machine",
                seen=said or _words(error),
            ) from error
        if "error" in answer:
            self.close()
            self.wait()
            raise BackendUnavailableError(**answer["error"])

    def _last_words(self) -> str:
        if self._life < 0:
            return ""
        with open(self._errors, "rb", closefd=False) as errors:
            errors.seek(0)
            return errors.read().decode(errors="replace").strip()[-2000:]

    def _spawn(self, control: socket.socket, life: int, errors: int) -> _Keeper:
        numbers = ",".join(map(str, (control.fileno(), life, *_owners())))
        return _Keeper(
            [interpreter(), "-I", "-S", "-c", self.boot, numbers, *_import_paths()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(control.fileno(), life),
            # A clean environment, but for the mark by which residue is told.
            env={"PATH": "/usr/bin:/bin", session.MARK: self._mark},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for pytest, not for the keeper
        )

    @property
    def keeper_pid(self) -> int:
        """The keeper's process id on the machine: killing it ends everything."""
        return self._keeper.pid

    def call(
        self, operation: str, fds: Sequence[int] = (), /, **fields: object
    ) -> tuple[_wire.Message, list[int]]:
        """Ask the server for something.

        Returns:
            the answer and the files that came with it.

        Raises:
            BottleError: the server said no, in its own words: BringUpError about a part of a
                bottle, TransportError about a command.
            TransportError: the server is gone or does not answer.
        """
        request = {"op": operation, **fields}
        timeout = _ANSWER + float(str(fields.get("timeout", 0)))
        try:
            with self._lock:
                answer, received = _wire.call(self._control, request, tuple(fds), timeout)
        except (_wire.Closed, OSError) as error:  # TimeoutError is an OSError
            # A late answer would be taken for that of the next question.
            self._control.close()
            raise TransportError(
                "the netns engine's server is gone or does not answer",
                where=f"request {operation!r}",
                expected=f"an answer within {timeout:g} s",
                seen=self._last_words() or _words(error),
                next_step="the session is lost; start pytest again",
            ) from error
        if "error" in answer:
            other = TransportError if answer.get("lost") else BottleError
            raise _KINDS.get(operation, other)(**answer["error"])
        return answer, received

    def keep(self) -> None:
        """Tell the server and the keeper to outlive us."""
        self.call("keep")
        os.write(self._life, b"k")

    def close(self) -> None:
        """End everything; idempotent. The keeper sees to it, whatever becomes of us."""
        if self._life < 0:
            return
        for fd in (self._life, self._errors):
            os.close(fd)
        self._life = -1
        self._control.close()
        _ended.append(self._keeper)
        _reap()

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until everything is gone.

        Raises:
            subprocess.TimeoutExpired: it is not.
        """
        self._keeper.wait(timeout)

    def leave(self) -> None:
        """Let go of a keeper that was told to stay."""
        self.close()


def _owners() -> list[int]:
    """Whose end is everything's end: we, and pytest-xdist's controller where we are its worker.

    A worker whose controller was killed lets its test run on for a while (execnet: 5 seconds, then
    10 more), for nobody.
    """
    worker = "PYTEST_XDIST_WORKER" in os.environ
    return [os.getpid(), os.getppid()] if worker else [os.getpid()]


def _import_paths() -> list[str]:
    """The folders that the server imports from: ours and h11's, after the standard library."""
    folders = []
    for package in ("pytest_bottle", "h11"):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise BackendUnavailableError(
                "a package that the netns engine needs is not installed", where=package
            )
        folders.append(str(Path(spec.origin).parent.parent))
    return folders
