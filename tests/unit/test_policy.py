"""What the sidecar lets through: hosts, ports, request heads and addresses."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.guest.policy import (
    Config,
    Policy,
    Timeouts,
    address_allowed,
    canonical_host,
    is_literal,
    split_authority,
)

POLICY = Policy(
    [
        ("allowed.test", [80, 443]),
        ("packages.test", [8443]),
        ("192.88.99.9", [80]),
        ("2620:4f:8000::9", [80]),
    ]
)

ODD_IPV4 = [
    "2130706433",
    "017700000001",
    "0x7f.1",
    "0x7f000001",
    "0xc0a80001",
    "0X7F.0.0.1",
    "127.1",
    "127.0.1",
    "0",
    "0x",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.256",
    "1.2.3.4.5",
]
BAD_HOSTS = [
    *ODD_IPV4,
    "",
    ".",
    "..",
    "allowed.test..",
    ".allowed.test",
    "allowed..test",
    "allowed.test@denied.test",
    "denied.test%00.allowed.test",
    "denied.test%23.allowed.test",
    "denied.test\0.allowed.test",
    "allowed.test\t",
    " allowed.test",
    "allowed.test ",
    "allowed.test\r\n",
    "allowed.test\n",
    "allowed.test\x7f",
    "allowed.test:80",
    "allowed.test/",
    "allowed.test\\",
    "*.allowed.test",
    "*",
    "allowed。test",
    "ａllowed.test",
    "allowed.teſt",
    "-allowed.test",
    "a" * 64 + ".test",
    ".".join(["a" * 60] * 5),
    "[::1",
    "::1]",
    "[allowed.test]",
    "[127.0.0.1]",
    "fe80::1%eth0",
    "[fe80::1%25eth0]",
    "::ffff:127.1",
    "1::2::3",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_an_odd_spelling_is_a_bad_host(host: str) -> None:
    """What some reader could take for another host is refused, even where all hosts are let in."""
    assert POLICY.decide(host, 80) == (False, "bad-host", "")
    assert Policy([("*", [80])]).decide(host, 80).reason == "bad-host"


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("allowed.test", 80, "allowed"),
        ("allowed.test", 443, "allowed"),
        ("allowed.test", 22, "port-not-allowed"),
        ("allowed.test", 8443, "port-not-allowed"),
        ("packages.test", 8443, "allowed"),
        ("packages.test", 443, "port-not-allowed"),
        ("denied.test", 80, "not-allowed"),
        ("192.88.99.9", 80, "allowed"),
        ("192.88.99.10", 80, "not-allowed"),
        ("[2620:4f:8000::9]", 80, "allowed"),
        ("2620:4F:8000:0:0::9", 80, "allowed"),
        ("::1", 80, "not-allowed"),
    ],
)
def test_exact_hosts_and_their_ports(host: str, port: int, reason: str) -> None:
    """A route lets through its own host at its own ports."""
    decision = POLICY.decide(host, port)
    assert (decision.allowed, decision.reason) == (reason == "allowed", reason)


@pytest.mark.parametrize(
    "host",
    [
        "notallowed.test",
        "allowed.test.evil.test",
        "xallowed.test",
        "allowed-test",
        "a.allowed.test",
        "test",
        "allowed",
        "allowed.tes",
    ],
)
def test_neighbours_of_a_listed_name_are_not_listed(host: str) -> None:
    """Names that share a beginning or an end with a listed one are others (PXY-13)."""
    assert POLICY.decide(host, 80).reason == "not-allowed"


def test_no_routes_mean_no_way_out() -> None:
    """An empty policy denies everything (CVE-2025-66479)."""
    assert Policy([]).decide("allowed.test", 80).reason == "not-allowed"
    assert Policy([("allowed.test", [])]).decide("allowed.test", 80).reason == "port-not-allowed"


def test_the_weak_route_lets_every_host_through() -> None:
    """The mutant's ``*`` matches every host, at its own ports."""
    weak = Policy([("*", [80]), ("allowed.test", [443])])
    assert weak.decide("denied.test", 80).allowed
    assert weak.decide("192.88.99.1", 80).allowed
    assert weak.decide("allowed.test", 443).allowed
    assert weak.decide("denied.test", 443).reason == "port-not-allowed"


