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
    PLAIN,
    SPIKE_ALIAS,
    SPIKE_PORT,
    BottleSpec,
    EgressRoute,
    PublishedPort,
    SidecarSpec,
    subnet,
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


@pytest.mark.parametrize("target", ["0", "65536", "x", "", "-1", "8080:1"])
def test_the_port_of_the_sidecar_is_a_port(target: str) -> None:
    """What a published port leads to is written behind it, and nothing more."""
    assert PublishedPort.parse("127.0.0.31:18080:8080") == PublishedPort(SPIKE_ALIAS, target=8080)
    with pytest.raises(ConfigurationError) as caught:
        PublishedPort.parse(f"127.0.0.31:18080:{target}")
    complaint(caught)


# -- the whole ----------------------------------------------------------------------------------


def test_the_plain_bottle() -> None:
    """One allowed name, an idle agent, an alias of the backend's choice, the reference sidecar."""
    spec = BottleSpec()
    assert spec == PLAIN
    assert spec.egress == DEFAULT_EGRESS == (EgressRoute("allowed.test"),)
    assert (spec.command, spec.user, spec.image, spec.rootfs) == ((), "agent", "", "")
    assert spec.sidecar.is_reference
    assert not SidecarSpec(command=("proxy",)).is_reference
    assert not SidecarSpec(image="proxy:1").is_reference


@pytest.mark.parametrize("timeout", [0, -1.5, math.inf, math.nan, "30", True, None])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    """Nobody waits for ever, or not at all."""
    with pytest.raises(ConfigurationError) as caught:
        BottleSpec(timeout=timeout)
    complaint(caught)
    assert caught.value.where == "timeout"


@pytest.mark.parametrize("text", ["10.89.0.0/16", "172.31.255.248/29", "192.168.128.0/24"])
def test_a_subnet_is_private(text: str) -> None:
    """RFC 1918, large enough for two guests and small enough for a pool."""
    assert str(subnet(text, "networks")) == text
    assert BottleSpec(internal_subnet=text).internal_subnet == text


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/8",
        "10.89.0.0/15",
        "10.89.0.0/30",
        "10.89.0.0/32",
        "10.89.0.0",
        "10.89.0.1/24",
        "10.89.0.0/255.255.255.0",
        "10.89.0/24",
        "010.89.0.0/24",
        "192.0.2.0/24",
        "198.18.0.0/16",
        "127.0.0.0/16",
        "100.64.0.0/16",
        "172.32.0.0/16",
        "172.16.0.0/11",
        "169.254.0.0/16",
        "224.0.0.0/24",
        "fd00::/64",
        "10.89.0.0/24\n",
        "x",
        " ",
    ],
)
def test_other_subnets_are_refused(text: str) -> None:
    """Public addresses, those with a meaning, bits of a host, odd spellings, wrong sizes."""
    for word in ("internal_subnet", "egress_subnet"):
        with pytest.raises(ConfigurationError) as caught:
            dataclasses.replace(PLAIN, **{word: text})  # type: ignore[arg-type]
        complaint(caught)
        assert caught.value.where.startswith("networks.")
        assert caught.value.seen == repr(text)


def test_the_networks_of_a_bottle_do_not_overlap() -> None:
    """The sidecar could not tell them apart."""
    assert BottleSpec(internal_subnet="10.89.0.0/24", egress_subnet="10.89.1.0/24")
    for egress in ("10.89.0.0/24", "10.89.0.128/25", "10.89.0.0/16"):
        with pytest.raises(ConfigurationError) as caught:
            BottleSpec(internal_subnet="10.89.0.0/24", egress_subnet=egress)
        complaint(caught)
        assert caught.value.where == "networks"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"image": "agent:1", "rootfs": "/srv/agent"}, "rootfs"),
        ({"user": "nobody"}, "user"),
        ({"publish": PublishedPort(target=8080)}, "publish"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], where: str) -> None:
    """However a specification is made, by hand and by ``dataclasses.replace`` too."""
    with pytest.raises(ConfigurationError) as caught:
        dataclasses.replace(PLAIN, **change)
    complaint(caught)
    assert caught.value.where == where


@pytest.mark.parametrize(("change", "where"), [({"port": 0}, "port"), ({"user": "me"}, "user")])
def test_a_sidecar_is_checked_too(change: dict[str, Any], where: str) -> None:
    """It listens somewhere, as somebody."""
    with pytest.raises(ConfigurationError) as caught:
        SidecarSpec(command=("proxy",), **change)
    complaint(caught)
    assert caught.value.where == f"sidecar.{where}"


def test_a_specification_does_not_change() -> None:
    """Whoever has one can rely on it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.timeout = 1  # type: ignore[misc]
