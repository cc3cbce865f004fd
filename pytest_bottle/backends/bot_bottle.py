"""Bottles that somebody else launched, and that run a script: those of bot-bottle are shaped so.

``exec(script)`` takes a text for a shell and returns texts: no standard input, no deadline, no
bytes. So an order goes in as a text within the script, packed, and the frame comes back as one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import threading
import time
import uuid
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pytest_bottle.backends import framed
from pytest_bottle.backends.command.answers import Answer
from pytest_bottle.backends.command.backend import CommandBackend, Standing
from pytest_bottle.backends.command.orders import Orders
from pytest_bottle.backends.contract import BackendInfo, Feature, Resource
from pytest_bottle.backends.running import Said
from pytest_bottle.errors import BottleError, BringUpError, ConfigurationError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec

    #: Enters a command line into the machine of a bottle; without a lab that is this one.
    WayIn = Callable[[str], list[str]]

#: A script is one argument of a shell, of which Linux takes 128 KiB (MAX_ARG_STRLEN).
_LONGEST = 100_000
_WORD = "END-OF-THE-ORDER"
#: Unpacks an order in the guest and carries it out; what it answers becomes text again. It has no
#: single quotes, for it stands between them in the script.
_UNPACK = """
import binascii, io, sys, zlib
packed = zlib.decompress(binascii.a2b_base64(sys.stdin.read()))
size, _, rest = packed.partition(b"\\n")
class Text:
    buffer = property(lambda self: self)
    def write(self, data):
        real.write(binascii.b2a_base64(data).decode())
    def flush(self):
        real.flush()
class Order:
    buffer = io.BytesIO(rest[int(size):])
real, sys.stdout, sys.stdin = sys.stdout, Text(), Order
exec(rest[:int(size)].decode())
"""


class Executable(Protocol):
    """A running bottle: ``exec`` runs a script in its agent and returns how that ended.

    The answer has ``stdout`` and ``stderr``, texts or bytes, and ``returncode`` or ``exit_code``.
    """

    def exec(self, script: str) -> Any:
        """Run a script by the guest's shell."""


@dataclass(frozen=True)
class Running:
    """A bottle that runs, and what is known of it.

    Attributes:
        agent: runs a script in the agent.
        root: runs a script in the agent as root; with it the backend has ``EXEC_ROOT``.
        sidecar: runs a script in the sidecar.
        answer: what else is known of it: addresses, proxy, denial.
    """

    agent: Executable
    root: Executable | None = None
    sidecar: Executable | None = None
    answer: Answer = field(default_factory=Answer)


class BotBottleBackend(CommandBackend):
    """A :class:`~pytest_bottle.backends.contract.Backend` of bottles that somebody else launches.

    Args:
        launch: a context manager for each bottle; it gets the way into the bottle's machine, and
            yields a :class:`Running` or an object with ``exec``. At its end the bottle is gone.
        name: what it is called, as it is offered.
        version: of what launches them.
        python: the interpreter in the guests.
        as_root: whether each bottle has a ``root``.
        active: lists what runs: objects with a ``slug`` and ``services``, as bot-bottle's
            ``enumerate_active()`` does; with it the backend has ``INVENTORY``.
        inside_lab: whether bottles are launched on a machine whose only uplink is the lab, by the
            way in; with it the backend has ``LAB``.
    """

    def __init__(
        self,
        launch: Callable[[WayIn], contextlib.AbstractContextManager[Running | Executable]],
        *,
        name: str = "bot-bottle",
        version: str = "unknown",
        python: str = "python3",
        as_root: bool = False,
        active: Callable[[], Iterable[Any]] | None = None,
        inside_lab: bool = False,
    ) -> None:
        places = dict.fromkeys(["agent", "sidecar", *(["root"] if as_root else [])], ())
        source = f"backend {name}"
        super().__init__(Orders(source, "/", name, version, inside_lab, python, places=places))
        self._launch = launch
        self._active = active
        self._ends: dict[str, contextlib.ExitStack] = {}
        self._running_ones: dict[str, Running] = {}

    def describe(self) -> BackendInfo:
        """Say what can be derived from what was given."""
        own = super().describe()
        listed = {Feature.INVENTORY} if self._active is not None else set()
        return own._replace(
            name=self._orders.name, features=own.features | listed, detail="launched by others"
        )

    def _bring_up(self, name: str, spec: BottleSpec, bottle: Standing, life: int) -> Answer:
        del spec, life
        way_in = bottle.machine.way_in if bottle.machine is not None else lambda _folder: []
        end = self._ends[name] = contextlib.ExitStack()
        try:
            made = end.enter_context(self._launch(way_in))
        except BottleError:
            raise
        except Exception as error:
            raise BringUpError(
                "a bottle was not launched",
                where=self._orders.source,
                seen=f"{type(error).__name__}: {error}",
            ) from error
        running = made if isinstance(made, Running) else Running(made)
        if "root" in self._orders.places and running.root is None:
            raise ConfigurationError(
                "a bottle was launched without a way to be root in it",
                where=self._orders.source,
                expected="Running(…, root=…), for the backend was opened with as_root",
            )
        self._running_ones[name] = running
        return running.answer

    def _bring_down(self, name: str, bottle: Standing) -> None:
        del bottle
        self._running_ones.pop(name, None)
        end = self._ends.pop(name, None)
        try:
            if end is not None:
                end.close()
        except BottleError:
            raise
        except Exception as error:
            raise TransportError(
                "a bottle was not taken down",
                where=self._orders.source,
                seen=f"{type(error).__name__}: {error}",
            ) from error

    def inventory(self) -> frozenset[Resource]:
        """List the agents that run, and their services."""
        if self._active is None:
            raise self._refusal("list of what is active")
        found = set()
        for one in self._active():
            found.add(Resource("agent", str(one.slug)))
            found |= {Resource("service", f"{one.slug}/{service}") for service in one.services}
        return frozenset(found)

    def _send(self, place: str, topology: Topology, given: bytes, deadline: float) -> Said:
        running = self._running_ones[topology.id]
        executable: Executable | None = getattr(running, place)
        if executable is None:
            raise self._refusal(f"way to run something in the {place}")
        line, started = f"exec(script) of {type(executable).__name__}", time.monotonic()
        for script in _scripts(topology.python, given):
            left = max(0.0, deadline + started - time.monotonic())
            ended = _within(left, partial(executable.exec, script))
            if ended is None:
                late = f"given up at its deadline of {deadline:g} s"
                return Said(line, 0, b"", b"", late, time.monotonic() - started)
        seconds = time.monotonic() - started
        return Said(line, _status(ended), _frame(ended.stdout), _bytes(ended.stderr), "", seconds)


