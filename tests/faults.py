"""Makes the n-th system call, message or kernel request of a process of the engine's fail.

The engine has no switch for it: here its keeper is forked from this process, which has exchanged
the functions by which it meets the kernel (:mod:`tests.injection`), and not executed anew.

Run as a program: ``python -m tests.faults PHASE ROLE KILL FIRST STEP``. PHASE is ``start`` (of a
session), ``up`` or ``down`` (of a bottle); ROLE is one of ``injection.ROLES``; KILL is 0, or 1 for
the process's sudden death in place of an error; the faults are at the calls FIRST, FIRST + STEP,
and so on until one is beyond the last. Prints a JSON line for each.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import re
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns import confine, keeper
from pytest_bottle.backends.engines.netns.client import Client
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.errors import BottleError
from pytest_bottle.spec import BottleSpec
from tests.injection import SLOTS, Me, install
from tests.reaper import become_subreaper, children, kill_all, reap_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_bottle.backends.contract import Topology

#: Roles whose part in a session's start is over when the session has started; others go on beside.
_AT_ONCE = ("owner", "keeper", "server", "settler")
_ERRORS = (errno.ENOMEM, errno.EMFILE, errno.EPERM)
_SPEC = BottleSpec(timeout=3.0)
#: Seconds that a failing step may take: its own time limit, and what a busy machine adds.
_DEADLINE = _SPEC.timeout + 12.0


# -- a session of our own --------------------------------------------------------------------------


class Forked:
    """A child of ours, as much of a ``Popen`` as a client needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Reap it if it has ended."""
        with suppress(ChildProcessError):
            return None if os.waitpid(self.pid, os.WNOHANG)[0] == 0 else 0
        return 0

    def wait(self, timeout: float) -> None:
        """Wait for its end."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, "the keeper does not end"
            time.sleep(0.001)


class ForkingClient(Client):
    """A client whose keeper is forked from here, with all that has been exchanged."""

    def _spawn(self, control: socket.socket, life: int, errors: int) -> Any:
        pid = os.fork()
        if pid:
            return Forked(pid)
        try:
            Me.ready = True  # what comes first is not the engine's
            gc.freeze()
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for number, fd in enumerate((nothing, nothing, errors)):
                os.dup2(fd, number)
            confine.close_all_but((0, 1, 2, control.fileno(), life))
            Me.ready = False
            keeper.main(control.fileno(), life, os.getppid())
        except BaseException:  # noqa: BLE001 - as an interpreter would
            traceback.print_exc()
        finally:
            os._exit(1)


class Session:
    """A session and what it has open, in its processes that we may look into."""

    def __init__(self) -> None:
        self.client = ForkingClient()
        self.backend = EngineBackend(NetnsEngine(self.client))
        self.backend.down(self.backend.up(_SPEC))  # the first bottle waits for the lab as well
        self._pids = self._processes()
        self.things, self.files = self.inventory(), self.open_files()

    def inventory(self) -> list[str]:
        """What the kernel says there is, but for what changes without meaning anything."""
        found = [(thing.kind, thing.name) for thing in self.backend.inventory()]
        unnamed = {"namespace": "", "process": r"^[0-9]+ "}
        return sorted(
            f"{kind} {re.sub(unnamed.get(kind, '$') or '.*', '', name)}" for kind, name in found
        )

    def open_files(self) -> dict[str, list[str]]:
        """What our processes have open."""
        return {name: _open_files(pid) for name, pid in self._pids.items()}

    def changes(self, *, thorough: bool) -> str:
        """Tell what is there that was not there before, or the other way round.

        What the kernel is about to take away may take its time on a busy machine.
        """
        end = time.monotonic() + 15.0
        while True:
            found = _difference(self.files, self.open_files())
            if thorough:
                found += _difference(self.things, self.inventory())
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.01)

    def _processes(self) -> dict[str, int]:
        found = {"owner": os.getpid()}
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            with suppress(OSError):
                name, parent = _name_and_parent(pid)
                if parent in found.values() and name in ("bottle-keeper", "bottle-server"):
                    found[name] = pid
                if name == "bottle-nursery" and parent == found.get("bottle-server"):
                    found[name] = pid
        return found


