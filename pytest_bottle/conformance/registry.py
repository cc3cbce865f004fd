"""The checks: one property each, with a permanent ID. IDs are never reused or re-meant."""

from __future__ import annotations

import enum
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.contract import Feature
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

    Body = Callable[[Bench], str]
    Stimuli = Callable[[Plan], None]


class Level(enum.Enum):
    """Who must pass a check (catalogue 0.5)."""

    CORE = "core"
    STRICT = "strict"
    TRANSPARENT = "transparent"
    QUIRK = "quirk"


class Severity(enum.Enum):
    """What a violation costs: from an unbounded channel down to usability."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Witness(enum.Enum):
    """Who may give the verdict."""

    REQUIRED = "required"
    AT_HOST = "required (H)"
    NO = "no"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True, slots=True)
class Check:
    """One property of a bottle.

    Attributes:
        id: permanent, as in ``NET-01``.
        title: one clause.
        requirement: what must hold; the docstring of the body.
        needs: features without which the check is NOT_SUPPORTED.
        evidence: the issues, advisories and facts that it rests on.
        body: judges; returns a note for the report, or raises Violation or Inconclusive.
        stimuli: what the survey fires for it; None when it acts by itself.
        apart: it breaks bottles of its own, or runs pytest itself, and takes its time; so it comes
            last, and runs beside others of its kind.
        two_way: it asks for answers too, so that it can be asked at an address without a witness
            as well (``--bottle-internet=guest,live``).
        alone: none runs beside it, for it would see what others do: it looks at the whole
            inventory, or at traffic that is not told by a nonce or an address of its own.
    """

    id: str
    title: str
    requirement: str
    level: Level
    severity: Severity
    witness: Witness
    needs: frozenset[Feature]
    evidence: tuple[str, ...]
    body: Body
    stimuli: Stimuli | None
    apart: bool = False
    alone: bool = False
    two_way: bool = False


_CHECKS: dict[str, Check] = {}


def check(
    identity: str,
    title: str,
    *,
    level: Level = Level.CORE,
    severity: Severity = Severity.CRITICAL,
    witness: Witness = Witness.REQUIRED,
    needs: frozenset[Feature] = frozenset(),
    evidence: tuple[str, ...] = (),
    stimuli: Stimuli | None = None,
    apart: bool = False,
    alone: bool = False,
    two_way: bool = False,
) -> Callable[[Body], Body]:
    """Register the function below as the body of a check; its docstring is the requirement."""

    def register(body: Body) -> Body:
        known = _CHECKS.get(identity)
        if known is not None and _place(known.body) != _place(body):
            raise ValueError(f"check {identity} is registered twice")
        requirement = " ".join((body.__doc__ or "").split())
        if not requirement:
            raise ValueError(f"check {identity} has no requirement: its docstring is empty")
        _CHECKS[identity] = Check(
            identity,
            title,
            requirement,
            level,
            severity,
            witness,
            needs,
            evidence,
            body,
            stimuli,
            apart,
            alone,
            two_way,
        )
        return body

    return register


def _place(body: Body) -> tuple[str, str]:
    """Tell where a body stands; a module that is imported anew registers the same ones again."""
    return body.__module__, body.__qualname__


def all_checks() -> tuple[Check, ...]:
    """Every check of the package, in the order of IDs."""
    from pytest_bottle.conformance import checks

    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return tuple(_CHECKS[identity] for identity in sorted(_CHECKS))
