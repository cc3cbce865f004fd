"""Send operations to the probe at vantage points, all at once, and gather what it records."""

from __future__ import annotations

import bisect
import itertools
import json
import marshal
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.errors import BringUpError, DeadlineError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import CodeType

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.stimulus import Shot

#: Seconds a stimulus may take before it counts as unanswered.
DEADLINE = 1.0
#: Seconds on top for the probe's own start and end; a loaded machine is slow.
_GRACE = 15.0
#: What the probe's modules are part of, here and in a guest, and where they are here.
_PROBE = "pytest_bottle.guest.probe"
_FOLDER = Path(__file__).parent / "guest" / "probe"
_BINDING = '\n@operation("'
#: Runs the probe. It comes as source, for any interpreter, and compiled, for one like ours.
_BOOT = f"""\
import gc, sys, marshal, _frozen_importlib_external as own
gc.disable()
read = sys.stdin.buffer
magic, *parts = read.readline().decode().split()
same = magic == own.MAGIC_NUMBER.hex()
for name, *sizes in (part.split(":") for part in parts):
    source, code = (read.read(int(size)) for size in sizes)
    module = sys.modules[name] = type(sys)(name)
    exec(marshal.loads(code) if same else compile(source, name, "exec"), module.__dict__)
sys.modules["{_PROBE}.core"].main()
sys.stdout.flush()
import os
os._exit(0)  # tidying up takes longer than many a probe
"""

Place = tuple[Vantage, User]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing for the probe to do at one place; ``name`` is unique in its volley."""

    name: str
    vantage: Vantage
    what: Mapping[str, object]
    user: User = User.AGENT

    @classmethod
    def of(cls, shot: Shot) -> Operation:
        """Make the operation of a shot."""
        return cls(shot.name, shot.vantage, shot.operation(), shot.user)


@dataclass(slots=True)
class Volley:
    """What the probes recorded.

    Attributes:
        records: by the operations' names; what is missing was not recorded.
        failures: why a place gave no or not all of its records.
        cut: the places whose probe had to be killed at its deadline.
    """

    records: dict[str, Record] = field(default_factory=dict)
    failures: dict[Place, str] = field(default_factory=dict)
    cut: dict[Place, DeadlineError] = field(default_factory=dict)

    def outcome(self, name: str) -> str | None:
        """Tell the outcome of an operation, typed by cause; None when it is missing."""
        record = self.records.get(name)
        return None if record is None else str(record["outcome"])

    def echo(self, name: str) -> bool:
        """Tell whether the far end's echo of the nonce came back."""
        return bool(self.records.get(name, {}).get("echo"))

    def failure(self, operation: Operation) -> str:
        """Say why an operation has no record."""
        return self.failures.get((operation.vantage, operation.user), "")