def _name_and_parent(pid: int) -> tuple[str, int]:
    with open(f"/proc/{pid}/stat") as file:
        before, _, after = file.read().rpartition(")")
    return before.partition("(")[2], int(after.split()[1])


def _open_files(pid: int) -> list[str]:
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return ["hidden"]
    names = []
    for fd in fds:
        with suppress(FileNotFoundError):  # that of the listing itself, where the process is ours
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return sorted(re.sub(r"\[?\d+\]?", "", name) for name in names if "/proc/" not in name)


# -- one fault -------------------------------------------------------------------------------------


class Fault:
    """The failure of the n-th call of a role."""

    def __init__(self, role: str, number: int, *, kill: bool) -> None:
        self.role, self.number = role, number
        self.errno = 0 if kill else _ERRORS[number % len(_ERRORS)]
        self.problems: list[str] = []
        self.said: list[str] = []
        self.outcome = "nothing"

    def arm(self) -> None:
        """Let it strike from now on."""
        self.disarm()
        slot = SLOTS[self.role]
        slot.count = slot.hit = 0
        slot.label, slot.errno, slot.at = b"", self.errno, self.number

    def disarm(self) -> None:
        """Let it not strike any more."""
        for slot in SLOTS.values():
            slot.at = 0

    @property
    def has_struck(self) -> bool:
        """Tell whether there was such a call."""
        return bool(SLOTS[self.role].hit)

    def attempt(self, act: Callable[[], Any]) -> Any:
        """Do something that may fail, but only in a way that the user can understand."""
        start = time.monotonic()
        try:
            return act()
        except BottleError as error:
            self.said.append(str(error))
            self._judge(error)
        except Exception:  # noqa: BLE001 - that is the finding
            self.problems.append(f"not an error of ours: {traceback.format_exc()}")
        if time.monotonic() - start > _DEADLINE:
            self.problems.append(f"took {time.monotonic() - start:.1f} s")
        return None

    def _judge(self, error: BottleError) -> None:
        if type(error) is BottleError:
            self.problems.append("an error of no kind")
        if not error.what or not error.seen:
            self.problems.append("the error does not say what was seen")
        if re.search(r"\w+(Error|Closed|Exception)\(|KeyError|NoneType|Traceback", str(error)):
            self.problems.append("the error is in a programmer's words")

    @property
    def is_lost(self) -> bool:
        """Tell whether the user has been told that the session is lost."""
        return any("the session is lost" in words for words in self.said)

    def report(self) -> str:
        """What became of it, as one JSON line."""
        slot = SLOTS[self.role]
        fields = {
            "role": self.role,
            "call": f"{self.number}: {slot.label.decode(errors='replace')}",
            "errno": errno.errorcode.get(self.errno, "killed"),
            "outcome": self.outcome,
            "said": self.said,
            "problems": self.problems,
        }
        return json.dumps(fields)


def nothing_left(fault: Fault, files: list[str]) -> None:
    """Require that no process is left, and no file of ours open."""
    if reap_all(10.0) is None:
        fault.problems.append(f"left: {kill_all(children())}")
        reap_all(3.0)
    gc.collect()
    if (now := _open_files(os.getpid())) != files:
        fault.problems.append(f"files left open: {_difference(files, now)}")


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        return "; ".join(
            f"{key}: {_difference(before[key], after.get(key))}"
            for key in before
            if before[key] != after.get(key)
        )
    more, less = list(after), []
    for one in before:
        if one in more:
            more.remove(one)
        else:
            less.append(one)
    return f"+{more} -{less}" if more or less else ""


