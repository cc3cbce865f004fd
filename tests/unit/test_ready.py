"""How a part's word is heard: that it is there, why it is not, or nothing in time."""

from __future__ import annotations

import gc
import os

import pytest

from pytest_bottle.backends.engines.netns.awaited import Awaited
from pytest_bottle.backends.engines.netns.ready import Ready
from pytest_bottle.errors import BringUpError


def awaiting(words: bytes, *, ends: bool, execs: bool = False, timeout: float = 5.0) -> Awaited:
    """Await a part that has said something, and perhaps closed its end."""
    read, write = os.pipe()
    os.write(write, words)
    if ends:
        os.close(write)
    awaited = Awaited()
    awaited.add("guest", "the part", read, timeout, execs=execs)
    return awaited


@pytest.mark.parametrize(
    ("words", "ends", "execs"),
    [(b"ready", False, False), (b"ready", True, False), (b"", True, True)],
)
def test_a_part_is_there(words: bytes, ends: bool, execs: bool) -> None:
    """It has said so, or closed its end by its exec; then nobody waits for it any more."""
    awaited = awaiting(words, ends=ends, execs=execs)
    awaited.wait("guest")
    awaited.wait("guest")


@pytest.mark.parametrize(
    ("words", "ends", "execs", "what", "seen"),
    [
        (b"no room", True, False, "the part did not start", "no room"),
        (b"", True, False, "the part did not start", "it ended at once"),
        (b"no room", True, True, "the part did not start", "no room"),
        (b"", False, False, "the part was not ready in time", "nothing"),
        (b"rea", False, False, "the part was not ready in time", "rea"),
        (b"", False, True, "the part was not ready in time", "nothing"),
    ],
)
def test_a_part_is_not_there(words: bytes, ends: bool, execs: bool, what: str, seen: str) -> None:
    """The error has the part's own words, or says that there were none in time."""
    awaited = awaiting(words, ends=ends, execs=execs, timeout=0.01)
    with pytest.raises(BringUpError) as caught:
        awaited.wait("guest")
    assert (caught.value.what, caught.value.seen) == (what, seen)


def test_no_pipe_stays_open() -> None:
    """Whoever waits no longer lets go of every pipe; what is handed over is the caller's."""
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for stop in (Awaited.close, lambda awaited: awaited.drop("guest")):
        ready = Ready()
        awaited = Awaited()
        awaited.add("guest", "the part", ready.hand_over(), 1.0)
        stop(awaited)
    assert os.listdir("/proc/self/fd") == before
