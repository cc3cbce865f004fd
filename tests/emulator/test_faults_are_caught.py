"""What the emulator can be told to do wrong is caught by the check, or the error, meant for it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.macos_container import gate, opening
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.emulator import faults
from pytest_bottle.errors import BackendUnavailableError, BottleError, TransportError, Violation
from pytest_bottle.spec import BottleSpec
from tests.judging import named

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.usefixtures("netns_works"), pytest.mark.timeout(100)]

#: A fault, the check that must be VIOLATED, and what that must have seen.
CAUGHT = {
    faults.GATEWAY_DNS: ("DNS-04", "the witness heard"),
    faults.HOST_ON_GATEWAY: ("HST-01", "the listener's own record names them"),
    faults.LOCAL_NETWORK_PRIVACY: ("HST-04", "does not answer at the host: reset"),
}
#: What every verdict rests on; DNS-03 sends the control of DNS-04.
CONDITIONS = ("CTL-02", "PXY-01", "DNS-03")


@contextlib.contextmanager
def emulated(*switched_on: str) -> Iterator[Bench]:
    """Bring up the suite's bottle on an emulator with faults, for the checks of the table."""
    backend = EngineBackend(opening.emulated(faults=switched_on), "guest")
    try:
        wanted = (*CONDITIONS, *(check for check, _ in CAUGHT.values()))
        bench = Bench(backend, checks=[named(one) for one in wanted])
        yield bench
        bench.close()
    finally:
        backend.close()


def test_without_a_fault_the_same_checks_pass() -> None:
    """The control: it is the fault that they see below."""
    with emulated() as bench:
        for check in (*CONDITIONS, *(check for check, _ in CAUGHT.values())):
            bench.run(named(check))


@pytest.mark.parametrize("fault", CAUGHT)
def test_the_check_meant_for_a_fault_sees_it(fault: str) -> None:
    """It is VIOLATED, and tells what the fault does."""
    check, seen = CAUGHT[fault]
    with emulated(fault) as bench, pytest.raises(Violation, match=f"{check} VIOLATED") as caught:
        bench.run(named(check))

    assert seen in str(caught.value)


def test_a_network_that_stays_in_use_is_waited_for() -> None:
    """With ``slow-delete`` a bottle's end takes longer, and still nothing of it is left."""
    backend = EngineBackend(opening.emulated(faults=[faults.SLOW_DELETE]))
    try:
        topology = backend.up(BottleSpec(publish=None))
        assert backend.residue(backend.session)
        began = time.monotonic()
        backend.down(topology)
        assert time.monotonic() - began > 1.0
        assert not backend.residue(backend.session)
    finally:
        backend.close()


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (faults.APISERVER_DOWN, BackendUnavailableError, "is not running"),
        (faults.APISERVER_HANG, BottleError, r"deadline of 0\.5 s"),
        (faults.OLD_VERSION, BackendUnavailableError, "too old"),
        (faults.TRUNCATED_JSON, TransportError, "cannot be understood"),
    ],
)
def test_a_command_that_cannot_be_used_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, fault: str, kind: type[BottleError], said: str
) -> None:
    """The backend does not open, and says why and what to do."""
    if fault == faults.APISERVER_HANG:
        monkeypatch.setattr(opening, "_LOAD", 2.0)
        monkeypatch.setattr(gate, "_DEADLINE", 0.5)
    with pytest.raises(kind, match=said) as caught:
        opening.emulated(faults=[fault])

    assert caught.value.next_step
    kept = caught.value.seen.rpartition("all of it: ")[2]
    if kept != caught.value.seen:
        Path(kept).unlink()
