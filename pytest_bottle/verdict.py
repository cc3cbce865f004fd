"""The verdict algebra: pure functions of what the prober saw, what the witness heard, and controls.

No exit code and no text of a tool ever decides (catalogue 0.3).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(enum.Enum):
    """What is said of a check. INCONCLUSIVE counts as a failure of the run, never as a skip."""

    PASSED = "passed"
    VIOLATED = "violated"
    INCONCLUSIVE = "inconclusive"
    NOT_SUPPORTED = "not supported"
    NOT_RUN = "not run"
    WAIVED = "waived"


class Finding(enum.Enum):
    """What became of one stimulus that must not get out, from bad to good."""

    LEAKED = "leaked"
    LEAKED_ONE_WAY = "leaked one way"
    INCONCLUSIVE = "inconclusive"
    BLOCKED_TWO_WAY = "blocked two-way"
    """Nothing came back from an address where nobody listens for us: it may have left all the same.

    It does not stand in the way of a check that asks for answers too; one that asks whether
    something left has learnt nothing from it.
    """
    NOT_SENDABLE = "not sendable"
    """The prober's own kernel refused to send: true, and no proof that the network would."""
    TERMINATED_LOCALLY = "terminated locally"
    """Something answered on the way; the far end heard nothing. Not a leak, and reported."""
    BLOCKED = "blocked"


#: Outcomes of the probe by which the network, or a policy on it, said no.
BLOCKED_OUTCOMES = frozenset(
    {"refused", "unreachable", "timeout", "reset", "dns-failure", "proxy-denied", "sent"}
)
#: Outcomes by which something answered.
ANSWERED_OUTCOMES = frozenset({"connected", "answered", "tls-untrusted"})
#: Those by which nothing came back: nobody answered, or a kernel on this side had no way there.
#: Refused and reset are answers, perhaps of the far end's; a failed lookup sent nothing there.
SILENT_OUTCOMES = frozenset({"timeout", "unreachable"})
#: What an outcome comes to while the far end is silent; every other word is no observation.
_WHILE_SILENT = {
    **dict.fromkeys(ANSWERED_OUTCOMES, Finding.TERMINATED_LOCALLY),
    **dict.fromkeys(BLOCKED_OUTCOMES, Finding.BLOCKED),
    "not-sendable": Finding.NOT_SENDABLE,
}


def is_leak(finding: Finding) -> bool:
    """Tell whether something got out."""
    return finding in (Finding.LEAKED, Finding.LEAKED_ONE_WAY)


def judge(
    outcome: str | None, *, echo: bool, heard: bool, controls: bool, witnessed: bool = True
) -> Finding:
    """Say what became of one stimulus.

    Args:
        outcome: the prober's record, typed by cause; None when it is missing.
        echo: whether the far end's own echo of the nonce came back.
        heard: whether the witness heard the stimulus.
        controls: whether every positive control of it is green.
        witnessed: whether a witness of ours is where it was sent to. Where there is none, as at an
            address of the real Internet, any answer is the far end's; a refusal or a reset may be,
            and is no block.
    """
    silent = _WHILE_SILENT.get(outcome or "")
    if silent is None:  # missing, a tool's own error, or a word that we do not know
        return Finding.INCONCLUSIVE
    if echo or (silent is Finding.TERMINATED_LOCALLY and (heard or not witnessed)):
        return Finding.LEAKED
    if heard:
        return Finding.LEAKED_ONE_WAY
    if not controls:
        return Finding.INCONCLUSIVE
    if silent is Finding.BLOCKED and not witnessed:
        return Finding.BLOCKED_TWO_WAY if outcome in SILENT_OUTCOMES else Finding.INCONCLUSIVE
    return silent


def combine(findings: Iterable[Finding], *, two_way: bool = False) -> Verdict:
    """Say what a check's findings come to: the worst one decides.

    A stimulus that could not be sent proves nothing: it needs another one, of the same check, that
    could be sent and was blocked. No finding at all is no pass either.

    Args:
        findings: what became of each stimulus.
        two_way: whether the check asks for answers besides, so that the lack of one at an address
            without a witness is as it should be. Alone it is no pass there either.
    """
    found = set(findings)
    if any(map(is_leak, found)):
        return Verdict.VIOLATED
    doubts = {Finding.INCONCLUSIVE} if two_way else {Finding.INCONCLUSIVE, Finding.BLOCKED_TWO_WAY}
    if found & doubts:
        return Verdict.INCONCLUSIVE
    if found & {Finding.BLOCKED, Finding.TERMINATED_LOCALLY}:
        return Verdict.PASSED
    return Verdict.INCONCLUSIVE
