"""Nothing is sent to a real address where the far side does not own them all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import paper
from pytest_bottle.conformance.checks import names
from pytest_bottle.conformance.plan import Plan
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.conformance.rows import checks_of
from pytest_bottle.errors import NotSupported
from pytest_bottle.inquiry import inquire
from pytest_bottle.rows import Row, Target
from pytest_bottle.stimulus import Tcp, Udp

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend
    from pytest_bottle.stimulus import Stimulus

EVERYTHING = frozenset(Feature)
BY_A_GUEST = EVERYTHING - {Feature.EVERY_ADDRESS, Feature.IPV6}


class SentError(Exception):
    """The question got as far as the far side's ports."""


class Ear(paper.Sheet):
    """A far side at which the first step of a probe is seen."""

    def listen(self, **_: object) -> None:
        """Say that it began."""
        raise SentError


def probe(stimulus: Stimulus, features: frozenset[Feature] = BY_A_GUEST) -> None:
    """Probe a bottle on paper."""
    info = SimpleNamespace(features=features)
    backend = SimpleNamespace(internet=Ear(), describe=lambda: info)
    inquire(cast("Backend", backend), paper.topology(), Vantage.AGENT, stimulus, 1.0)


@pytest.mark.parametrize("host", ["1.1.1.1", "10.0.2.2", "169.254.169.254", "2606:4700::1111"])
def test_a_probe_of_a_real_address_is_not_supported(host: str) -> None:
    """Its control would go there; the error says what to do, and in the lab it is asked."""
    with pytest.raises(NotSupported, match="bottle-internet=lab") as caught:
        probe(Tcp(host, 443))
    assert "192.88.99." in str(caught.value)
    with pytest.raises(SentError):
        probe(Tcp(host, 443), EVERYTHING)


@pytest.mark.parametrize("host", ["192.88.99.200", "192.0.2.1", "198.51.100.2", "127.0.0.1"])
def test_a_probe_that_stays_here_is_asked(host: str) -> None:
    """An address of the far side, of the bottle's two networks, or a loopback."""
    with pytest.raises(SentError):
        probe(Udp(host, 53))


@pytest.mark.parametrize("via", ["direct", "proxy"])
@pytest.mark.parametrize("host", ["1.1.1.1", "10.0.0.1", "203.0.113.7"])
def test_a_row_about_a_real_address_takes_a_far_side_that_owns_it(host: str, via: str) -> None:
    """A row about an address of the far side, or about a name, does not."""

    def needs(host: str) -> frozenset[Feature]:
        (check,) = checks_of([Row("USER-A", Target.parse(f"{host}:443/tcp"), "blocked", via=via)])
        return check.needs

    assert Feature.EVERY_ADDRESS in needs(host)
    assert Feature.EVERY_ADDRESS not in needs("192.88.99.200")
    assert Feature.EVERY_ADDRESS not in needs("db.internal")


def test_a_row_about_a_name_that_leads_to_a_real_address_is_refused() -> None:
    """The far side's DNS sends some names inside: nothing is planned, and the row says why."""
    (check,) = checks_of([Row("USER-A", Target.parse("private.test:443/tcp"), "blocked")])
    plan = Plan(paper.topology(), paper.Sheet(), BY_A_GUEST, {}, {})
    assert check.stimuli is not None
    check.stimuli(plan)
    assert plan.asked == []
    assert "not the far side's" in plan.refusals["USER-A"]


def test_helpers_of_other_platforms_are_not_asked_past_the_bottle() -> None:
    """DNS-04 asks the resolvers on a loopback and on the link, and no link-local or private one."""
    (check,) = (one for one in all_checks() if one.id == "DNS-04")
    asked: dict[bool, set[str]] = {}
    for features in (EVERYTHING, BY_A_GUEST):
        plan = Plan(paper.topology(), paper.Sheet(), features, {}, {})
        assert check.stimuli is not None
        check.stimuli(plan)
        sweep = next(one for one in plan.during if one.vantage is Vantage.AGENT)
        asked[Feature.EVERY_ADDRESS in features] = set(cast("list[str]", sweep.what["udp"]))
    assert asked[True] - asked[False] == {*names._HELPERS_BEYOND}
    assert {"127.0.0.11", paper.topology().internal.gateway} <= asked[False]
