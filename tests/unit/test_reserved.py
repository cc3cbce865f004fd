"""Addresses that a session is about to publish at, as other processes of this machine see them."""

from __future__ import annotations

import subprocess
import sys

from pytest_bottle.backends.engines import reserved
from tests.ports import free_port

_TRY = (
    "import sys; from pytest_bottle.backends.engines import reserved; "
    "print(reserved.hold(sys.argv[1], sys.argv[2], int(sys.argv[3])))"
)


def elsewhere(place: str, address: str, port: int) -> bool:
    """Let another process reserve it, for as long as it lives."""
    argv = [sys.executable, "-c", _TRY, place, address, str(port)]
    said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    return said.stdout == "True\n"


def test_what_is_held_is_nobody_elses_until_it_is_let_go() -> None:
    """One address, port and place are kept from other processes, and not from our own."""
    port = free_port()
    assert reserved.hold("here", "127.0.0.31", port)
    assert reserved.hold("here", "127.0.0.31", port)
    assert not elsewhere("here", "127.0.0.31", port)
    assert elsewhere("here", "127.0.0.30", port)
    assert elsewhere("another machine", "127.0.0.31", port)
    reserved.let_go("here", "127.0.0.31", port)
    assert elsewhere("here", "127.0.0.31", port)


def test_an_end_lets_go() -> None:
    """Nothing is left of a process that ended without a word."""
    port = free_port()
    assert elsewhere("here", "127.0.0.31", port)
    assert reserved.hold("here", "127.0.0.31", port)
    reserved.let_go("here", "127.0.0.31", port)
