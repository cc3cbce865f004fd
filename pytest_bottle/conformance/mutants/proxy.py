"""Mutants of the PXY checks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.client import Client
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant
from pytest_bottle.spec import EgressRoute

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import (
        Endpoint,
        GuestInfo,
        GuestRequest,
        SidecarRequest,
        Topology,
    )
    from pytest_bottle.spec import BottleSpec


class _Permissive(NetnsBackend):
    """The sidecar lets through more than it is told to."""

    more: tuple[EgressRoute, ...]

    def up(self, spec: BottleSpec) -> Topology:
        return super().up(dataclasses.replace(spec, egress=(*spec.egress, *self.more)))


@mutant("PXY-02", also={"PXY-03", "PXY-12"})
class AllowAll(_Permissive):
    """The sidecar's default action is allow."""

    more = (EgressRoute("*", (80, 443)),)


@mutant("PXY-09")
class AnyPort(_Permissive):
    """The sidecar forgets ports when it looks for a host in its list."""

    more = (EgressRoute("allowed.test", tuple(range(1, 65536))),)


def tampered(patch: str) -> NetnsEngine:
    """Open an engine whose sidecars have other code in their policy.

    ``patch`` is run in the process that they all descend from, before anything else; ``policy`` is
    the module there.
    """
    before, after = Client.boot.split("gc.enable()")
    tamper = f"from pytest_bottle.guest import policy; exec({patch!r})"

    class Tampered(Client):
        boot = f"{before}{tamper}; gc.enable(){after}"

    return NetnsEngine(Tampered())


#: The list is applied in the CONNECT handler only (anthropics/claude-code issue 40213).
_CONNECT_ONLY = """
strict = policy.Policy.judge
def judge(self, method, target, version, headers):
    verdict = strict(self, method, target, version, headers)
    listed = method == "CONNECT" or verdict.reason != "not-allowed"
    return verdict if listed else verdict._replace(status=0, reason="allowed")
policy.Policy.judge = judge
"""


@mutant("PXY-03", also={"PXY-02", "PXY-12"})
def lists_for_connect_only() -> NetnsBackend:
    """The sidecar looks at its list when it is asked for a tunnel, and only then."""
    return NetnsBackend(tampered(_CONNECT_ONLY))


#: What stands behind a NUL is approved, what stands before it is dialled: endswith() on the raw
#: bytes, and a resolver on the C string. In HTTP the NUL has to come percent-encoded.
_C_STRING = """
strict = policy.Policy.decide
def decide(self, host, port):
    front, nul, rest = host.partition("%00")
    decision = strict(self, rest.lstrip(".") if nul else host, port)
    return decision._replace(host=front) if nul and decision.allowed else decision
policy.Policy.decide = decide
"""


@mutant("PXY-12")
def reads_to_the_nul() -> NetnsBackend:
    """The sidecar's list and its resolver do not agree where a name ends."""
    return NetnsBackend(tampered(_C_STRING))


class _AnyAddress(NetnsEngine):
    """An engine whose sidecars may dial any address."""

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint:
        config = {**request.config, "address_exceptions": ["0.0.0.0/0", "::/0"]}
        return super().run_sidecar(guest, request._replace(config=config))


@mutant("PXY-10")
def any_address() -> NetnsBackend:
    """The sidecar does not look at the class of an address."""
    return NetnsBackend(_AnyAddress())


class _Outside(NetnsEngine):
    """An engine that puts agents on the egress network too: only variables lead to the proxy."""

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        if request.name.endswith("-agent"):
            egress = request.networks[0].replace("-internal", "-egress")
            request = request._replace(networks=(*request.networks, egress))
        return super().run_guest(request)


@mutant("PXY-18")
def isolated_by_variables() -> NetnsBackend:
    """Nothing but the proxy's variables keeps the agent from the outer network."""
    return NetnsBackend(_Outside())
