"""The sidecar's policy while it changes: from a file, for new requests and for open tunnels."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.guest.live import LivePolicy
from pytest_bottle.guest.policy import Stop

if TYPE_CHECKING:
    from pathlib import Path

ROUTES = [("allowed.test", (80,)), ("kept.test", (80,))]


def put(path: Path, text: str) -> None:
    """Put a file there whole, as whoever changes a policy does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def listed(live: LivePolicy, host: str) -> bool:
    """Whether a host may be asked for at port 80."""
    return live.policy.decide(host, 80).allowed


def test_without_a_file_the_first_routes_hold(tmp_path: Path) -> None:
    """Nothing is told, for nothing has changed."""
    told: list[dict[str, object]] = []
    live = LivePolicy(ROUTES, str(tmp_path / "none"), told.append)
    live.look()

    assert (listed(live, "allowed.test"), listed(live, "other.test"), told) == (True, False, [])


def test_a_file_takes_the_place_of_the_routes(tmp_path: Path) -> None:
    """Once for each change, and also when it is there from the beginning."""
    told: list[dict[str, object]] = []
    path = tmp_path / "routes"
    put(path, json.dumps({"edit": 1, "routes": [["other.test", [80]]]}))
    live = LivePolicy(ROUTES, str(path), told.append)
    live.look()

    assert (listed(live, "allowed.test"), listed(live, "other.test")) == (False, True)
    assert told == [{"event": "policy", "edit": 1, "ended": 0}]


BROKEN = (
    *("", "{", "[]", '{"routes": []}', '{"edit": 1}'),
    '{"edit": 1, "routes": ["allowed.test"]}',
    '{"edit": 1, "routes": [["a b", [80]]]}',
    '{"edit": 1, "routes": [["allowed.test", [0]]]}',
)


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_cannot_be_read_denies_all(tmp_path: Path, text: str) -> None:
    """Half a policy is none, and the one before it does not hold any more."""
    path = tmp_path / "routes"
    live = LivePolicy(ROUTES, str(path), lambda _: None)
    put(path, text)
    live.look()

    assert not listed(live, "allowed.test")


def test_tunnels_end_with_their_route(tmp_path: Path) -> None:
    """A tunnel to a host that is taken off is shut down on both sides; another one is let be."""
    path = tmp_path / "routes"
    live = LivePolicy(ROUTES, str(path), lambda _: None)
    gone, gone_peer = socket.socketpair()
    kept, kept_peer = socket.socketpair()
    with (
        gone,
        gone_peer,
        kept,
        kept_peer,
        live.tunnel("allowed.test", 80, gone),
        live.tunnel("kept.test", 80, kept),
    ):
        put(path, json.dumps({"edit": 2, "routes": [["kept.test", [80]]]}))
        live.look()
        kept.sendall(b"still here")

        assert gone_peer.recv(1) == b""
        assert kept_peer.recv(64) == b"still here"


def test_a_tunnel_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    """The list changed between the judgement and the tunnel: it does not begin."""
    path = tmp_path / "routes"
    live = LivePolicy(ROUTES, str(path), lambda _: None)
    put(path, json.dumps({"edit": 3, "routes": []}))
    live.look()

    with pytest.raises(Stop) as caught, live.tunnel("allowed.test", 80):
        raise AssertionError("it began")
    assert caught.value.status == 403