def test_routes_of_one_host_add_up() -> None:
    """Two routes that spell one host differently are routes of one host."""
    policy = Policy([("Allowed.test.", [80]), ("allowed.test", [443])])
    assert policy.decide("allowed.test", 80).allowed
    assert policy.decide("allowed.test", 443).allowed


@pytest.mark.parametrize(
    "route", [("127.1", [80]), ("", [80]), ("a.test", [0]), ("a.test", ["80"]), ("a.test", "80")]
)
def test_a_broken_route_is_no_policy(route: tuple[str, list[int]]) -> None:
    """A route that cannot be read stops the start instead of being skipped."""
    with pytest.raises(ValueError):
        Policy([route])


@given(st.sampled_from(["allowed.test", "packages.test", "denied.test"]), st.data())
def test_spelling_never_changes_the_verdict(name: str, data: st.DataObject) -> None:
    """Case and one trailing dot change nothing: neither the verdict nor the host to go on with."""
    flips = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    letters = [letter.upper() if flip else letter for letter, flip in zip(name, flips, strict=True)]
    spelled = "".join(letters) + data.draw(st.sampled_from(["", "."]))
    for port in (22, 80, 443, 8443):
        assert POLICY.decide(spelled, port) == POLICY.decide(name, port)


@given(st.ip_addresses(v=6), st.data())
def test_ipv6_spellings_are_one_host(address: ipaddress.IPv6Address, data: st.DataObject) -> None:
    """Long, short, upper case and bracketed forms of an IPv6 address have one canonical form."""
    spelled = data.draw(st.sampled_from([str(address), address.exploded]))
    spelled = data.draw(st.sampled_from([spelled, spelled.upper(), f"[{spelled}]"]))
    assert canonical_host(spelled) == str(address)


@given(st.text() | st.text("0123456789abfxAFXz.:%@[]-", max_size=20))
def test_garbage_is_denied_or_canonical(host: str) -> None:
    """Any text is refused or has a canonical form that stays as it is."""
    try:
        name = canonical_host(host)
    except ValueError:
        assert POLICY.decide(host, 80).reason == "bad-host"
        return
    assert canonical_host(name) == name
    assert is_literal(name) == _is_address(name)


@given(st.integers(0, 2**32 - 1))
def test_a_number_is_never_a_host(number: int) -> None:
    """Decimal, octal and hexadecimal forms of an address are refused (PXY-14)."""
    forms = (str(number), f"0{number:o}", hex(number), f"1.{number}", f"0x1.{number}")
    assert {POLICY.decide(form, 80).reason for form in forms} == {"bad-host"}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("allowed.test", ("allowed.test", 80)),
        ("allowed.test:8080", ("allowed.test", 8080)),
        ("[::1]", ("[::1]", 80)),
        ("[::1]:443", ("[::1]", 443)),
        ("", ("", 80)),
        (":80", ("", 80)),
    ],
)
def test_authorities_are_split(text: str, parts: tuple[str, int]) -> None:
    """A host and perhaps a port; whether the host makes sense is another question."""
    assert split_authority(text, 80) == parts


@pytest.mark.parametrize(
    "text", ["::1", "a:b", "a:", "a:1:2", "a@b", "u:p@a:80", "[::1]x", "a:123456", "a:٣", "[a]:+1"]
)
def test_other_texts_are_no_authority(text: str) -> None:
    """Naked IPv6 addresses, user information and odd ports are refused."""
    with pytest.raises(ValueError):
        split_authority(text, 80)


