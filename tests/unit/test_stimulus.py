"""Stimuli as data: what the probe is told, and what tells one from another."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.stimulus import (
    Frame,
    Icmp,
    Key,
    Shot,
    Stimulus,
    Tcp,
    Udp,
    Web,
    aimed_at,
    new_nonce,
    sendable,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

ALL: list[Stimulus] = [
    Tcp("192.88.99.7", 443),
    Udp("192.88.99.7", 53, "c000", answers=True),
    Icmp("192.88.99.7", raw=True),
    Frame("192.88.99.7", "udp", 53, "c000", source=53),
    Web("192.88.99.7", "allowed.test"),
    Web("", "allowed.test"),
]


def shot(stimulus: Stimulus, **more: object) -> Shot:
    """A shot of the agent."""
    return Shot("one", Vantage.AGENT, stimulus, User.AGENT, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stimulus", "key"),
    [
        (Tcp("192.88.99.7", 443), Key(4, "tcp", 443)),
        (Tcp("2620:4f:8000::7", 22), Key(6, "tcp", 22)),
        (Udp("192.88.99.7", 53), Key(4, "udp", 53)),
        (Udp("2620:4f:8000::7", 53), Key(6, "udp", 53)),
        (Icmp("192.88.99.7"), Key(4, "icmp", 0)),
        (Icmp("2620:4f:8000::7", raw=True), Key(6, "icmp", 0)),
        (Web("", "allowed.test"), Key(4, "tcp", 443)),
        (Web("2620:4f:8000::7", "allowed.test"), Key(6, "tcp", 443)),
    ],
)
def test_a_key_is_what_a_network_can_tell(stimulus: Stimulus, key: Key) -> None:
    """Family, protocol and port: a control has to share them."""
    assert stimulus.key == key


def test_each_kind_tells_the_probe_what_to_do() -> None:
    """In the words of the probe's operations."""
    assert shot(Tcp("192.88.99.7", 443)).operation().items() >= {
        ("kind", "tcp"),
        ("host", "192.88.99.7"),
        ("port", 443),
    }
    assert shot(Udp("192.88.99.7", 53, "c000", answers=True)).operation().items() >= {
        ("kind", "udp"),
        ("host", "192.88.99.7"),
        ("port", 53),
        ("prefix", "c000"),
        ("answers", True),
    }
    assert shot(Icmp("192.88.99.7", raw=True)).operation().items() >= {
        ("kind", "icmp"),
        ("host", "192.88.99.7"),
        ("raw", True),
    }


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("192.88.99.7", "https://192.88.99.7/"),
        ("2620:4f:8000::7", "https://[2620:4f:8000::7]/"),
        ("", "https://n1.allowed.test/"),
    ],
)
def test_the_nonce_of_a_web_request_is_in_its_name(host: str, url: str) -> None:
    """Where DNS and TLS carry it in the clear; at an address the certificate is not asked for."""
    operation = shot(Web(host, "allowed.test"), nonce="n1").operation()
    assert operation["kind"] == "http"
    assert operation["url"] == url
    assert operation["sni"] == "n1.allowed.test"
    assert operation["headers"] == {"Host": "n1.allowed.test"}
    assert operation["proxy"] is None
    assert operation["insecure"] is bool(host)


@pytest.mark.parametrize("stimulus", ALL)
def test_a_shot_says_who_when_and_by_what_nonce(stimulus: Stimulus) -> None:
    """Every operation has the shot's name, nonce and delay, and travels as JSON."""
    one = shot(stimulus, delay=0.25)
    operation = one.operation()
    assert (operation["id"], operation["nonce"], operation["delay"]) == ("one", one.nonce, 0.25)
    assert "via" not in operation
    assert json.loads(json.dumps(operation)) == operation
    assert "%s" not in json.dumps(operation)


def test_a_shot_may_have_a_next_hop() -> None:
    """For a privileged probe that does not trust the routing table."""
    assert shot(ALL[0], via="10.0.0.1").operation()["via"] == "10.0.0.1"


