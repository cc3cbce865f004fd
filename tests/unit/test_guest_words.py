"""What a guest is asked for wrongly is refused before anything is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.bottle import Guest
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.spec import BottleSpec, PublishedPort

if TYPE_CHECKING:
    from collections.abc import Callable

#: There is no backend and no bottle: whoever touched one would fail otherwise than expected.
GUEST = Guest(cast("Any", None), cast("Any", None), Vantage.AGENT)


@pytest.mark.parametrize(
    ("ask", "seen", "expected"),
    [
        (lambda: GUEST.run(cast("Any", ["id", "-u"])), "run(['id', '-u'])", 'run("id", "-u")'),
        (lambda: GUEST.run(), "run()", 'run("id", "-u")'),
        (lambda: GUEST.fetch("allowed.test"), "'allowed.test'", "https://allowed.test/"),
        (lambda: GUEST.probe(cast("Any", "192.0.2.7:443")), "'192.0.2.7:443'", "Tcp("),
    ],
)
def test_what_makes_no_sense(ask: Callable[[], object], seen: str, expected: str) -> None:
    """A list for a command, a URL without a scheme, a text for a stimulus: an example is shown."""
    with pytest.raises(ConfigurationError) as caught:
        ask()

    assert caught.value.seen == seen
    assert expected in caught.value.expected


def test_a_further_bottle_shares_nothing_that_two_cannot() -> None:
    """Published address, machine port and subnets are chosen anew, all else is the same."""
    port = PublishedPort("127.0.0.31", 18080, machine_port=8080)
    spec = BottleSpec(command=("x",), publish=port, internal_subnet="10.89.0.0/24")

    assert spec.spare == BottleSpec(command=("x",), publish=PublishedPort(None, 18080))
    assert BottleSpec(publish=None).spare == BottleSpec(publish=None)
