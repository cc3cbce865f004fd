"""Mutants of the QRK checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Fault
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import GuestInfo
    from pytest_bottle.backends.engines.contract import GuestRequest


class _OneLeg(NetnsEngine):
    """An engine that stops reading networks at an internal one."""

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start a guest."""
        if request.networks[0].endswith("-internal"):
            request = request._replace(networks=request.networks[:1])
        return super().run_guest(request)


@mutant("QRK-01")
def one_leg() -> NetnsBackend:
    """A guest whose first network is the internal one gets no leg on the other."""
    return NetnsBackend(_OneLeg())


class _Forgetful(NetnsEngine):
    """An engine that removes what has stopped, as with ``--rm``."""

    def fault(self, guest: str, fault: Fault, network: str) -> None:
        """Do harm to a guest."""
        if fault is Fault.STOP_AGENT:
            self.remove_guests([guest])
        else:
            super().fault(guest, fault, network)


@mutant("QRK-02")
def forgetful() -> NetnsBackend:
    """A guest that is stopped is removed, whether anybody asked for that or not."""
    return NetnsBackend(_Forgetful())
