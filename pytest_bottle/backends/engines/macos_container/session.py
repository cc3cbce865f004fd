"""A session of the engine: all that it makes is in its ledger first, and under its label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.macos_container import removal, undertaker
from pytest_bottle.backends.engines.macos_container.labels import Session
from pytest_bottle.backends.engines.macos_container.removal import CONTAINER, NETWORK
from pytest_bottle.cleanup.ledger import Ledger
from pytest_bottle.cleanup.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.engines.cli import Cli


class OpenSession:
    """The session that this process holds, with its watchdog."""

    def __init__(self, program: Cli) -> None:
        self.identity = Session.fresh()
        self._program = program
        self._ledger = Ledger(self.identity.mark, undertaker.head(program, self.identity))
        self._made: set[str] = set()
        self._watchdog = Watchdog(self._ledger.path)
        program.held = (self._watchdog.calls,)

    def names(self, parts: Sequence[str]) -> list[str]:
        """Give the names of parts at the engine, of those that may exist."""
        there = {entry.name for entry in self._ledger.left}
        return [name for name in map(self.identity.name, parts) if name in there]

    def begin(self, kind: str, part: str) -> tuple[str, list[str]]:
        """Write down that a part is going to be made; gives its name and its labels."""
        name = self.identity.name(part)
        self._ledger.make(kind, name)
        return name, self.identity.labels(part)

    def made(self, name: str) -> None:
        """Note that the engine has made what was begun: what has that name is ours."""
        self._made.add(name)

    def remove_containers(self, parts: Sequence[str]) -> None:
        """Remove containers; it is written down when they are gone."""
        self._remove(CONTAINER, self.names(parts))

    def remove_networks(self, parts: Sequence[str]) -> None:
        """Remove networks likewise."""
        self._remove(NETWORK, self.names(parts))

    def close(self) -> None:
        """Remove what is left, and let the watchdog go, which looks once more."""
        try:
            for kind in (CONTAINER, NETWORK):
                self._remove(kind, [one.name for one in self._ledger.left if one.kind == kind])
        finally:
            self._ledger.close()
            self._watchdog.close()

    def _remove(self, kind: str, names: Sequence[str]) -> None:
        """Remove what is ours: what was begun and not made may be another's of the same name."""
        doubtful = [name for name in names if name not in self._made]
        others = removal.others(self._program, kind, doubtful, self.identity) if doubtful else set()
        remove = {
            CONTAINER: removal.remove_containers,
            NETWORK: removal.remove_networks,
        }[kind]
        remove(self._program, [name for name in names if name not in others])
        if names:
            self._ledger.gone(kind, *names)

    def leave(self) -> tuple[list[str], list[str]]:
        """Let all of it outlive us; tells the names of containers and networks."""
        with open(removal.kept_file(self.identity), "w") as file:
            file.write(str(self.identity))
        left = self._ledger.left
        self._ledger.close()
        self._watchdog.leave()
        containers = [entry.name for entry in left if entry.kind == CONTAINER]
        return containers, [entry.name for entry in left if entry.kind == NETWORK]
