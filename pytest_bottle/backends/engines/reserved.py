"""Addresses that a session is about to publish at: other sessions of this machine keep off.

From the moment that an address is found free until a guest publishes there, anybody may come to the
same finding. Sessions of one user tell each other by locks, which end with whoever holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import threading
from functools import cache
from typing import Final

_LOCK: Final = threading.Lock()


def hold(place: str, address: str, port: int) -> bool:
    """Reserve a port of a place's address; false if another process has it.

    Ours it may be already: within a process whoever chooses addresses knows which are taken.
    """
    with _LOCK:
        try:
            fcntl.lockf(_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(place, address, port))
        except BlockingIOError:
            return False
        return True


def let_go(place: str, address: str, port: int) -> None:
    """Let others have it."""
    with _LOCK:
        fcntl.lockf(_file(), fcntl.LOCK_UN, 1, _byte(place, address, port))


@cache
def _file() -> int:
    # One for good: a process loses all its locks of a file with any descriptor that it closes.
    folder = os.path.join(tempfile.gettempdir(), f"pytest-bottle-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.open(f"{folder}/published.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _byte(place: str, address: str, port: int) -> int:
    digest = hashlib.sha256(f"{place} {address} {port}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
