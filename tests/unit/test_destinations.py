"""An address that others are given at other ports: who was heard there is told by the port."""

from __future__ import annotations

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.conformance.boot import Boot
from pytest_bottle.conformance.direct import has_arrived
from pytest_bottle.firing import Operation
from pytest_bottle.internet.lab import Hearing, Mark
from pytest_bottle.internet.records import Heard

HOST, ELSEWHERE, NONCE = "192.31.196.1", "192.31.196.2", "0123456789abcdef" * 2
BOOT = Boot({"tcp": [[HOST, 443]], "udp": [[HOST, 53, "", ""]], "ping": HOST}, NONCE)


def hearing(proto: int, host: str, port: int | None, payload: bytes = b"") -> Hearing:
    """The witness heard one packet."""
    record = Heard(1, 1, 4, proto, "10.87.1.3", host, 40000, port, 2, None, payload, False, 0)
    return Hearing((record,), Mark(1, 1, 0), 0, 0)


@pytest.mark.parametrize("place", [(6, HOST, 443), (17, HOST, 53), (1, HOST, None)])
def test_what_comes_to_a_commands_own_destinations_is_its_own(
    place: tuple[int, str, int | None],
) -> None:
    """By protocol, address and port, whatever it says."""
    assert BOOT.heard(hearing(*place))


@pytest.mark.parametrize("place", [(6, HOST, 80), (17, HOST, 443), (6, ELSEWHERE, 443)])
def test_what_others_send_beside_it_is_not(place: tuple[int, str, int]) -> None:
    """Another check may have been given the same address at another port."""
    assert not BOOT.heard(hearing(*place))


def test_its_nonce_is_its_own_wherever_it_comes() -> None:
    """A sandbox may send a packet elsewhere."""
    assert BOOT.heard(hearing(17, ELSEWHERE, 9, b"x " + NONCE.upper().encode()))


def test_a_stimulus_has_arrived_at_its_port_or_by_its_nonce() -> None:
    """Nothing else at its address counts."""
    what = {"kind": "tcp", "host": HOST, "port": 443, "nonce": NONCE}
    one = Operation("one", Vantage.AGENT, what)
    assert has_arrived(hearing(6, HOST, 443), one)
    assert has_arrived(hearing(17, ELSEWHERE, 1, NONCE.encode()), one)
    assert not has_arrived(hearing(6, HOST, 80), one)
    assert not has_arrived(hearing(17, HOST, 443), one)
