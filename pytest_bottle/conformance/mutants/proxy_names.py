"""Mutants of the PXY checks about names, addresses, and whom the proxy serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.conformance.mutants import name_patches
from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant
from pytest_bottle.conformance.mutants.proxy import tampered

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Endpoint
    from pytest_bottle.backends.engines.contract import SidecarRequest


@mutant("PXY-11")
def resolves_again() -> NetnsBackend:
    """The sidecar resolves a name once to judge it, and again to dial."""
    return tampered("resolves_again", name_patches)


@mutant("PXY-13", also={"DNS-07", "PXY-12"})
def matches_from_behind() -> NetnsBackend:
    """The sidecar compares ends of names, and not from a dot on."""
    return tampered("matches_from_behind", name_patches)


@mutant("PXY-14")
def compares_texts() -> NetnsBackend:
    """The sidecar compares an address with "127." and "169.254.", as it is written."""
    return tampered("compares_texts", name_patches)


class _Everywhere(NetnsEngine):
    """An engine whose sidecars listen on all of their addresses."""

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        listen = request.listen._replace(host="0.0.0.0")
        return super().run_sidecar(guest, request._replace(listen=listen))


@mutant("PXY-20")
def open_relay() -> NetnsBackend:
    """The sidecar's proxy listens on its outer address too."""
    return NetnsBackend(_Everywhere())
