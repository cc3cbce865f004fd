"""The wide-open backend: the topology is there, and its internal network is as open as the other.

It is the opposite of the black hole: every check that claims a direct way to be closed must find it
open here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.engine import NetnsEngine

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import BackendInfo


class _Flat(NetnsEngine):
    """An engine that makes every network one that leads out."""

    def create_network(self, name: str, *, internal: bool, subnet: str = "") -> None:
        super().create_network(name, internal=False, subnet=subnet)
        self._networks[name] = self._networks[name]._replace(internal=internal)


class WideOpen(EngineBackend):
    """The netns backend, without isolation."""

    def __init__(self) -> None:
        super().__init__(_Flat())

    def describe(self) -> BackendInfo:
        """Name it, so that no report can be mistaken for another backend's."""
        return super().describe()._replace(name="wide-open")
