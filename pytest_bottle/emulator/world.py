"""All that a daemon knows, and what it leaves for the next one."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator.containers import Container, Containers
from pytest_bottle.emulator.ifconfig import ALIASES, aliases
from pytest_bottle.emulator.images import Images
from pytest_bottle.emulator.machine import Machine
from pytest_bottle.emulator.networks import Networks

if TYPE_CHECKING:
    from pytest_bottle.backends.engines.netns.client import Client

_STATE: Final = "state.json"


class World:
    """Networks, containers and images, over one session of the engine.

    Args:
        root: the folder of the state (``CONTAINER_APP_ROOT``).
        version: of the API server.
        switched_on: faults that are in force from the start.
        client: an engine that is starting already.
    """

    def __init__(
        self, root: str, version: str, switched_on: frozenset[str], client: Client | None = None
    ) -> None:
        self.root = root
        self.version = version
        self._saving = threading.Lock()
        kept = self._load()
        self.machine = Machine(switched_on, client)
        self.images = Images(kept["images"])
        self.networks = Networks(self.machine, kept["networks"])
        self.containers = Containers(
            self.machine, self.networks, os.path.join(root, "containers"), version, self.loopbacks
        )
        for configuration in kept["containers"]:  # as after any start: all of them are stopped
            self.containers.create(Container(configuration["id"], configuration))

    def loopbacks(self) -> list[str]:
        """The addresses that a port can be published on, besides the wildcard."""
        return ["127.0.0.1", *aliases(os.path.join(self.root, ALIASES))]

    def _load(self) -> dict[str, Any]:
        with suppress(FileNotFoundError), open(os.path.join(self.root, _STATE), "rb") as file:
            kept: dict[str, Any] = json.load(file)
            return kept
        return {"containers": [], "images": {}, "networks": []}

    def save(self) -> None:
        """Write down what outlives this daemon; containers that go by themselves do not."""
        with self._saving:
            state = {
                "containers": [
                    one.configuration for one in self.containers.all() if not one.auto_remove
                ],
                "images": self.images.kept(),
                "networks": [one.configuration for one in self.networks.all()],
            }
            path = os.path.join(self.root, _STATE)
            with suppress(OSError):  # the folder may be on its way out
                with open(f"{path}.new", "w", encoding="utf-8") as file:
                    json.dump(state, file)
                os.replace(f"{path}.new", path)

    def close(self) -> None:
        """End everything that runs."""
        self.save()
        self.containers.close()
        self.machine.close()
