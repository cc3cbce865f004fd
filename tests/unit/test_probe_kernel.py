"""What the probe's raw packets and requests come to, judged by a real kernel (see ``alone.py``)."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_bottle.guest.probe.direct import HANDMADE
from tests.alone import FAR, NEAR, NOBODY, NONCE
from tests.probing import look

SYN_ACK, RST_ACK = 0x12, 0x14


@pytest.fixture(scope="module")
def alone(netns_works: None) -> dict[str, Any]:
    """What happened in a network of the probe's own."""
    return look("tests.alone", "alone")


@pytest.fixture(scope="module")
def powerless(netns_works: None) -> dict[str, Any]:
    """What happened without any right to the network."""
    return look("tests.alone")


def test_a_syn_is_taken_for_one(alone: dict[str, Any]) -> None:
    """An open port answers with SYN and ACK, a closed one with a reset."""
    opened, closed = alone["sweep"]["ports"]
    assert dict(alone["sweep"]["whole"]) == {opened: SYN_ACK, closed: RST_ACK}


def test_a_syn_with_a_wrong_checksum_is_not(alone: dict[str, Any]) -> None:
    """The control of the other tests: this kernel does look at checksums."""
    assert alone["sweep"]["broken"] == []


def test_a_sweep_reaches_every_port(alone: dict[str, Any]) -> None:
    """Each of 65,535 SYNs is whole and gets its reset, by the kernel's own count."""
    record = alone["every port"]
    assert (record["outcome"], record["count"]) == ("sent", 65535)
    assert (record["OutRsts"], record["InCsumErrors"]) == (65535, 0)


def test_a_sweep_of_datagrams_reaches_every_port(alone: dict[str, Any]) -> None:
    """The kernel's own count agrees, but for the sender's own port: nobody reads there."""
    record = alone["every udp port"]
    assert (record["outcome"], record["count"], record["received"]) == ("sent", 65535, 65534)


def test_echo_requests_of_every_kind_are_answered(alone: dict[str, Any]) -> None:
    """ICMP and ICMPv6, by a ping socket and by a raw one."""
    assert alone["echo requests"] == [{"outcome": "answered", "echo": True}] * 4


def test_who_is_on_the_link_answers_arp(alone: dict[str, Any]) -> None:
    """Every address of the network is asked for, and its owner's link address is recorded."""
    neighbours, far = alone["arp"]["neighbours"], alone["arp"]["far"]
    assert neighbours == {NEAR: far, FAR: far}  # both ends of the cable are this one host's


def test_a_packet_goes_by_the_next_hop_it_is_given(alone: dict[str, Any]) -> None:
    """The route of one destination leads to a link address of the test's choice."""
    assert alone["handed over"] == ["02:00:00:00:00:01 192.88.99.7"]


def test_changes_of_the_network_are_done_for_who_may(alone: dict[str, Any]) -> None:
    """The control of the refusals: these requests are well-formed (PRV-02)."""
    assert set(alone["changes"]["answers"].values()) == {"done"}


def test_changes_of_the_network_are_refused_to_who_may_not(
    alone: dict[str, Any], powerless: dict[str, Any]
) -> None:
    """The same requests, and the kernel's word for each is EPERM."""
    answers = powerless["changes"]["answers"]
    assert answers.keys() == alone["changes"]["answers"].keys()
    assert set(answers.values()) == {"EPERM"}


def test_a_packet_for_loopback_is_put_on_the_wire(alone: dict[str, Any]) -> None:
    """A kernel that takes such packets finds them whole: a datagram, and a SYN that it answers."""
    came = alone["on the wire"]
    assert came["udp"] == [NONCE, NOBODY]
    assert came["tcp"] == [[NOBODY, HANDMADE]]
    assert came["other"] == []  # of another port it says nothing


def test_who_may_enter_a_namespace_does(alone: dict[str, Any]) -> None:
    """The control of the refusals: the probe's own process is there, and its owner may (HST-08)."""
    assert "done" in alone["entered"]


@pytest.mark.parametrize("name", ["icmp", "sweep", "arp", "via", "frame"])
def test_without_the_right_nothing_is_sent(powerless: dict[str, Any], name: str) -> None:
    """A raw socket, a packet socket and a route of one's own need a capability."""
    assert (powerless[name]["outcome"], powerless[name]["errno"]) == ("not-sendable", "EPERM")


#: What a kernel says that was built without.
_MISSING = {"EPROTONOSUPPORT", "ENOPROTOOPT", "EOPNOTSUPP", "EAFNOSUPPORT", "ENOENT"}


def test_filters_are_changed_for_who_may_and_put_back(alone: dict[str, Any]) -> None:
    """What nftables and tc make is gone again; the legacy tables get as far as looking at it."""
    answers = alone["powers"]["filters"]
    assert {answers[name] for name in ("nftables", "tc")} <= {"done", *_MISSING}
    legacy = {answers[name] for name in ("iptables", "ip6tables", "ebtables")}
    assert legacy <= {"EINVAL", *_MISSING}
    assert not {"done", "EPERM"} & set(alone["powers"]["left"])


def test_filters_are_refused_to_who_may_not(
    alone: dict[str, Any], powerless: dict[str, Any]
) -> None:
    """The same requests, and the kernel's word is EPERM, but for what it was built without."""
    may, answers = alone["powers"]["filters"], powerless["powers"]["filters"]
    assert answers.keys() == may.keys()
    assert {answers[name] for name in may if may[name] not in _MISSING} == {"EPERM"}


def test_raw_sockets_are_for_who_may(alone: dict[str, Any], powerless: dict[str, Any]) -> None:
    """Each is opened with the right to it, and EPERM without; a missing device is ENOENT to all."""
    may, answers = alone["powers"]["raw"], powerless["powers"]["raw"]
    sockets = ("SOCK_RAW IPv4", "SOCK_RAW IPv6", "AF_PACKET")
    assert {may[name] for name in sockets} == {"done"}
    assert {answers[name] for name in sockets} == {"EPERM"}
    assert {one["/dev/null"] for one in (may, answers)} == {"done"}
    assert {one["/dev/bottle-missing"] for one in (may, answers)} == {"ENOENT"}
