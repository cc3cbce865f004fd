"""What authors of backends build on: the methods that not every backend has, saying so."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import (
        BackendInfo,
        ExecResult,
        Fault,
        Resource,
        Topology,
    )
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.spec import BottleSpec, EgressRoute


class Refusals:
    """The methods that stand behind a feature, refused, and those that have a plain answer."""

    @property
    def internet(self) -> Internet:
        """The far side, for ``Feature.LAB``."""
        raise self._refusal("internet")

    def trust(self) -> str:
        """Without a lab there is no certificate to trust."""
        return ""

    def address(self, topology: Topology, vantage: Vantage) -> str:
        """Tell the addresses that the topology itself names; others are for a subclass."""
        if vantage is Vantage.AGENT:
            return topology.agent_address
        if vantage is Vantage.SIDECAR:
            return topology.sidecar_address
        raise self._refusal(f"address of {vantage.value}")

    def audit(self, topology: Topology) -> Sequence[Mapping[str, object]]:
        """Read the sidecar's record, for ``Feature.AUDIT``."""
        raise self._refusal("audit")

    def logs(self, topology: Topology) -> Mapping[str, bytes]:
        """Nothing was written, or nothing of it can be read."""
        return {}

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Do harm to a part of a bottle, for ``Feature.FAULT``."""
        raise self._refusal("fault")

    def reload(self, topology: Topology, egress: Sequence[EgressRoute]) -> None:
        """Give the running sidecar other routes, for ``Feature.RELOAD``."""
        raise self._refusal("reload")

    def inventory(self) -> frozenset[Resource]:
        """List what exists on the host, for ``Feature.INVENTORY``."""
        raise self._refusal("inventory")

    @property
    def session(self) -> str:
        """What everything of this session can be told by, for ``Feature.SESSION``."""
        raise self._refusal("session")

    def residue(self, session: str) -> frozenset[Resource]:
        """List what there is of a session, for ``Feature.SESSION``."""
        raise self._refusal("residue")

    def sweep(self, session: str) -> None:
        """Remove what there is of a dead session, for ``Feature.SESSION``."""
        raise self._refusal("sweep")

    def _refusal(self, what: str) -> NotSupported:
        return NotSupported(
            f"backend {type(self).__name__} has no {what}",
            where=f"{type(self).__module__}.{type(self).__qualname__}",
            expected="a feature that its describe() lists",
        )


class BackendBase(Refusals, abc.ABC):
    """A :class:`~pytest_bottle.backends.contract.Backend` without any feature.

    A subclass has these five methods, and those that the features in its ``describe()`` stand for;
    the others raise ``NotSupported``.
    """

    @abc.abstractmethod
    def describe(self) -> BackendInfo:
        """Name the backend, its version and its features."""

    @abc.abstractmethod
    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up, or leave nothing of it."""

    @abc.abstractmethod
    def down(self, topology: Topology) -> None:
        """Take a bottle down; idempotent."""

    @abc.abstractmethod
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
        """Run a command at a vantage point, or raise ``TransportError``."""

    @abc.abstractmethod
    def close(self, *, keep: bool = False) -> str:
        """End the session."""
