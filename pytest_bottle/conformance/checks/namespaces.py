"""HST: the kernel's other ways to the host and the sidecar: namespaces, UNIX sockets, processes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.encounters import NEARBY, attempt, merge
from pytest_bottle.conformance.registry import Witness, check
from pytest_bottle.firing import Operation, Volley, fire
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

_OWN = ("net", "pid", "ipc", "mnt", "uts")
#: Whose namespaces must not be the agent's; at each there is a canary.
_OTHERS = (Vantage.HOST, Vantage.SIDECAR)
#: What ends a canary.
_LAST = "that is all"
_Place = tuple[Vantage, User]


def _agents(bench: Bench) -> list[_Place]:
    root = [User.ROOT] if Feature.EXEC_ROOT in bench.features else []
    return [(Vantage.AGENT, user) for user in (User.AGENT, *root)]


def _name(kind: str, place: _Place) -> str:
    return f"HST-08 {kind} at {place[0].value} as {place[1].value}"


def _canary(other: Vantage, name: str) -> Operation:
    what = {"kind": "abstract", "name": name, "until": _LAST, "deadline": 8.0}
    return Operation(_name("canary", (other, User.AGENT)), other, what)


def _look(place: _Place) -> list[Operation]:
    """Tell one's own namespaces, and which processes one can see and enter."""
    kinds: dict[str, dict[str, object]] = {
        "namespaces": {"kind": "namespaces"},
        "processes": {"kind": "status", "pids": ["*"]},
        "setns": {"kind": "setns"},
    }
    return [Operation(_name(kind, place), place[0], kinds[kind], place[1]) for kind in kinds]


def _try(place: _Place, name: str) -> Operation:
    """Say a nonce to an abstract socket."""
    return attempt(f"HST-08 @{name}", place[0], {"kind": "unix", "name": name}, place[1])


@contextmanager
def _singing(bench: Bench, canaries: list[Operation]) -> Iterator[Volley]:
    """Hold the canaries' sockets open meanwhile; their records are there behind it."""
    run = partial(fire, bench.backend, bench.topology)

    def say(word: str) -> bool:
        calls = [
            Operation(
                one.name, one.vantage, {"kind": "unix", "name": one.what["name"], "nonce": word}
            )
            for one in canaries
        ]
        volley = run(calls, NEARBY)
        return all(volley.outcome(call.name) == "connected" for call in calls)

    volley = Volley()
    with ThreadPoolExecutor(1) as pool:
        singing = pool.submit(run, canaries)
        try:
            while not say("are you there?") and not singing.done():
                time.sleep(0.01)
            yield volley
        finally:
            say(_LAST)
            merge(volley, singing.result())


def _shared(mine: Record, theirs: Record) -> list[str]:
    """Name the namespaces that two have in common; other kernels have numbers of their own."""
    if mine["kernel"] != theirs["kernel"]:
        return []
    return [name for name in _OWN if mine["namespaces"][name] == theirs["namespaces"][name]]


def _sees(volley: Volley, place: _Place, name: str) -> bool:
    processes = volley.records[_name("processes", place)]["processes"]
    return name in [status["Name"] for status in processes.values()]


def _heard(volley: Volley, other: Vantage, shot: Operation) -> bool:
    said = volley.records[_name("canary", (other, User.AGENT))]["said"]
    return shot.what["nonce"] in said


def _trespasses(
    volley: Volley, place: _Place, other: Vantage, name: str, shot: Operation
) -> Iterator[str]:
    """Say what the agent has of another's."""
    records = volley.records
    mine = records[_name("namespaces", place)]
    theirs = records[_name("namespaces", (other, User.AGENT))]
    who = f"the agent as {place[1].value}"
    for kind in _shared(mine, theirs):
        yield f"{who} is in the {kind} namespace of {other.value}: {mine['namespaces'][kind]}"
    if _heard(volley, other, shot) or records[shot.name]["outcome"] == "connected":
        yield f"{who} spoke to the abstract socket @{name} of {other.value}"
    if records[shot.name]["listed"]:
        yield f"{who} finds the abstract socket @{name} of {other.value} in /proc/net/unix"
    if _sees(volley, place, name):
        yield f"{who} sees the process {name} of {other.value}"


def _entered(volley: Volley, place: _Place) -> Iterator[str]:
    for pid, answer in volley.records[_name("setns", place)]["answers"].items():
        if answer == "done":
            yield f"the agent as {place[1].value} entered the network namespace of process {pid}"


def _deaf(volley: Volley, other: Vantage, name: str, shot: Operation) -> str:
    """Say why a canary's silence is worth nothing; empty if it is worth something."""
    record = volley.records[shot.name]
    if record["outcome"] != "connected" or not _heard(volley, other, shot):
        return f"the canary of {other.value} is not even reached from there: {record}"
    if not record["listed"] or not _sees(volley, (other, User.AGENT), name):
        return f"{other.value} does not even list its own canary {name}"
    return ""


@check(
    "HST-08",
    "The agent's namespaces are its own",
    witness=Witness.NO,
    needs=frozenset({Feature.HOST_EXEC}),
    evidence=("CVE-2020-15257", "GHSA-36xw-fx78-c5r4"),
)
def namespaces_are_its_own(bench: Bench) -> str:
    """The agent's network, PID, IPC, mount and UTS namespaces are neither the host's nor the
    sidecar's: it cannot reach or list their abstract UNIX sockets, sees none of their processes,
    and cannot enter the network namespace of any process.
    """
    names = {other: f"bottle-{new_nonce()[:8]}" for other in _OTHERS}
    agents, homes = _agents(bench), [(other, User.AGENT) for other in _OTHERS]
    shots = {
        (place, other): _try(place, name)
        for other, name in names.items()
        for place in (*agents, (other, User.AGENT))
    }
    canaries = [_canary(other, name) for other, name in names.items()]
    operations = [o for place in (*agents, *homes) for o in _look(place)]
    operations += shots.values()
    with _singing(bench, canaries) as volley:
        merge(volley, fire(bench.backend, bench.topology, operations, NEARBY))
    operations += canaries
    lost = [o.name for o in operations if volley.outcome(o.name) in (None, "tool-error")]
    if lost:
        seen = volley.records.get(lost[0]) or volley.failures
        raise bench.inconclusive(f"no usable record: {', '.join(lost)}: {seen}")
    bad = [text for place in agents for text in _entered(volley, place)]
    for (place, other), shot in shots.items():
        if place in agents:
            bad += _trespasses(volley, place, other, names[other], shot)
    if bad:
        raise bench.violation("; ".join(bad))
    deaf = [_deaf(volley, home[0], names[home[0]], shots[home, home[0]]) for home in homes]
    if any(deaf):
        raise bench.inconclusive("; ".join(filter(None, deaf)))
    answers = volley.records[_name("setns", agents[0])]["answers"]
    return f"{', '.join(_OWN)} differ; setns: {', '.join(sorted(set(answers.values())))}"