@pytest.mark.parametrize(
    ("method", "target", "status", "reason"),
    [
        ("GET", "http://allowed.test/a?b", 0, "allowed"),
        ("GET", "HTTP://ALLOWED.TEST./", 0, "allowed"),
        ("GET", "http://denied.test/", 403, "not-allowed"),
        ("GET", "http://allowed.test:22/", 403, "port-not-allowed"),
        ("GET", "http://allowed.test:0/", 403, "port-not-allowed"),
        ("GET", "http://allowed.test:99999/", 403, "port-not-allowed"),
        ("GET", "http://allowed.test@denied.test/", 403, "bad-host"),
        ("GET", "http://denied.test\\.allowed.test/", 403, "bad-host"),
        ("GET", "http://allowed.test:80:80/", 403, "bad-host"),
        ("GET", "http:///", 403, "bad-host"),
        ("GET", "/", 400, "origin-form"),
        ("GET", "/http://allowed.test/", 400, "origin-form"),
        ("OPTIONS", "*", 400, "bad-target"),
        ("GET", "allowed.test", 400, "bad-target"),
        ("GET", "http:allowed.test", 400, "bad-target"),
        ("GET", "http://allowed.test/#@denied.test", 400, "bad-target"),
        ("GET", "https://allowed.test/", 400, "scheme-not-supported"),
        ("GET", "ftp://allowed.test/", 400, "scheme-not-supported"),
        ("CONNECT", "allowed.test:443", 0, "allowed"),
        ("CONNECT", "allowed.test", 400, "bad-target"),
        ("CONNECT", "allowed.test:8443", 403, "port-not-allowed"),
        ("CONNECT", "http://allowed.test:443", 403, "bad-host"),
        ("CONNECT", "allowed.test:443/", 403, "bad-host"),
        ("CONNECT", "/", 400, "bad-target"),
        ("PRI", "*", 400, "bad-target"),
    ],
)
def test_targets(method: str, target: str, status: int, reason: str) -> None:
    """Absolute-form and the authority-form of CONNECT are judged, other forms refused."""
    assert POLICY.judge(method, target, "1.1", {})[:2] == (status, reason)


@pytest.mark.parametrize(
    ("method", "target", "path"),
    [
        ("GET", "http://allowed.test", "/"),
        ("GET", "http://allowed.test?a=/b", "/?a=/b"),
        ("GET", "http://allowed.test//denied.test/", "//denied.test/"),
        ("OPTIONS", "http://allowed.test", "*"),
        ("CONNECT", "allowed.test:443", ""),
    ],
)
def test_paths_for_the_origin(method: str, target: str, path: str) -> None:
    """The origin gets the target without scheme and authority (RFC 9112 section 3.2)."""
    assert POLICY.judge(method, target, "1.1", {}).path == path


@pytest.mark.parametrize(
    ("target", "host", "agrees"),
    [
        ("http://allowed.test/", "allowed.test", True),
        ("http://allowed.test/", "ALLOWED.test.:80", True),
        ("http://allowed.test/", "denied.test", False),
        ("http://denied.test/", "allowed.test", False),
        ("http://allowed.test/", "allowed.test:8080", False),
        ("http://packages.test:8443/", "packages.test", False),
        ("http://packages.test:8443/", "packages.test:8443", True),
        ("http://allowed.test/", "", False),
        ("http://allowed.test/", "x@allowed.test", False),
        ("http://allowed.test/", "allowed.test\xa0", False),
    ],
)
def test_host_and_target_agree(target: str, host: str, agrees: bool) -> None:
    """A Host that names another authority than the target is refused (PXY-04)."""
    verdict = POLICY.judge("GET", target, "1.1", {"host": host})
    assert (verdict.reason != "host-mismatch") == agrees
    assert agrees or verdict.status == 400


def test_the_host_of_a_connect_may_leave_the_port_out() -> None:
    """Some clients send the bare name; another port or name is a disagreement all the same."""
    hosts = ("allowed.test", "allowed.test:443", "allowed.test:80", "denied.test:443")
    statuses = [
        POLICY.judge("CONNECT", "allowed.test:443", "1.1", {"host": host}).status for host in hosts
    ]
    assert statuses == [0, 0, 400, 400]


@pytest.mark.parametrize(
    ("method", "version", "names"),
    [
        ("POST", "1.1", ("content-length", "transfer-encoding")),
        ("POST", "1.0", ("transfer-encoding",)),
        ("CONNECT", "1.1", ("content-length",)),
        ("CONNECT", "1.1", ("transfer-encoding",)),
    ],
)
def test_ambiguous_framing_is_refused(method: str, version: str, names: tuple[str, ...]) -> None:
    """Two lengths, chunks in HTTP/1.0 and content of a CONNECT are refused (PXY-06)."""
    target = "allowed.test:443" if method == "CONNECT" else "http://allowed.test/"
    verdict = POLICY.judge(method, target, version, dict.fromkeys(names, "5"))
    assert verdict[:2] == (400, "ambiguous-framing")


def test_other_versions_are_refused() -> None:
    """HTTP/2 in clear has no business here."""
    assert POLICY.judge("GET", "http://allowed.test/", "2.0", {})[:2] == (400, "bad-request")


