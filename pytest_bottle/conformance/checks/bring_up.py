"""LIFE-07: bottles that cannot come up."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.direct import lost
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.errors import BottleError
from pytest_bottle.spec import PublishedPort, SidecarSpec
from pytest_bottle.stimulus import new_nonce
from pytest_bottle.waiting import Log

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.contract import Resource
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.internet.lab import Mark
    from pytest_bottle.spec import BottleSpec

#: Serves, and tells the far side of each visitor; it says that it listens, and nothing else.
_TELLTALE = """\
import os, socket, sys
door = socket.create_server((os.environ["BOTTLE_ADDRESS"], int(os.environ["BOTTLE_PORT"])))
line = socket.socket(type=socket.SOCK_DGRAM)
print("listening", flush=True)
while True:
    visitor, _ = door.accept()
    line.sendto(visitor.recv(64), (sys.argv[1], 53))
    visitor.close()
"""
#: Calls on the proxy, again and again.
_CALLER = """\
import os, socket, sys, time
host, _, port = os.environ["HTTP_PROXY"].rpartition("/")[2].rpartition(":")
while True:
    try:
        with socket.create_connection((host, int(port)), 1) as sock:
            sock.sendall(sys.argv[1].encode())
    except OSError:
        pass
    time.sleep(0.02)
"""
_NOWHERE = "/no/such/program"
#: Seconds for each step of a bottle that is not to come up, and for what it was to be gone.
_TIMEOUT, _GONE = 2.0, 3.0


@dataclass(frozen=True, slots=True)
class _Trial:
    """A bottle whose sidecar tells the far side that its agent runs.

    Attributes:
        spec: what it is.
        nonce: what the agent says to the sidecar, and that to the far side.
    """

    spec: BottleSpec
    nonce: str

    def heard(self, bench: Bench, since: Mark) -> bool:
        """Tell whether the far side has heard of its agent."""
        hearing = bench.backend.internet.heard(since)
        if lost(hearing):
            raise bench.inconclusive(lost(hearing))
        return any(self.nonce.encode() in record.payload for record in hearing.records)


def _trial(bench: Bench, pattern: str) -> _Trial:
    """Make one whose sidecar counts as ready when it has said something."""
    python = (bench.topology.python, "-I", "-S", "-c")
    nonce, host = new_nonce(), bench.backend.internet.fresh_address()
    sidecar = SidecarSpec(command=(*python, _TELLTALE, host), wait=Log(pattern))
    caller = (*python, _CALLER, nonce)
    spare = replace(bench.spare, publish=None, timeout=_TIMEOUT)
    return _Trial(replace(spare, sidecar=sidecar, command=caller), nonce)


def _faulty(bench: Bench, taken: int) -> dict[str, BottleSpec]:
    """Name what goes wrong, and the bottle with which it does."""
    sound = replace(bench.spare, timeout=_TIMEOUT)
    faulty = {
        "the agent's command does not exist": replace(sound, command=(_NOWHERE,)),
        "the sidecar's command does not exist": replace(
            sound, publish=None, sidecar=SidecarSpec(command=(_NOWHERE,))
        ),
        "the subnet is in use": replace(sound, internal_subnet=bench.topology.internal.subnet),
        "the image does not exist": replace(sound, image="no-such-image.test/none:0", rootfs=""),
    }
    if Feature.PUBLISH in bench.features:
        port = PublishedPort(machine_port=taken)
        faulty["the published port is taken"] = replace(sound, publish=port)
    return faulty


@check(
    "LIFE-07",
    "A failed bring-up leaves nothing running",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=frozenset({Feature.LAB, Feature.INVENTORY}),
    evidence=(
        "https://github.com/appstrate/appstrate/pull/564",
        "https://github.com/avast/pytest-docker/pull/33",
    ),
    apart=True,
    alone=True,
)
def a_failed_bring_up_leaves_nothing(bench: Bench) -> str:
    """If the sidecar does not get ready, or a command, an image, a subnet or a port is not to be
    had, the backend says so, everything that it made is removed, and the agent's command never
    runs: the sidecar that never gets ready serves all the same, and would tell the far side.
    """
    sound, unready = _trial(bench, "listening"), _trial(bench, "this is never said")
    mark = bench.backend.internet.mark()
    with bench.another(sound.spec):
        _await(lambda: sound.heard(bench, mark))
    if not sound.heard(bench, mark):
        raise bench.inconclusive("a sound agent is not even heard of by way of its sidecar")
    said = [_require_failure(bench, "the sidecar does not get ready", unready.spec)]
    if unready.heard(bench, mark):
        raise bench.violation("the sidecar did not get ready, and the agent was started anyway")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        faulty = _faulty(bench, taken.getsockname()[1])
        said += [_require_failure(bench, name, spec) for name, spec in faulty.items()]
    return "; ".join(said)


def _require_failure(bench: Bench, name: str, spec: BottleSpec) -> str:
    backend, before = bench.backend, bench.backend.inventory()
    try:
        topology = backend.up(spec)
    except BottleError as error:
        left = _left(bench, before)
        if left:
            raise bench.violation(f"{name}: this is left: {sorted(left)[:5]}") from error
        if not error.where:
            raise bench.violation(f"{name}: the error does not say where: {error}") from error
        return f"{name}: {error.what}"
    backend.down(topology)
    raise bench.violation(f"{name}, and the bottle came up")


def _left(bench: Bench, before: frozenset[Resource]) -> frozenset[Resource]:
    """Tell what is there that was not; it may take a moment to go."""
    _await(lambda: not bench.backend.inventory() - before)
    return bench.backend.inventory() - before


def _await(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _GONE
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
