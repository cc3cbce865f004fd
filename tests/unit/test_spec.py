"""Specifications: what can be said, what cannot, and how a refusal reads."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.errors import ConfigurationError
from pytest_bottle.guest.policy import Policy
from pytest_bottle.spec import (
    DEFAULT_EGRESS,
    DEFAULT_PORTS,
    SPIKE_ALIAS,
    SPIKE_PORT,
    BottleSpec,
    EgressRoute,
    PublishedPort,
)

# A hyphen stands inside a label; a last label of digits would be an odd spelling of an address.
LABEL = st.from_regex(r"[a-z_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
ADDRESS = st.ip_addresses(v=4).map(str)
ADDRESS6 = st.ip_addresses(v=6).map(str)
PORT = st.integers(1, 65535)


def complaint(error: pytest.ExceptionInfo[ConfigurationError]) -> None:
    """Check that a message says what, where, what was expected and what was seen."""
    value = error.value
    for part in (value.what, value.where, value.expected, value.seen):
        assert part
        assert part in str(value)


# -- egress -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "ports"),
    [
        ("allowed.test", "allowed.test", DEFAULT_PORTS),
        (" Allowed.TEST. ", "allowed.test", DEFAULT_PORTS),
        ("packages.test:8443", "packages.test", (8443,)),
        ("192.88.99.7", "192.88.99.7", DEFAULT_PORTS),
        ("192.88.99.7:22", "192.88.99.7", (22,)),
        ("2620:4F:8000:0::7", "2620:4f:8000::7", DEFAULT_PORTS),
        ("[2620:4f:8000::7]", "2620:4f:8000::7", DEFAULT_PORTS),
        ("[2620:4f:8000::7]:8443", "2620:4f:8000::7", (8443,)),
        ("*", "*", DEFAULT_PORTS),
        ("*:443", "*", (443,)),
        ("under_score.a-b.test", "under_score.a-b.test", DEFAULT_PORTS),
    ],
)
def test_a_route_can_be_written_in_many_ways(text: str, host: str, ports: tuple[int, ...]) -> None:
    """Each comes to one exact host and its ports."""
    assert EgressRoute.parse(text) == EgressRoute(host, ports)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        ":80",
        "allowed.test:",
        "allowed.test:http",
        "allowed.test:0",
        "allowed.test:65536",
        "allowed.test:" + "9" * 5000,
        "allowed.test:-1",
        "allowed.test:٣",
        "http://allowed.test",
        "allowed.test/path",
        "user@allowed.test",
        "*.allowed.test",
        "-a.test",
        "a-.test",
        "a..test",
        "a" * 64 + ".test",
        "a." * 127 + "test",
        "2130706433",
        "1.1",
        "0x7f.1",
        "0177.0.0.1",
        "192.88.99.7/24",
        "[192.88.99.7]",
        "[allowed.test]:80",
        "[::1",
        "::1]:80",
        "fe80::1%eth0",
        "[fe80::1%\n]:80",
        "straße.test",
        "\u212aelvin.test",
        "a b.test",
        "a\0.test",
    ],
)
def test_what_is_no_exact_host_is_refused(text: str) -> None:
    """Patterns, URLs, odd spellings of addresses and what merely looks like a name."""
    with pytest.raises(ConfigurationError) as caught:
        EgressRoute.parse(text)
    complaint(caught)
    assert caught.value.where.startswith("egress")


@given(NAME | ADDRESS, st.none() | PORT)
def test_a_route_survives_its_own_spelling(host: str, port: int | None) -> None:
    """What was parsed can be written and parsed again, and is the same."""
    route = EgressRoute.parse(host if port is None else f"{host}:{port}")
    assert route == EgressRoute(host, DEFAULT_PORTS if port is None else (port,))
    assert EgressRoute.parse(f"{route.host}:{route.ports[0]}").host == route.host


@given(ADDRESS6, PORT)
def test_a_route_to_ipv6_survives_its_own_spelling(host: str, port: int) -> None:
    """Bare, in brackets, in capitals, and with a port."""
    for text in (host, f"[{host}]", host.upper()):
        assert EgressRoute.parse(text) == EgressRoute(host)
    assert EgressRoute.parse(f"[{host}]:{port}") == EgressRoute(host, (port,))


@given(st.text() | st.text(alphabet=".:[]%*-_aA0٣x/@ ") | ADDRESS6 | NAME)
def test_garbage_is_refused_or_means_one_thing(text: str) -> None:
    """No other error, and no route that the sidecar's policy would not read alike."""
    try:
        route = EgressRoute.parse(text)
    except ConfigurationError:
        return
    Policy([(route.host, route.ports)])
    assert EgressRoute(route.host, route.ports) == route
    assert route.host == route.host.lower()


def test_a_route_is_checked_however_it_is_made() -> None:
    """There is no way around: a wrong one would break the sidecar's start."""
    assert EgressRoute("ALLOWED.test.").host == "allowed.test"
    wrong: list[tuple[str, tuple[Any, ...]]] = [
        ("a b", (80,)),
        ("allowed.test", (0,)),
        ("allowed.test", (80, 65536)),
        ("allowed.test", ("80",)),
    ]
    for host, ports in wrong:
        with pytest.raises(ConfigurationError) as caught:
            EgressRoute(host, ports)
        complaint(caught)


# -- the published port -------------------------------------------------------------------------


