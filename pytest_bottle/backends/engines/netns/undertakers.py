"""Who deletes bridges, and when all that was removed is gone from the kernel too."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.engines.netns.children import Children
    from pytest_bottle.backends.engines.netns.fabric import Fabric, Network

#: Seconds for the kernel to take away what a removed guest left; usually 0.03.
_SETTLE = 2.0


class Undertakers:
    """Children that delete the bridges of retired networks: the kernel takes its time about it."""

    def __init__(self, children: Children, fabric: Fabric) -> None:
        self._children = children
        self._fabric = fabric
        self._running: set[int] = set()

    def bury(self, networks: Sequence[Network]) -> None:
        """Delete the bridges of retired networks, a little later."""
        if not networks:
            return

        def buried(status: int) -> None:
            self._running.discard(pid)
            if status:  # the undertaker could not: then it takes its time here
                self._bury_here(networks)
            else:
                self._fabric.forget(networks)

        demolish = partial(self._fabric.demolish, networks)
        try:
            pid = self._children.fork((self._fabric.host.fd,), demolish, buried)
        except OSError:  # no more processes for us
            self._bury_here(networks)
        else:
            self._running.add(pid)

    def _bury_here(self, networks: Sequence[Network]) -> None:
        # If that fails as well they stay retired, and in the inventory.
        with contextlib.suppress(OSError):
            there = self._fabric.host.netlink.links()
            left = [network for network in networks if network.bridge in there]
            if left:
                with self._fabric.host.entered():
                    self._fabric.demolish(left)
            self._fabric.forget(networks)

    def wait(self) -> None:
        """Wait until every bridge is deleted."""
        while self._running:
            self._children.wait_for(next(iter(self._running)))

    def settle(self) -> None:
        """Wait until what was removed is gone from the kernel, for a second or two at most."""
        end = time.monotonic() + _SETTLE
        self.wait()
        while self._fabric.still_dying() and time.monotonic() < end:
            time.sleep(0.002)
