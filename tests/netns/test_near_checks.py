"""Checks of what is near: without their controls they prove nothing, and odd leaks are found."""

from __future__ import annotations

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.conformance.mutants.base import Errand, Meddler
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import run_check
from tests.mute import Mute

pytestmark = pytest.mark.usefixtures("netns_works")


@pytest.mark.parametrize(
    ("identity", "silent", "why"),
    [
        ("NET-10", (Vantage.NEIGHBOUR, "listen", "tool-error"), "listener did not report"),
        ("NET-11", (Vantage.OPEN, "http", "timeout"), "got no token from 169.254.169.254"),
        ("NET-12", (Vantage.OPEN, "tcp", "timeout"), "nobody answers there at all"),
        ("LAT-03", (Vantage.STRANGER, "listen", "tool-error"), "listener did not report"),
        ("LAT-03", (Vantage.COMPANION, "tcp", "timeout"), "did not even hear companion"),
        ("LAT-04", (Vantage.PRIVILEGED, "claim", "sent"), "could not claim anything"),
        ("LAT-04", (Vantage.BYSTANDER, "udp", "sent"), "did not even hear the bystander"),
        ("LAT-06", (Vantage.SIDECAR, "tcp", "timeout"), "did not even hear sidecar"),
        ("HST-06", (Vantage.HOST, "http", "timeout"), "does not even answer at the host"),
        ("HST-06", (Vantage.NEIGHBOUR, "tcp", "timeout"), "did not even hear"),
        ("IP6-03", (Vantage.BYSTANDER, "set", "answered"), "does not even reach the bystander"),
        ("IP6-03", (Vantage.OPEN, "ping-all", "answered"), "finds no host on its own link"),
    ],
)
def test_without_its_control_it_proves_nothing(
    identity: str, silent: tuple[Vantage, str, str], why: str
) -> None:
    """Silence where nobody could have been heard is inconclusive."""
    with pytest.raises(Inconclusive, match=why):
        run_check(Mute(*silent), identity)


class SameSegment(Meddler):
    """What the agent says to groups is said on the outer segment, as on a bridge for both."""

    def meddle(self, errand: Errand) -> Errand:
        """Let it be said by the open guest."""
        moved = errand.is_the_agents and b"239.255.255.250" in errand.stdin
        return errand._replace(vantage=Vantage.OPEN) if moved else errand


def test_multicast_that_gets_out_is_heard() -> None:
    """The neighbour is in the groups, and hears what is said to everybody as well."""
    with pytest.raises(Violation) as caught:
        run_check(SameSegment(), "NET-10")

    for group in ("udp/5353 to 224.0.0.251", "udp/1900 to 239", "udp/67 to 255.255.255.255"):
        assert f"{group}" in str(caught.value)
