"""The liar: a backend that makes everything look well.

Its sidecar answers 200 to whatever it is asked and asks nobody itself, a command that fails ends
with status 0 and says nothing, and nothing is ever left. Whoever believes answers, exit statuses or
an empty list passes here for the wrong reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import ExecResult, User
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.tampering import patched_engine
from pytest_bottle.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import BackendInfo, Resource, Topology, Vantage

_YES = """
from pytest_bottle.guest import proxy

def run(client):
    while client.sock.recv(65536):
        client.sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK")

proxy._Client.run = run
"""


class Liar(EngineBackend):
    """The netns backend, which hides what goes wrong."""

    def __init__(self) -> None:
        super().__init__(patched_engine(f"exec({_YES!r}, {{}})"))

    def describe(self) -> BackendInfo:
        """Name it, so that no report can be mistaken for another backend's."""
        return super().describe()._replace(name="liar")

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: User = User.AGENT,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a command; one that fails, or cannot be run, ends well and says nothing."""
        try:
            result = super().exec(
                *(topology, vantage, argv),
                stdin=stdin,
                user=user,
                timeout=timeout,
                environment=environment,
            )
        except TransportError:
            return ExecResult(0, b"", b"")
        return result if result.ok else ExecResult(0, b"", b"")

    def inventory(self) -> frozenset[Resource]:
        """Say that nothing is there."""
        return frozenset()

    def residue(self, session: str) -> frozenset[Resource]:
        """Say that nothing is left."""
        del session
        return frozenset()