def fail_in_start(role: str, number: int, *, kill: bool) -> Fault:
    """Let a call of a session's start fail; whatever starts all the same must work, or say no."""
    files = _open_files(os.getpid())
    fault = Fault(role, number, kill=kill)
    fault.arm()
    clients: list[Client] = []

    def begin() -> EngineBackend:
        clients.append(ForkingClient())
        return EngineBackend(NetnsEngine(clients[0]))

    backend: EngineBackend | None = fault.attempt(begin)
    fault.outcome = "started" if backend else "did not start"
    if role in _AT_ONCE:
        fault.disarm()
    if backend is not None and fault.has_struck and role in _AT_ONCE:
        fault.outcome = "started all the same"
    if backend is not None:
        topology: Topology | None = fault.attempt(partial(backend.up, _SPEC))
        fault.disarm()
        fault.outcome += "; a bottle is up" if topology else "; no bottle came up"
        if topology is None and not fault.problems:
            _try_again(fault, backend)
        backend.close()
    fault.disarm()
    del backend
    for client in clients:
        client.close()
    clients.clear()
    nothing_left(fault, files)
    return fault


def _try_again(fault: Fault, backend: EngineBackend) -> None:
    """A session in which a bottle did not come up is whole, with a lab that hears, or lost."""
    if fault.attempt(partial(backend.up, _SPEC)) is not None:
        fault.attempt(backend.internet.mark)
        fault.outcome += "; the next one is up"
    elif not fault.is_lost:
        fault.problems.append("nobody said that the session is lost")


def fail_in_up(session: Session, role: str, number: int, *, kill: bool, thorough: bool) -> Fault:
    """Let a call of a bring-up fail; the session then works on, or says that it is lost."""
    fault = Fault(role, number, kill=kill)
    fault.arm()
    topology: Topology | None = fault.attempt(partial(session.backend.up, _SPEC))
    fault.disarm()
    fault.outcome = "the bottle is up" if topology else "refused"
    if topology is not None:
        fault.attempt(partial(session.backend.down, topology))
    fault.attempt(partial(session.client.call, "hello"))
    again: Topology | None = None
    if not fault.is_lost and thorough:
        again = fault.attempt(partial(session.backend.up, _SPEC))
    if again is not None:
        fault.attempt(partial(session.backend.down, again))
    elif fault.is_lost:
        fault.outcome = "lost"
        return fault
    elif thorough:
        fault.problems.append("the next bottle does not come up")
    if changes := session.changes(thorough=thorough):
        fault.problems.append(f"not as before: {changes}")
    return fault


def fail_in_down(session: Session, role: str, number: int, *, kill: bool) -> Fault:
    """Let a call of a bottle's way down fail: it goes all the same."""
    fault = Fault(role, number, kill=kill)
    topology: Topology = session.backend.up(_SPEC)
    fault.arm()
    fault.attempt(partial(session.backend.down, topology))
    if changes := session.changes(thorough=True):
        fault.problems.append(f"not as before: {changes}")
    fault.disarm()
    return fault


def main(phase: str, role: str, kill: bool, first: int, step: int) -> None:
    """Let one call after the other fail, until there is none."""
    become_subreaper()
    from pytest_bottle.guest import proxy  # noqa: F401 - once, for all sessions
    from pytest_bottle.internet import minter, origin, witness  # noqa: F401

    install()
    files = _open_files(os.getpid())
    session: Session | None = None
    for number in itertools.count(first, step):
        if phase == "start":
            fault = fail_in_start(role, number, kill=kill)
        else:
            # A whole bottle, and the kernel's word that all is gone, take their time.
            thorough = (number - first) // step % 4 == 3
            act = fail_in_down if phase == "down" else partial(fail_in_up, thorough=thorough)
            session = session or Session()
            fault = act(session, role, number, kill=kill)
            if fault.is_lost and not fault.has_struck:  # the fault before did that
                _end(session, fault, files)
                session = Session()
                fault = act(session, role, number, kill=kill)
            if fault.is_lost or fault.problems or not fault.has_struck:
                _end(session, fault, files)
                session = None
        if fault.has_struck or fault.problems:
            os.write(1, fault.report().encode() + b"\n")
        if not fault.has_struck:
            break


def _end(session: Session, fault: Fault, files: list[str]) -> None:
    if not fault.is_lost and (changes := session.changes(thorough=True)):
        fault.problems.append(f"not as before, by this or one before: {changes}")
    if fault.problems:
        fault.said.append(f"last words: {session.client._last_words()}")
    session.backend.close()
    del session
    nothing_left(fault, files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "1", int(sys.argv[4]), int(sys.argv[5]))