def test_a_port_is_published_on_a_loopback_address() -> None:
    """The spike's alias is one; the machine's own port is chosen by the kernel."""
    assert PublishedPort.parse("127.0.0.31:18080") == PublishedPort(SPIKE_ALIAS, SPIKE_PORT, 0)
    assert PublishedPort.parse("127.1.2.3:1", machine_port=8080).machine_port == 8080
    assert PublishedPort() == PublishedPort(None, SPIKE_PORT, 0)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", "''"),
        ("127.0.0.31", "'127.0.0.31'"),
        (":18080", "''"),
        ("127.0.0.31:", "'127.0.0.31:'"),
        ("127.0.0.31:x", "'127.0.0.31:x'"),
        ("127.0.0.31:١٢", "'127.0.0.31:١٢'"),
        ("127.0.0.31:" + "9" * 5000, "'127.0.0.31:9"),
        ("127.0.0.31:0", "0"),
        ("127.0.0.31:65536", "65536"),
        ("0.0.0.0:80", "'0.0.0.0'"),
        ("10.0.0.1:80", "'10.0.0.1'"),
        ("127.0.0.031:80", "'127.0.0.031'"),
        ("localhost:80", "'localhost'"),
        ("::1:80", "'::1:80'"),
        ("[::1]:80", "'[::1]'"),
        ("127.0.0.1\n:80", "'127.0.0.1\\n'"),
    ],
)
def test_a_port_elsewhere_is_not_published(text: str, seen: str) -> None:
    """Other addresses would let the neighbourhood in (HST-06)."""
    with pytest.raises(ConfigurationError) as caught:
        PublishedPort.parse(text)
    complaint(caught)
    assert caught.value.where == "publish"
    assert caught.value.seen.startswith(seen)


@pytest.mark.parametrize("port", [-1, 65536, "80", 8.0, True, None])
def test_the_machines_port_is_a_port(port: Any) -> None:
    """Or 0, by which the kernel chooses."""
    with pytest.raises(ConfigurationError) as caught:
        PublishedPort(machine_port=port)
    complaint(caught)
    assert (caught.value.where, caught.value.seen) == ("machine_port", repr(port))


@given(st.ip_addresses(network="127.0.0.0/8"), PORT)
def test_a_published_port_survives_its_own_spelling(address: object, port: int) -> None:
    """Every address of 127.0.0.0/8 will do."""
    parsed = PublishedPort.parse(f"{address}:{port}")
    assert parsed == PublishedPort(str(address), port)


@given(st.text())
def test_garbage_is_not_published(text: str) -> None:
    """No other error than ours."""
    with pytest.raises(ConfigurationError):
        PublishedPort.parse(text)


# -- the words of the marker --------------------------------------------------------------------


def test_without_words_a_bottle_is_the_plain_one() -> None:
    """One allowed name, an idle agent, an alias of the backend's choice."""
    spec = BottleSpec.from_words()
    assert spec == BottleSpec()
    assert spec.egress == DEFAULT_EGRESS == (EgressRoute("allowed.test"),)


def test_every_word_has_its_place() -> None:
    """As they stand in ``@pytest.mark.bottle(...)``."""
    spec = BottleSpec.from_words(
        egress=["packages.test:8443"],
        publish="127.0.0.30:8080",
        machine_port=9090,
        command=("sleep", "1000"),
        environment={"NAME": "value"},
        timeout=5,
    )
    assert spec == BottleSpec(
        egress=(EgressRoute("packages.test", (8443,)),),
        publish=PublishedPort("127.0.0.30", 8080, 9090),
        command=("sleep", "1000"),
        environment={"NAME": "value"},
        timeout=5,
    )


def test_an_empty_list_lets_nothing_through() -> None:
    """It is not taken for an absent one."""
    assert BottleSpec.from_words(egress=[]).egress == ()


@pytest.mark.parametrize(
    ("word", "value", "where"),
    [
        ("egress", "allowed.test", "egress"),
        ("egress", 5, "egress"),
        ("egress", [5], "egress"),
        ("egress", {"allowed.test"}, "egress"),
        ("egress", b"allowed.test", "egress"),
        ("egress", ["http://x"], "egress"),
        ("publish", 18080, "publish"),
        ("publish", "", "publish"),
        ("machine_port", "80", "machine_port"),
        ("command", "sleep 1000", "command"),
        ("command", None, "command"),
        ("command", ["a\0b"], "command"),
        ("environment", ["NAME=value"], "environment"),
        ("environment", {"NAME": 5}, "environment"),
        ("environment", {"": "value"}, "environment"),
        ("environment", {"A=B": "value"}, "environment"),
        ("environment", {"NAME": "a\0b"}, "environment"),
        ("timeout", 0, "timeout"),
        ("timeout", -1.5, "timeout"),
        ("timeout", math.inf, "timeout"),
        ("timeout", math.nan, "timeout"),
        ("timeout", "30", "timeout"),
        ("timeout", True, "timeout"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(word: str, value: Any, where: str) -> None:
    """Before anything is created, and with what was expected in its place."""
    with pytest.raises(ConfigurationError) as caught:
        BottleSpec.from_words(**{word: value})
    complaint(caught)
    assert caught.value.where == where


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=5,
)
WORDS = [field.name for field in dataclasses.fields(BottleSpec)] + ["machine_port"]


@given(st.sampled_from(WORDS), ANYTHING)
def test_garbage_in_a_word_is_a_configuration_error_or_nothing(word: str, value: Any) -> None:
    """Whatever a user puts there, no other error comes out."""
    refused: ConfigurationError | None = None
    try:
        BottleSpec.from_words(**{word: value})
    except ConfigurationError as error:
        refused = error
    assert refused is None or (refused.where and refused.seen)


def test_a_specification_does_not_change() -> None:
    """Neither by its owner nor by who gave the words."""
    environment = {"NAME": "value"}
    spec = BottleSpec.from_words(environment=environment)
    environment["NAME"] = "other"
    assert spec.environment == {"NAME": "value"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.timeout = 1  # type: ignore[misc]
