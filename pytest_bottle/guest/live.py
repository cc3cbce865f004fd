"""The policy that holds now: it may change while the sidecar runs, and tunnels end with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from pytest_bottle.guest.policy import Policy, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Routes = Sequence[tuple[str, Sequence[int]]]

#: Seconds between two looks at the file.
_PAUSE = 0.05


class LivePolicy:
    """A policy, the file that may replace it, and the tunnels that were approved by it.

    Args:
        routes: what holds without the file.
        path: JSON, ``{"edit": number, "routes": [[host, [port, …]], …]}``; put there whole, by a
            rename. Empty if there is none.
        tell: takes a record of each change.
    """

    def __init__(
        self, routes: Routes, path: str, tell: Callable[[dict[str, object]], None]
    ) -> None:
        self.policy = Policy(routes)
        self._path = path
        self._tell = tell
        self._seen: object = None
        self._lock = threading.Lock()
        self._tunnels: dict[object, tuple[str, int, tuple[socket.socket, ...]]] = {}
        self.look()

    def watch(self) -> None:
        """Look again and again, for ever; in a thread of its own."""
        while self._path:
            time.sleep(_PAUSE)
            self.look()

    def look(self) -> None:
        """Take over what the file says, if it says something else than at the last look."""
        try:
            state = os.stat(self._path)
        except OSError:  # there has been no change yet
            return
        seen = state.st_ino, state.st_mtime_ns, state.st_size
        if seen == self._seen:
            return
        self._seen = seen
        edit, self.policy = self._read()
        ended = self._end_tunnels()
        self._tell({"event": "policy", "edit": edit, "ended": ended})

    def _read(self) -> tuple[object, Policy]:
        try:
            with open(self._path) as file:
                said = json.load(file)
            routes = [(str(host), tuple(ports)) for host, ports in said["routes"]]
            return said["edit"], Policy(routes)
        except (OSError, ValueError, KeyError, TypeError):  # half a policy is none (PXY-21)
            return None, Policy([])

    def _end_tunnels(self) -> int:
        with self._lock:
            over = [one for one in self._tunnels.values() if not self._allows(*one[:2])]
        for _, _, sockets in over:
            for sock in sockets:
                with contextlib.suppress(OSError):  # it has gone by itself
                    sock.shutdown(socket.SHUT_RDWR)
        return len(over)

    def _allows(self, host: str, port: int) -> bool:
        return self.policy.decide(host, port).allowed

    @contextlib.contextmanager
    def tunnel(self, host: str, port: int, *sockets: socket.socket) -> Iterator[None]:
        """Let a tunnel live for as long as the policy has room for it.

        Raises:
            Stop: the policy has changed since the tunnel was asked for.
        """
        key = object()
        with self._lock:
            self._tunnels[key] = (host, port, sockets)
        try:
            if not self._allows(host, port):  # changed before anybody could find the tunnel here
                raise Stop("deny", 403, "not-allowed")
            yield
        finally:
            with self._lock:
                del self._tunnels[key]
