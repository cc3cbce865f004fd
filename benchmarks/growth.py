"""Many bottles in one session, one after the other and at once: does anything grow?"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.spec import BottleSpec

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Seconds in which the kernel takes the network namespaces of the last session away.
_PAUSE = 0.4


class Size(NamedTuple):
    """What a session weighs: its processes, their memory in bytes, and the kernel's objects."""

    processes: int
    memory: int
    resources: int


def in_a_row(count: int) -> tuple[list[float], Size, Size]:
    """Bring bottles up and down; returns the seconds of each, and the size before and after.

    The first few are left out: what is imported and cached at the first use grows only once.
    """
    backend = NetnsBackend()
    try:
        for _ in range(3):
            _one(backend)
        before = _size(backend)
        seconds = [_one(backend) for _ in range(count)]
        return seconds, before, _size(backend)
    finally:
        backend.close()


def _one(backend: NetnsBackend) -> float:
    backend.inventory()  # waits until the kernel has taken the last bottle's bridges away
    started = time.perf_counter()
    backend.down(backend.up(BottleSpec()))
    return time.perf_counter() - started


def _size(backend: NetnsBackend) -> Size:
    resources = backend.inventory()
    family = _below(backend.netns.client.keeper_pid)
    memory = sum(int(_read(pid, "statm").split()[1]) * _PAGE for pid in family)
    return Size(len(family), memory, len(resources))


def _below(root: int) -> list[int]:
    parents = {pid: _parent(pid) for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def at_once(rounds: int) -> dict[str, list[float]]:
    """Bring one bottle up, or eight at once, in a running session and in one of their own.

    Returns:
        seconds until the last one is up: ``one``, ``eight``, and ``session, one`` and ``session,
        eight``, which begin with nothing.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, count in (("one", 1), ("eight", 8)):
            backend = NetnsBackend()
            try:
                _one(backend)
                backend.inventory()
                found.setdefault(name, []).append(_up(backend, count))
            finally:
                backend.close()
                backend.netns.client.wait()
            time.sleep(_PAUSE)  # or eight times as many are in the way of the eight
            started = time.perf_counter()
            backend = NetnsBackend()
            try:
                _up(backend, count)
                found.setdefault(f"session, {name}", []).append(time.perf_counter() - started)
            finally:
                backend.close()
                backend.netns.client.wait()
    return found


def _up(backend: NetnsBackend, count: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(backend.up, [BottleSpec()] * count))
    return time.perf_counter() - started


def median_ratio(seconds: list[float], share: int) -> float:
    """How much longer the last ones took than the first ones."""
    return statistics.median(seconds[-share:]) / statistics.median(seconds[:share])