def fire(
    backend: Backend,
    topology: Topology,
    operations: Iterable[Operation],
    deadline: float = DEADLINE,
) -> Volley:
    """Run all operations at once, with one exec for each place; never raises for a broken exec.

    Args:
        backend: runs the probe.
        topology: the bottle.
        operations: what to do and where.
        deadline: seconds for each of them.
    """
    by_place: dict[Place, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_place[operation.vantage, operation.user].append(operation)
    volley = Volley()
    for place, (records, failure) in zip(
        by_place, _run_all(backend, topology, by_place, deadline), strict=True
    ):
        volley.records |= records
        if failure:
            volley.failures[place] = str(failure)
        if isinstance(failure, DeadlineError):
            volley.cut[place] = failure
    return volley


def run_one(
    backend: Backend,
    topology: Topology,
    vantage: Vantage,
    what: Mapping[str, object],
    *,
    user: User = User.AGENT,
    deadline: float = DEADLINE,
) -> Record:
    """Run a single operation and return its record.

    Raises:
        DeadlineError: the probe itself had to be killed; the error holds its output so far.
        TransportError: the probe could not be run or did not report.
    """
    operation = Operation("one", vantage, what, user)
    volley = fire(backend, topology, [operation], deadline)
    where = f"{vantage.value} of bottle {topology.id}"
    if "one" not in volley.records and volley.cut:
        (cut,) = volley.cut.values()
        raise DeadlineError(
            "the probe was cut at its deadline",
            where=where,
            expected=cut.expected,
            next_step="look at the guest: is it frozen, is the machine overloaded?",
            stdout=cut.stdout,
            stderr=cut.stderr,
        ) from cut
    if "one" not in volley.records:
        raise TransportError(
            "the probe did not report",
            where=where,
            expected="one record",
            seen=volley.failure(operation) or "nothing",
            next_step="look at the guest: is its interpreter there, does exec work?",
        )
    return volley.records["one"]


class Recording:
    """What the witness heard, to be searched for many shots."""

    def __init__(self, records: Iterable[Heard]) -> None:
        self._records = list(records)
        self._by_destination = defaultdict[object, set[int]](set)
        # Some resolvers vary the case of a name that they pass on; no nonce has a line feed.
        payloads = [record.payload.lower() + b"\n" for record in self._records]
        self._payloads = b"".join(payloads)
        self._ends = [*itertools.accumulate(map(len, payloads))]
        for number, record in enumerate(self._records):
            self._by_destination[record.dst, record.proto, record.dport].add(number)

    def of(self, shot: Shot) -> list[Heard]:
        """Pick the records of a shot: by nonce, or by its own destination.

        A bare SYN holds no payload, and behind a sidecar the source is not the agent's: so the
        destination of a shot is its own, and the source is never the evidence.
        """
        key, nonce = shot.stimulus.key, shot.nonce.encode()
        host = shot.stimulus.host.partition("%")[0]  # a zone stays on the link
        number = {"tcp": 6, "udp": 17}.get(key.protocol)  # an echo request has no port of its own
        found = self._by_destination.get((host, number, key.port), set()) | self._with(nonce)
        return [self._records[index] for index in sorted(found)]

    def _with(self, nonce: bytes) -> set[int]:
        """Number the records whose payload has it."""
        found, at = set(), self._payloads.find(nonce)
        while at >= 0:
            index = bisect.bisect_right(self._ends, at)
            found.add(index)
            at = self._payloads.find(nonce, self._ends[index])
        return found


def heard(shot: Shot, records: Iterable[Heard]) -> list[Heard]:
    """Pick the witness's records of one shot."""
    return Recording(records).of(shot)


def _run_all(
    backend: Backend,
    topology: Topology,
    by_place: Mapping[Place, list[Operation]],
    deadline: float,
) -> Iterable[tuple[dict[str, Record], str | DeadlineError]]:
    def run(place: Place) -> tuple[dict[str, Record], str | DeadlineError]:
        return _run(backend, topology, place, by_place[place], deadline)

    if len(by_place) < 2:
        return map(run, by_place)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(by_place)) as pool:
        return list(pool.map(run, by_place))


def probe_program(kinds: Iterable[str]) -> bytes:
    """Give the probe as :data:`_BOOT` reads it: core, and what some kinds of operations need.

    A line with the magic number of the compiled code, and ``name:size:size`` for each module; then
    source and compiled code of each. None comes before one that it imports. Of a kind that nobody
    knows the probe itself says so.
    """
    return _program(frozenset(kinds))


@cache
def _program(kinds: frozenset[str]) -> bytes:
    homes = _homes()
    found: dict[str, _Part] = {}
    for name in (f"{_PROBE}.core", *sorted({homes[kind] for kind in kinds if kind in homes})):
        _add(found, name)
    parents = [_stand_in(_PROBE.rsplit(".", count)[0]) for count in (2, 1, 0)]
    parts = [*parents, *found.values()]
    sizes = [f"{part.name}:{len(part.source)}:{len(part.code)}" for part in parts]
    line = " ".join([MAGIC_NUMBER.hex(), *sizes])
    return b"".join([line.encode(), b"\n", *(part.source + part.code for part in parts)])