def running(bottle: Running | Executable) -> Callable[[WayIn], Any]:
    """Make a ``launch`` of one bottle that runs already; there is no second one beside it.

    Raises:
        BringUpError: by the launch, while somebody else has it.
    """
    free = threading.Lock()

    @contextlib.contextmanager
    def launch(_way_in: WayIn) -> Iterator[Running | Executable]:
        if not free.acquire(blocking=False):
            raise BringUpError(
                "there is only one bottle, and it is in use",
                expected="a launch that makes a bottle each time",
            )
        try:
            yield bottle
        finally:
            free.release()

    return launch


def _scripts(python: str, given: bytes) -> list[str]:
    """Pack an order into a script, or into several that leave a file for the last one.

    That a part got lost need not be looked for: then there is nothing to unpack, and no frame.
    """
    program = framed.PROGRAM.encode()
    packed = zlib.compress(b"%d\n%s%s" % (len(program), program, given), 9)
    text = base64.encodebytes(packed).decode()
    start = f"{python} -I -S -c '{_UNPACK}'"
    if len(text) <= _LONGEST:
        return [f"{start} <<'{_WORD}'\n{text}{_WORD}\n"]
    path = f"/tmp/bottle-order-{uuid.uuid4().hex}"  # noqa: S108 - in the guest, and nobody guesses it
    lines = text.splitlines(keepends=True)
    count = _LONGEST // len(lines[0])
    parts = ["".join(lines[n : n + count]) for n in range(0, len(lines), count)]
    writes = [f"umask 077\ncat >>{path} <<'{_WORD}'\n{part}{_WORD}\n" for part in parts]
    return [*writes, f"{start} <{path}\nstatus=$?\nrm -f {path}\nexit $status\n"]


def _frame(said: str | bytes) -> bytes:
    """Unpack what came back; what is no packed frame is shown as it is."""
    raw = _bytes(said)
    try:
        return base64.b64decode(raw.strip(), validate=True)
    except binascii.Error:
        return raw


def _bytes(said: str | bytes | None) -> bytes:
    return said.encode(errors="surrogateescape") if isinstance(said, str) else said or b""


def _status(ended: Any) -> int:
    for name in ("returncode", "exit_code", "exit_status"):
        if isinstance(found := getattr(ended, name, None), int):
            return found
    return 0  # it counts for nothing: the frame tells


def _within(deadline: float, run: Callable[[], Any]) -> Any:
    """Call what has no deadline of its own; None if it has not returned by then.

    Raises:
        TransportError: it raised.
    """
    found: list[Any] = []
    problems: list[Exception] = []

    def attempt() -> None:
        try:
            found.append(run())
        except Exception as error:  # noqa: BLE001 - told where it is waited for
            problems.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(deadline)
    if problems:
        raise TransportError(
            "exec raised", seen=f"{type(problems[0]).__name__}: {problems[0]}"
        ) from problems[0]
    return found[0] if found else None
