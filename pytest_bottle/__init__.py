"""Prove that a sandbox for AI agents really holds.

Everything a test or a backend needs can be imported from here. It is looked up at its first use:
pytest imports this module in every project that has the plugin installed, used or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_bottle.backends.base import BackendBase as BackendBase
    from pytest_bottle.backends.contract import Backend as Backend
    from pytest_bottle.backends.contract import BackendInfo as BackendInfo
    from pytest_bottle.backends.contract import DenialForm as DenialForm
    from pytest_bottle.backends.contract import Endpoint as Endpoint
    from pytest_bottle.backends.contract import ExecResult as ExecResult
    from pytest_bottle.backends.contract import Fault as Fault
    from pytest_bottle.backends.contract import Feature as Feature
    from pytest_bottle.backends.contract import GuestInfo as GuestInfo
    from pytest_bottle.backends.contract import NetworkInfo as NetworkInfo
    from pytest_bottle.backends.contract import Resource as Resource
    from pytest_bottle.backends.contract import Topology as Topology
    from pytest_bottle.backends.contract import User as User
    from pytest_bottle.backends.contract import Vantage as Vantage
    from pytest_bottle.backends.engine_backend import EngineBackend as EngineBackend
    from pytest_bottle.backends.engines.contract import Engine as Engine
    from pytest_bottle.backends.engines.contract import GuestRequest as GuestRequest
    from pytest_bottle.backends.engines.contract import SidecarRequest as SidecarRequest
    from pytest_bottle.bottle import Bottle as Bottle
    from pytest_bottle.bottle import FetchError as FetchError
    from pytest_bottle.bottle import Response as Response
    from pytest_bottle.errors import BackendUnavailableError as BackendUnavailableError
    from pytest_bottle.errors import BottleError as BottleError
    from pytest_bottle.errors import BringUpError as BringUpError
    from pytest_bottle.errors import ConfigurationError as ConfigurationError
    from pytest_bottle.errors import DeadlineError as DeadlineError
    from pytest_bottle.errors import Inconclusive as Inconclusive
    from pytest_bottle.errors import NotSupported as NotSupported
    from pytest_bottle.errors import TransportError as TransportError
    from pytest_bottle.errors import Violation as Violation
    from pytest_bottle.inquiry import ProbeResult as ProbeResult
    from pytest_bottle.spec import BottleSpec as BottleSpec
    from pytest_bottle.spec import EgressRoute as EgressRoute
    from pytest_bottle.spec import PublishedPort as PublishedPort
    from pytest_bottle.spec import SidecarSpec as SidecarSpec
    from pytest_bottle.stimulus import Icmp as Icmp
    from pytest_bottle.stimulus import Tcp as Tcp
    from pytest_bottle.stimulus import Udp as Udp
    from pytest_bottle.verdict import Finding as Finding
    from pytest_bottle.verdict import Verdict as Verdict

_PLACES = {
    "backends.base": ("BackendBase",),
    "backends.contract": (
        *("Backend", "BackendInfo", "DenialForm", "Endpoint", "ExecResult", "Fault", "Feature"),
        *("GuestInfo", "NetworkInfo", "Resource"),
        *("Topology", "User", "Vantage"),
    ),
    "backends.engine_backend": ("EngineBackend",),
    "backends.engines.contract": ("Engine", "GuestRequest", "SidecarRequest"),
    "bottle": ("Bottle", "FetchError", "Response"),
    "errors": (
        *("BackendUnavailableError", "BottleError", "BringUpError", "ConfigurationError"),
        *("DeadlineError", "Inconclusive", "NotSupported", "TransportError", "Violation"),
    ),
    "inquiry": ("ProbeResult",),
    "spec": ("BottleSpec", "EgressRoute", "PublishedPort", "SidecarSpec"),
    "stimulus": ("Icmp", "Tcp", "Udp"),
    "verdict": ("Finding", "Verdict"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