def test_every_shot_has_a_nonce_of_its_own() -> None:
    """32 lower-case hexadecimal digits, which fit into a DNS label."""
    nonces = {shot(ALL[0]).nonce for _ in range(100)} | {new_nonce()}
    assert len(nonces) == 101
    assert all(len(nonce) == 32 and {*nonce} <= {*string.hexdigits.lower()} for nonce in nonces)


@pytest.mark.parametrize("stimulus", ALL)
def test_a_stimulus_can_be_aimed_elsewhere(stimulus: Stimulus) -> None:
    """Everything but the destination stays the same."""
    other = aimed_at(stimulus, "192.88.99.8")
    assert type(other) is type(stimulus)
    assert other.host == "192.88.99.8"
    assert aimed_at(other, stimulus.host) == stimulus
    assert other.key == stimulus.key


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_an_address_has_the_witness_own_spelling(address: IPv4Address | IPv6Address) -> None:
    """However it was written: or else a leak to it would not be recognised."""
    wanted = str(getattr(address, "ipv4_mapped", None) or address)
    for spelling in (str(address), str(address).upper(), address.exploded):
        for stimulus in (Tcp(spelling, 1), Udp(spelling, 1), Icmp(spelling), Web(spelling, "x")):
            assert stimulus.host == wanted


@pytest.mark.parametrize(
    ("text", "host", "family"),
    [
        ("2620:004F:8000:0::7", "2620:4f:8000::7", 6),
        ("::ffff:192.88.99.7", "192.88.99.7", 4),
        ("fe80::1%eth0", "fe80::1%eth0", 6),
    ],
)
def test_odd_spellings_of_an_address_become_one(text: str, host: str, family: int) -> None:
    """An IPv4 address inside IPv6 goes out as IPv4, and is looked for as such."""
    assert Tcp(text, 1).host == host
    assert Tcp(text, 1).key.family == family


@pytest.mark.parametrize("host", ["", "allowed.test", "1.1", "2130706433", "1.1.1.1/32", "[::1]"])
def test_a_name_is_no_destination_of_a_bare_stimulus(host: str) -> None:
    """Nobody would listen where it leads, and silence there would look like a block."""
    for make in (lambda: Tcp(host, 1), lambda: Udp(host, 1), lambda: Icmp(host)):
        with pytest.raises(ConfigurationError, match="IPv4 or IPv6 address") as caught:
            make()
        assert caught.value.seen == repr(host)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    """Before anything is sent."""
    for make in (lambda: Tcp("1.1.1.1", port), lambda: Udp("1.1.1.1", port)):
        with pytest.raises(ConfigurationError, match="0-65535"):
            make()


def test_a_frame_needs_no_stack_and_an_open_guest_sends_the_same() -> None:
    """What a guest without privileges sends in its place has the same key and the same words."""
    query = Frame("192.88.99.7", "udp", 53, "00", "01", source=53)
    others = [Frame("2620:4f:8000::7", "tcp", 443), Frame("2620:4f:8000::7", "icmp")]

    assert sendable(query) == Udp("192.88.99.7", 53, "00", suffix="01", source=53)
    assert [sendable(frame) for frame in others] == [
        Tcp("2620:4f:8000::7", 443),
        Icmp("2620:4f:8000::7"),
    ]
    assert [sendable(frame).key for frame in others] == [frame.key for frame in others]


@pytest.mark.parametrize(
    "stimulus", [Tcp("192.88.99.7", 443, mapped=True), Udp("192.88.99.7", 443, mapped=True)]
)
def test_a_mapped_address_is_asked_for_by_an_ipv6_socket(stimulus: Stimulus) -> None:
    """The probe is told the long form; the witness will hear IPv4, which is what the key says."""
    assert stimulus.operation()["host"] == "::ffff:192.88.99.7"
    assert (stimulus.key.family, stimulus.host) == (4, "192.88.99.7")
