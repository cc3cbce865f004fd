"""The conformance suite within a run of pytest that is somebody else's.

Users' fixtures may stand around a check, or in the place of the suite's own. What they lend is not
believed: a check is judged with the bench that the suite itself has made, or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle import settings
from pytest_bottle.conformance.testimony import evidence_of, introduce
from pytest_bottle.errors import Inconclusive

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.registry import Check

#: The bench of this process, while there is one, and what it says of its backend.
_BENCH: pytest.StashKey[Bench] = pytest.StashKey()
_INTRODUCTION: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
_GENUINE: pytest.StashKey[bool] = pytest.StashKey()
_OURS = frozenset({"bottle_check", "_bottle_bench", "request"})


def hold(config: pytest.Config, bench: Bench) -> None:
    """Let a bench be the suite's, and hear what it has to say of its backend."""
    config.stash[_BENCH] = bench
    config.stash[_INTRODUCTION] = introduce(bench)


def release(config: pytest.Config) -> None:
    """Forget the bench: it is going down."""
    if _BENCH in config.stash:
        del config.stash[_BENCH]


def run_genuinely(item: pytest.Item, check: Check, bench: Bench) -> str:
    """Run a check for its item, if nobody has put another check or bench in the place of ours.

    Raises:
        Inconclusive: somebody has.
    """
    planned: Check = item.callspec.params["bottle_check"]  # type: ignore[attr-defined]
    ours = {"bottle_check": planned, "_bottle_bench": item.config.stash.get(_BENCH, None)}
    for (name, one), lent in zip(ours.items(), (check, bench), strict=True):
        if one is not lent:
            raise Inconclusive(
                f"{planned.id} INCONCLUSIVE: a fixture stands in the place of the suite's own",
                where=", ".join(foreign_fixtures(item)) or name,
                expected=f"{name} as pytest-bottle makes it",
                seen=repr(lent)[:200],
                next_step=f"rename the fixture {name!r}, or remove it",
            )
    item.stash[_GENUINE] = True
    return bench.run(check)


def foreign_fixtures(item: pytest.Item) -> list[str]:
    """Name the fixtures around a check that are not the suite's, and where each is from."""
    found = []
    info = getattr(item, "_fixtureinfo", None)
    definitions = getattr(info, "name2fixturedefs", {})
    for name in getattr(item, "fixturenames", ()):
        for one in definitions.get(name, ()):
            module = getattr(one.func, "__module__", "?")
            if name not in _OURS or module.partition(".")[0] not in ("pytest_bottle", "_pytest"):
                found.append(f"{name} ({module})")
    return found


def testimony(item: pytest.Item, check: Check) -> dict[str, Any]:
    """Say what a report needs to know of a check's run, as far as there was one."""
    config = item.config
    bench = config.stash.get(_BENCH, None)
    genuine = item.stash.get(_GENUINE, False)
    return {
        "test": item.nodeid,
        "genuine": genuine,
        "foreign": foreign_fixtures(item),
        "bench": config.stash.get(_INTRODUCTION, None),
        "duration": bench.took(check) if bench and genuine else 0.0,
        "evidence": evidence_of(bench.claims_of(check)) if bench and genuine else [],
    }


def waiver_of(config: pytest.Config, check: Check) -> dict[str, str] | None:
    """Find the waiver that holds for a check on the backend that was judged."""
    held = settings.of(config)
    introduction = config.stash.get(_INTRODUCTION, None)
    if not held.waivers or introduction is None:
        return None
    from pytest_bottle import waivers

    found = waivers.of(held.waivers, check.id, held.backend_name, introduction["version"])
    if found is None:
        return None
    told = {name: str(getattr(found, name)) for name in ("reason", "issue", "expires", "owner")}
    return {**told, "text": str(found)}