PUBLIC = ["192.88.99.4", "1.1.1.1", "2620:4f:8000::4", "2606:4700::1111", "100.63.255.255"]
REFUSED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "100::1",
    "2001:2::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "64:ff9b:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


def carriers(address: str) -> list[str]:
    """The IPv6 addresses that carry an IPv4 address."""
    number = int(ipaddress.IPv4Address(address))
    good, turned = int(ipaddress.IPv4Address("1.1.1.1")), number ^ 0xFFFFFFFF
    numbers = [
        number,
        0xFFFF << 32 | number,
        0x64FF9B << 96 | number,
        0x2002 << 112 | number << 80 | 1,
        0x20010000 << 96 | number << 64 | good ^ 0xFFFFFFFF,
        0x20010000 << 96 | good << 64 | turned,
    ]
    return [str(ipaddress.IPv6Address(number)) for number in numbers]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    """Global unicast addresses pass, and among them the lab's own."""
    assert address_allowed(address)


@pytest.mark.parametrize("address", REFUSED)
def test_inward_and_special_addresses_are_refused(address: str) -> None:
    """What is not globally routable is not dialled, whatever the routes say (PXY-10)."""
    assert not address_allowed(address)


@given(st.ip_addresses(v=4))
def test_an_ipv6_carrier_is_as_good_as_what_it_carries(address: ipaddress.IPv4Address) -> None:
    """Mapped, compatible, NAT64, 6to4 and Teredo addresses are judged by the address inside."""
    verdicts = {address_allowed(carrier) for carrier in carriers(str(address))}
    assert verdicts == {address_allowed(str(address))}


@given(st.ip_addresses())
def test_nothing_passes_that_python_calls_special(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """As a second opinion: an address that passes is global to the standard library as well."""
    carried = isinstance(address, ipaddress.IPv6Address) and (
        int(address) >> 32 in (0, 0xFFFF, 0x64FF9B << 64) or address.sixtofour or address.teredo
    )
    if address_allowed(str(address)) and not carried:
        assert address.is_global
        assert not address.is_multicast


def test_exceptions_are_networks_as_written() -> None:
    """An exception lets its own addresses pass and says nothing about their IPv6 carriers."""
    exceptions = ["127.0.0.0/8", "fd00::/8"]
    assert address_allowed("127.0.0.1", exceptions)
    assert address_allowed("fd00::1", exceptions)
    assert not address_allowed("10.0.0.1", exceptions)
    assert not address_allowed("::ffff:127.0.0.1", exceptions)


CONFIG = Config(
    [("allowed.test", (80, 443))], ("192.88.99.53", 53), ["127.0.0.0/8"], Timeouts(connect=1.0)
)


def test_a_configuration_survives_json() -> None:
    """What goes to the sidecar's process arrives as it was."""
    again = Config.from_json(json.loads(json.dumps(CONFIG.to_json())))
    assert again == CONFIG


def test_only_routes_and_resolver_are_needed() -> None:
    """Everything else has a default, and the default makes no exceptions."""
    config = Config.from_json({"routes": [], "resolver": ["192.88.99.53", 53]})
    assert config == Config([], ("192.88.99.53", 53))
    assert not config.address_exceptions


@pytest.mark.parametrize(
    "change",
    [
        {"routes": None},
        {"routes": [["127.1", [80]]]},
        {"routes": [["allowed.test", "80"]]},
        {"routes": ["allowed.test"]},
        {"resolver": None},
        {"resolver": ["dns.test", 53]},
        {"address_exceptions": ["10.0.0.1/8"]},
        {"address_exceptions": "everything"},
        {"timeouts": {"conect": 1}},
        {"timeouts": {"connect": "soon"}},
        {"allow": []},
    ],
)
def test_a_broken_configuration_is_refused(change: dict[str, object]) -> None:
    """A missing, unknown or senseless field stops the start (PXY-21)."""
    with pytest.raises(ValueError):
        Config.from_json({**CONFIG.to_json(), **change})


@pytest.mark.parametrize("field", ["routes", "resolver"])
def test_a_missing_policy_is_refused(field: str) -> None:
    """A configuration without routes is not one with none."""
    data = CONFIG.to_json()
    del data[field]
    with pytest.raises(ValueError):
        Config.from_json(data)