def _add(found: dict[str, _Part], name: str) -> None:
    """Add a module to those in their order, behind all that it imports."""
    if name not in found:
        part = _part(name)
        for other in part.imports:
            _add(found, other)
        found[name] = part


@cache
def _homes() -> dict[str, str]:
    """Tell which module of the probe binds each kind; importing all would take 15 ms at times."""
    return {
        kind: f"{_PROBE}.{path.stem}"
        for path in _FOLDER.glob("*.py")
        for kind in _bound_in(path.read_text(encoding="utf-8"))
    }


def _bound_in(source: str) -> list[str]:
    """Name the kinds that a module binds, each in a line of its own (a search by regex is slow)."""
    return [after.partition('"')[0] for after in source.split(_BINDING)[1:]]


class _Part(NamedTuple):
    """A module on its way to a guest: its full name, source, compiled code, and what it imports."""

    name: str
    source: bytes
    code: bytes
    imports: tuple[str, ...] = ()


@cache
def _part(name: str) -> _Part:
    path = str(_FOLDER / f"{name.rpartition('.')[2]}.py")
    loader = SourceFileLoader(name, path)  # uses the cache of compiled modules
    code = cast("CodeType", loader.get_code(name))
    # The names of a module's own code are those that it imports, and others without a dot.
    imports = tuple(other for other in code.co_names if other.startswith(f"{_PROBE}."))
    return _Part(name, loader.get_data(path), marshal.dumps(code), imports)


def _stand_in(name: str) -> _Part:
    """A package in which the guest's interpreter finds no more than what was sent."""
    source = "__path__ = []"
    return _Part(name, source.encode(), marshal.dumps(compile(source, name, "exec")))


def _run(
    backend: Backend,
    topology: Topology,
    place: Place,
    operations: list[Operation],
    deadline: float,
) -> tuple[dict[str, Record], str | DeadlineError]:
    request = {
        "deadline": deadline,
        "operations": [{"id": o.name, **o.what} for o in operations],
    }
    program = probe_program(kind for o in operations for kind in _kinds(o.what))
    stdin = program + json.dumps(request).encode()
    argv = [topology.python, "-I", "-S", "-c", _BOOT]
    vantage, user = place
    names = {o.name for o in operations}
    longest = max(_seconds(o.what, deadline) for o in operations)
    try:
        result = backend.exec(
            topology, vantage, argv, stdin=stdin, user=user, timeout=longest + _GRACE
        )
    except DeadlineError as error:
        return _parse(error.stdout, names)[0], error
    except (BringUpError, TransportError) as error:  # no guest there, or no exec
        return {}, str(error)
    records, done = _parse(result.stdout, names)
    if result.ok and done == len(operations) == len(records):
        return records, ""
    count = f"{len(records)} of {len(operations)} records"
    return records, f"exit status {result.exit_status}, {count}: {result.err[-500:]}"


def _kinds(what: Mapping[str, object]) -> list[str]:
    """Name the kinds of an operation: its own, and that of the one which it is about."""
    inner = what.get("operation")
    return [str(what.get("kind")), *(_kinds(inner) if isinstance(inner, dict) else [])]


def _seconds(what: Mapping[str, object], deadline: float) -> float:
    """How long an operation takes at the most, by its own settings."""
    return sum(
        float(str(value)) for value in (what.get("deadline", deadline), what.get("delay", 0))
    )


def _parse(output: bytes, names: set[str]) -> tuple[dict[str, Record], int | None]:
    """Read the probe's lines; garbage between them is no record of anything.

    Neither is what nobody asked this place for: one guest cannot speak for another.
    """
    records: dict[str, Record] = {}
    done = None
    for line in output.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        name, outcome = record.get("id"), record.get("outcome")
        if "done" in record:
            done = record["done"]
        elif isinstance(name, str) and name in names and isinstance(outcome, str):
            records[name] = record
    return records, done
