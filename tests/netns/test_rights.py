"""What a guest can be given beyond the three users: an option of the engine, never its default."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines.contract import GuestRequest
from pytest_bottle.backends.engines.netns.command import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bottle.backends.engines.netns.engine import NetnsEngine
    from pytest_bottle.conformance.mutants.base import NetnsBackend

CHOWN, NET_RAW = 0, 13


@pytest.fixture
def engine(netns: NetnsBackend) -> Iterator[NetnsEngine]:
    """The session's engine, with an idle guest `plain`."""
    netns.netns.run_guest(GuestRequest("plain", (), "plain"))
    netns.netns.settle(["plain"])
    yield netns.netns
    netns.netns.remove_guests(["plain", "open"])


def run(engine: NetnsEngine, guest: str, user: object, *argv: str) -> str:
    """Run a command as somebody with rights of their own; returns its output."""
    command = Command(guest, 60.0)
    try:
        engine.client.call(
            "exec",
            command.theirs,
            id=command.id,
            guest=guest,
            argv=argv,
            user=user,
            environment={"PATH": "/usr/bin:/bin"},
            folder="/",
        )
        return command.run(b"", cut=lambda: None).stdout.decode()
    finally:
        command.close()


def sets(status: str) -> Sequence[int]:
    """The capability sets of a process: inheritable, permitted, effective, bounding, ambient."""
    lines = [line for line in status.splitlines() if line.startswith("Cap")]
    return [int(line.split()[1], 16) for line in lines]


def test_root_gets_just_the_capabilities_that_are_named(engine: NetnsEngine) -> None:
    """They are permitted, effective and bounding, and neither inheritable nor ambient."""
    mask = 1 << CHOWN | 1 << NET_RAW
    said = run(engine, "plain", [0, 0, [CHOWN, NET_RAW], False], "cat", "/proc/self/status")
    assert sets(said) == [0, mask, mask, mask, 0]


def test_anybody_else_gets_none(engine: NetnsEngine) -> None:
    """Another user has its own ids, and a bounding set that nothing is effective of."""
    user = [4242, 4343, [CHOWN, NET_RAW], False]
    assert sets(run(engine, "plain", user, "cat", "/proc/self/status"))[:3] == [0, 0, 0]
    assert run(engine, "plain", user, "sh", "-c", "id -u; id -g") == "4242\n4343\n"


def test_the_three_users_are_as_they_were(engine: NetnsEngine) -> None:
    """Whoever asks for no rights of its own has none, in any set, and can gain none."""
    for user in ("agent", "root"):
        said = engine.exec("plain", ["cat", "/proc/self/status"], user=user).stdout.decode()
        assert set(sets(said)) == {0}
        assert "NoNewPrivs:\t1" in said


def test_a_guest_may_have_an_etc_of_its_own(engine: NetnsEngine) -> None:
    """With wishes its root changes /etc; without, nobody does, and the other's is untouched."""
    wishes = {"numbers": [], "hosts": "127.0.0.1 here\n", "resolv_conf": ""}
    _, (word,) = engine.client.call(
        "guest_add",
        name="open",
        networks=[],
        hostname="open",
        resolver=None,
        rootfs="",
        wishes=wishes,
    )
    with os.fdopen(word, "rb") as file:
        assert file.read() == b""
    change = ("sh", "-c", "echo more >> /etc/hosts && cat /etc/hosts")
    root = [0, 0, [], False]
    assert run(engine, "open", root, *change) == "127.0.0.1 here\nmore\n"
    assert "/bin/sh" in run(engine, "open", root, "cat", "/etc/passwd")
    assert run(engine, "plain", root, *change) == ""
