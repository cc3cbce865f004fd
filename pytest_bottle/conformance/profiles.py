"""Profiles: which checks a backend is held to, versioned apart from the package.

The lists are data. Once released, a list changes no more: a check that arrives later is in none of
them, so it is a preview. A preview runs and is reported, and gates nobody until it is in a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.conformance.registry import Check, Level

_CORE_1 = """
    CTL-01 CTL-02 CTL-03 CTL-04 CTL-05
    DNS-01 DNS-02 DNS-03 DNS-04 DNS-06 DNS-08 DNS-09
    HST-02 HST-03 HST-05 HST-07 HST-08
    IP6-01 IP6-02 IP6-04
    LAT-01 LAT-02 LAT-03 LAT-05
    LIFE-01 LIFE-02 LIFE-03 LIFE-07
    NET-01 NET-02 NET-03 NET-04 NET-05 NET-06 NET-09 NET-10 NET-11
    PRV-01 PRV-02 PRV-03 PRV-04 PRV-06 PRV-07 PRV-08
    PXY-01 PXY-02 PXY-03 PXY-04 PXY-05 PXY-09 PXY-10 PXY-11 PXY-12 PXY-13 PXY-14 PXY-15 PXY-16
    PXY-17 PXY-18 PXY-19 PXY-20 PXY-21 PXY-24
    RES-01 RES-02 RES-03 RES-04 RES-05 RES-06
"""
_STRICT_1 = """
    DNS-05 DNS-07 HST-01 HST-06 IP6-03 LAT-04 LAT-06 LAT-07 LIFE-04 LIFE-05 LIFE-06 NET-07 NET-08
    PRV-05 PXY-06 PXY-07 PXY-22 PXY-23 RES-07
"""
_TRANSPARENT_1 = """
    PXY-08 TRN-01 TRN-02 TRN-03 TRN-04 TRN-05 TRN-06 TRN-07 TRN-08
"""
_QUIRKS = """
    DNS-10 HST-04 NET-12
"""

#: What a profile demands, by its name.
PROFILES: dict[str, frozenset[str]] = {
    "core@1": frozenset(_CORE_1.split()),
    "strict@1": frozenset((_CORE_1 + _STRICT_1).split()),
    "transparent@1": frozenset((_CORE_1 + _TRANSPARENT_1).split()),
    "all": frozenset((_CORE_1 + _STRICT_1 + _TRANSPARENT_1 + _QUIRKS).split()),
}
#: What everybody gets who asks for no profile.
DEFAULT = "all"
#: The users' own checks, rows of their ``bottle.yaml``, belong to every profile.
OWN = "USER-"


def is_preview(check: Check) -> bool:
    """Tell whether a check is newer than every list."""
    return not check.id.startswith(OWN) and check.id not in PROFILES["all"]


def gates(check: Check) -> bool:
    """Tell whether a check can fail a profile: a quirk and a preview cannot, they are recorded."""
    from pytest_bottle.conformance.registry import Level

    return check.level is not Level.QUIRK and not is_preview(check)


def planned(profile: str, checks: Iterable[Check]) -> tuple[Check, ...]:
    """Choose the checks that a profile runs: those of its list, previews, and the user's own."""
    return tuple(check for check in checks if _is_planned(profile, check))


def _is_planned(profile: str, check: Check) -> bool:
    if is_preview(check):
        return check.level in _levels(profile)
    return check.id in PROFILES[profile] or check.id.startswith(OWN)


def _levels(profile: str) -> set[Level]:
    """Tell the levels that a profile looks at: of previews it runs those."""
    from pytest_bottle.conformance.registry import Level  # not for who only wants the names

    looked_at = {
        "core@1": {Level.CORE},
        "strict@1": {Level.CORE, Level.STRICT},
        "transparent@1": {Level.CORE, Level.TRANSPARENT},
        "all": {*Level},
    }
    return looked_at.get(profile, set())
