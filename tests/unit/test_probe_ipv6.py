"""The probe's whole packets, router and DNS questions, judged by a real kernel (``alone6.py``)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.alone import FAR
from tests.alone6 import GARBLER, PREFIX, SERVER
from tests.probing import NONCE, look


@pytest.fixture(scope="module")
def alone(netns_works: None) -> dict[str, Any]:
    """What happened in a network of the probe's own."""
    return look("tests.alone6", "alone")


@pytest.fixture(scope="module")
def powerless(netns_works: None) -> dict[str, Any]:
    """What happened without any right to the network."""
    return look("tests.alone6")


# -- whole packets --------------------------------------------------------------------------------


def test_whole_packets_are_taken_for_what_they_say(alone: dict[str, Any]) -> None:
    """A kernel counts a reset for each SYN and an echo for each request, and no wrong checksum."""
    counted = alone["frames"]["counted"]

    assert [record["outcome"] for record in alone["frames"]["records"]] == ["sent"] * 6
    assert counted["Tcp:OutRsts"] == 2
    assert (counted["Icmp:InEchos"], counted["Icmp6InEchos"]) == (1, 1)
    assert not [name for name in counted if "CsumErrors" in name]


def test_a_datagram_made_whole_arrives_with_all_its_parts(alone: dict[str, Any]) -> None:
    """Prefix, nonce and suffix, from the port and the address that were asked for."""
    words, sources = f"ab{NONCE}c", [record["source"] for record in alone["frames"]["records"]]
    assert sources == [FAR] * 3 + ["fd00:1::1"] * 3  # FAR is this one host's, like all of it
    assert alone["frames"]["said"] == [[words, FAR, 53], [words, "fd00:1::1", 53]]


def test_a_hop_that_does_not_answer_is_no_block(alone: dict[str, Any]) -> None:
    """Nothing was sent then, so nothing may be concluded."""
    assert alone["nobody"]["outcome"] == "tool-error"
    assert "10.9.8.77 does not answer ARP" in alone["nobody"]["detail"]


@pytest.mark.parametrize("name", ["frame", "advertise"])
def test_packets_made_whole_need_the_right_to_send_them(
    powerless: dict[str, Any], name: str
) -> None:
    """A packet socket needs NET_RAW."""
    assert (powerless[name]["outcome"], powerless[name]["errno"]) == ("not-sendable", "EPERM")


# -- routers --------------------------------------------------------------------------------------


def test_who_listens_to_routers_takes_the_probes_word(alone: dict[str, Any]) -> None:
    """An address of the prefix and a default route appear, and only where they are listened to."""
    router = alone["router"]
    network = ip_network(f"{PREFIX}/64")
    mine = [one for one in router["after"]["addresses"] if ip_address(one["address"]) in network]

    assert (router["set"]["outcome"], router["sent"]["outcome"]) == ("answered", "sent")
    assert not router["before"]["there"]
    assert router["before"]["defaults"] == []
    assert router["after"]["there"]
    assert [one["device"] for one in mine] == ["far0"]
    assert router["after"]["defaults"] == ["far0 via fe80::bad:1"]


def test_settings_of_every_interface_are_read(alone: dict[str, Any]) -> None:
    """By name, as the kernel writes them."""
    settings = alone["router"]["after"]["accept_ra"]
    assert (settings["far0"], settings["near0"]) == ("2", "0")


def test_tables_need_no_right_to_be_read(powerless: dict[str, Any]) -> None:
    """The agent's own user reads them."""
    assert powerless["ipv6"]["outcome"] == "answered"


# -- names ----------------------------------------------------------------------------------------


def test_a_sweep_finds_resolvers_and_nobody_else(alone: dict[str, Any]) -> None:
    """A DNS message is an answer; rubbish and refusals are not."""
    answered = alone["names"]["sweep"]["answered"]
    assert GARBLER not in answered["udp"]
    assert answered == {"udp": [SERVER], "tcp": [SERVER]}
    assert alone["names"]["sweep"]["failed"] == {"ECONNREFUSED": 2}


def test_a_sweep_asks_each_address_for_a_name_of_its_own(alone: dict[str, Any]) -> None:
    """The place in the list stands in the name, so the far side can tell who passed it on."""
    assert alone["names"]["asked"] == ["t1.sweep.test 1", "u1.sweep.test 1"]


def test_a_lookup_asks_the_servers_of_the_guest(alone: dict[str, Any]) -> None:
    """By hand for both types of address, and through the C library."""
    record = alone["names"]["resolved"]

    assert record["servers"] == [SERVER]
    assert record["raw"] == {f"{SERVER} 1": "rcode 0", f"{SERVER} 28": "rcode 0"}
    assert record["library"] == {"outcome": "answered", "addresses": ["192.88.99.40"]}
    assert {"raw.test 1", "raw.test 28", "library.test 1"} <= set(alone["names"]["looked"])


def test_a_guest_without_servers_asks_itself(alone: dict[str, Any]) -> None:
    """That is what resolvers do then; nobody answers here."""
    record = alone["names"]["alone"]

    assert record["servers"] == []
    assert record["raw"] == {"127.0.0.1 1": "ECONNREFUSED", "127.0.0.1 28": "ECONNREFUSED"}
    assert record["library"]["outcome"] == "dns-failure"


def test_many_questions_are_asked_at_once(alone: dict[str, Any]) -> None:
    """Of any type and length; and a bare name gets the suffix that the library is told of."""
    record, heard = alone["names"]["ask"], alone["names"]["heard"]

    assert record["answers"] == {SERVER: ["rcode 0", "rcode 0"]}
    assert record["library"] == "192.88.99.40"
    assert {"one.test 16", f"{'x' * 63}.test 255", "bare.suffix.test 1"} <= set(heard)


def test_every_way_to_name_another_server_is_tried(alone: dict[str, Any]) -> None:
    """Files that can be written over, or covered, are used: the server named there is asked.

    The name in hosts leads to that server without a question; nobody listens at its port 443.
    """
    ways, told = alone["names"]["rewritten"]["ways"], alone["names"]["told"]

    assert ways == {
        **dict.fromkeys(("file", "mount"), "192.88.99.40"),
        "copy": "rcode 0",
        "hosts": "ECONNREFUSED",
        "variables": "192.88.99.40; alias: 192.88.99.40",
    }
    assert {f"{way}.ways.test 1" for way in ("file", "mount", "copy", "variables")} <= set(told)
    assert not any("hosts" in question for question in told)
