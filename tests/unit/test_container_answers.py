"""What ``container`` prints: the documented shapes, and everything else."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pytest_bottle.backends.engines.macos_container import answers
from pytest_bottle.backends.running import Said
from pytest_bottle.errors import TransportError

#: As derived from Apple's source at 1.0.0; not captured.
CONTAINER: dict[str, Any] = {
    "configuration": {
        "id": "web-1",
        "labels": {"project": "x"},
        "networks": [{"network": "inner", "options": {"hostname": "web-1", "mtu": 1280}}],
    },
    "id": "web-1",
    "status": {
        "networks": [
            {
                "hostname": "web-1",
                "ipv4Address": "192.168.128.3/24",
                "ipv4Gateway": "192.168.128.1",
                "ipv6Address": "fd12:3456:789a:1:f8e1:2dff:fe00:1/64",
                "macAddress": "fa:e1:2d:00:00:01",
                "mtu": 1280,
                "network": "inner",
            }
        ],
        "startedDate": "2026-06-10T12:00:01Z",
        "state": "running",
    },
}
NETWORK: dict[str, Any] = {
    "configuration": {"labels": {}, "mode": "hostOnly", "name": "inner", "options": {}},
    "id": "inner",
    "status": {
        "ipv4Gateway": "192.168.128.1",
        "ipv4Subnet": "192.168.128.0/24",
        "ipv6Subnet": "fd12:3456:789a:1::/64",
    },
}


def said(stdout: bytes, status: int = 0) -> Said:
    """Make an answer of the program."""
    return Said("container list --all --format json", status, stdout, b"", "", 0.1)


def printed(value: object) -> Said:
    """Make an answer as Apple's encoder writes it: slashes are escaped."""
    return said(json.dumps(value).replace("/", r"\/").encode())


def test_a_running_container_is_read_with_its_legs() -> None:
    """The documented shape gives name, state, labels, and addresses without the prefix length."""
    (found,) = answers.containers(printed([CONTAINER]), "here")
    leg = answers.Attachment("inner", "192.168.128.3", "192.168.128.1")
    assert found == answers.Container("web-1", "running", {"project": "x"}, (leg,))


def test_a_network_is_read_and_ipv6_may_be_absent() -> None:
    """The documented shape gives mode and subnets; a network without IPv6 has an empty one."""
    without = deepcopy(NETWORK)
    del without["status"]["ipv6Subnet"]
    found = answers.networks(printed([NETWORK, without]), "here")
    assert [one.subnet6 for one in found] == ["fd12:3456:789a:1::/64", ""]
    assert {(one.mode, one.subnet, one.gateway) for one in found} == {
        ("hostOnly", "192.168.128.0/24", "192.168.128.1")
    }


def test_fields_that_nobody_knows_are_passed_over() -> None:
    """A version that adds fields is read as before."""
    more = {**CONTAINER, "news": {"of": ["tomorrow"]}}
    assert answers.containers(printed([more]), "here")[0].name == "web-1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("status", "state"), "hibernating"),
        (("status", "state"), 7),
        (("status",), "running"),
        (("status", "networks"), None),
        (("status", "networks", 0, "ipv4Address"), "192.168.128.3.4/24"),
        (("status", "networks", 0, "network"), ""),
        (("configuration", "labels"), ["project=x"]),
        (("configuration", "labels"), {"project": 7}),
        (("id",), True),
    ],
)
def test_a_field_of_another_shape_is_an_error_that_says_which(
    path: tuple[str | int, ...], value: object
) -> None:
    """An unknown state, the shape of an older version, or a wrong type is told with its place."""
    odd: Any = deepcopy(CONTAINER)
    inner = odd
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(TransportError, match="cannot be understood") as caught:
        answers.containers(printed([odd]), "here")
    assert f"at [0].{path[0]}" in str(caught.value)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (json.dumps([CONTAINER]).encode()[:-40], "JSON, whole"),
        (b"", "JSON, whole"),
        (b'[{"id": "\xff\xfe"}]', "UTF-8"),
        (b"[" * 100_000, "JSON"),
        (b'{"id": "web-1"}', "a list"),
        (b"[7]", "an object"),
        (b"null", "a list"),
    ],
)
def test_what_is_no_answer_quotes_the_call_and_keeps_all_of_it(
    output: bytes, expected: str
) -> None:
    """Truncated, empty, binary or foreign output is an error: command, status, bytes, file."""
    with pytest.raises(TransportError) as caught:
        answers.containers(said(output), "the Mac")
    error = caught.value
    assert "container list --all --format json (the Mac)" in error.where
    assert expected in error.expected
    assert "exit status 0" in error.seen
    path = Path(error.seen.rpartition("all of it: ")[2])
    try:
        assert output in path.read_bytes()
    finally:
        path.unlink()


def test_a_part_that_does_not_say_how_it_was_built_is_an_error() -> None:
    """The build alone tells an emulator from a Mac, so nobody guesses it."""
    part = {"appName": "container", "buildType": "release", "version": "1.2.2"}
    assert answers.components(printed([part]), "here") == (("container", "1.2.2", "release"),)
    del part["buildType"]
    with pytest.raises(TransportError, match="buildType") as caught:
        answers.components(printed([part]), "here")
    Path(caught.value.seen.rpartition("all of it: ")[2]).unlink()


def test_the_status_of_later_versions_is_read_by_its_one_word() -> None:
    """From 1.4.1 on ``system status`` has other fields around the same word."""
    later = printed({"status": "running", "server": {}, "paths": {"appRoot": "/x"}})
    assert answers.status(later, "here") == "running"
