"""A host with apple/container#2062: the spike's own probes see nothing, and the suite does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.macos_container import opening
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.emulator import faults
from pytest_bottle.errors import Violation
from tests.judging import named

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What sees the leak.
LEAKING = ("NET-01", "NET-04", "NET-09")
#: S6 and S7: ping a public address, fetch a page by name.
PING = {"kind": "icmp", "host": "1.1.1.1", "nonce": "0" * 32, "deadline": 1.0}
FETCH = {"kind": "http", "url": "http://allowed.test/", "proxy": None, "deadline": 2.0}


@pytest.fixture(scope="module")
def leaking(netns_works: None) -> Iterator[Bench]:
    """The suite's bottle on the emulator of a Mac whose host-only networks let TCP out."""
    engine = opening.emulated(faults=[faults.HOST_FORWARDING])
    backend = EngineBackend(engine, "guest")
    try:
        bench = Bench(backend, checks=[named(one) for one in ("CTL-01", "PXY-01", *LEAKING)])
        yield bench
        bench.close()
    finally:
        backend.close()


def test_the_spikes_probes_look_blocked(leaking: Bench) -> None:
    """No reply to the ping (S6), no address for the name (S7): all that the spike could see."""
    assert leaking.backend.describe().emulated
    assert leaking.probe(Vantage.AGENT, PING)["outcome"] in ("timeout", "unreachable")
    assert leaking.probe(Vantage.AGENT, FETCH)["outcome"] == "dns-failure"


@pytest.mark.parametrize("identity", LEAKING)
def test_and_the_suite_sees_the_leak(leaking: Bench, identity: str) -> None:
    """Of the same bottle, the witness at the far side heard packets that were not to be there."""
    with pytest.raises(Violation, match=f"{identity} VIOLATED") as caught:
        leaking.run(named(identity))

    assert "the witness heard" in str(caught.value)
    assert "leaked" in caught.value.seen
