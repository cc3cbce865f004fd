"""Rows of a user's own policy: how they read, and how everything wrong with them is told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.conformance.rows import checks_of
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.manifest import load
from pytest_bottle.rows import MOST_PORTS, MOST_ROWS, Row, Target
from pytest_bottle.spec import PLAIN
from pytest_bottle.words import read

if TYPE_CHECKING:
    from pathlib import Path

IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
NAME = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z](\.[a-z]{2,8}){0,2}", fullmatch=True)
HOSTS = NAME | st.sampled_from(["203.0.113.7", "10.0.0.1", "2001:db8::7", "fd00::1"])
TARGETS = st.one_of(
    st.builds(
        Target,
        HOSTS,
        st.lists(st.integers(1, 65535), min_size=1, max_size=5, unique=True).map(
            lambda ports: tuple(sorted(ports))
        ),
        st.sampled_from(["tcp", "udp"]),
    ),
    st.builds(Target, HOSTS, st.just(()), st.just("icmp")),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is to be, seen from itself."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder: Path, policy: object) -> tuple[Row, ...]:
    """Read the rows of a file."""
    (folder / "bottle.yaml").write_text(yaml.safe_dump({"policy": policy}))
    return load(folder / "bottle.yaml").spec.policy


def complaints(folder: Path, policy: object) -> list[str]:
    """Read rows that are refused; returns the lines without file and number."""
    with pytest.raises(ConfigurationError) as caught:
        rows(folder, policy)
    found = [re.match(r"bottle\.yaml:\d+: (.*)", line) for line in caught.value.lines]
    assert all(found), caught.value.lines
    return [one[1] for one in found if one]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("db.internal:5432/tcp", Target("db.internal", (5432,), "tcp")),
        ("DB.Internal.:80,443-445/udp", Target("db.internal", (80, 443, 444, 445), "udp")),
        ("db/icmp", Target("db", (), "icmp")),
        ("203.0.113.7:22/tcp", Target("203.0.113.7", (22,), "tcp")),
        ("[2001:DB8::7]:22/tcp", Target("2001:db8::7", (22,), "tcp")),
        ("2001:db8::7/icmp", Target("2001:db8::7", (), "icmp")),
        ("[2001:db8::7]/icmp", Target("2001:db8::7", (), "icmp")),
    ],
)  # fmt: skip
def test_what_a_row_is_about(text: str, target: Target) -> None:
    """A name, an IPv4 or an IPv6 address, with ports or as an echo request."""
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@given(TARGETS)
def test_a_target_survives_its_own_spelling(target: Target) -> None:
    """What is printed can be read again and is the same."""
    assert Target.parse(str(target)) == target


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.:\[\]/,-]{1,30}", fullmatch=True))
def test_any_text_is_a_target_or_one_error(text: str) -> None:
    """Nothing else comes out of it, whatever was written."""
    target: Target | None = None
    refused: ConfigurationError | None = None
    try:
        target = Target.parse(text)
    except ConfigurationError as error:
        refused = error
    assert target is None or Target.parse(str(target)) == target
    assert refused is None or (refused.expected and refused.seen)


def test_what_a_row_says_without_saying_it(folder: Path) -> None:
    """It is the agent's, direct unless it is TCP that is allowed, and has the ID of its place."""
    first, second, third, fourth = rows(
        folder,
        [
            {"to": "db.internal:5432/tcp", "expect": "blocked"},
            {"id": "USER-PKG", "to": "packages.test:443/tcp", "expect": "allowed"},
            {"to": "time.test:123/udp", "expect": "allowed", "from": "sidecar"},
            {"to": "web.test:443/tcp", "expect": "allowed", "via": "direct"},
        ],
    )

    assert first == Row("USER-1", Target("db.internal", (5432,), "tcp"), "blocked")
    assert (second.id, second.origin, second.via) == ("USER-PKG", "agent", "proxy")
    assert (third.id, third.origin, third.via) == ("USER-3", "sidecar", "direct")
    assert fourth.via == "direct"


@IN_A_FOLDER
@given(st.lists(st.tuples(TARGETS, st.sampled_from(["blocked", "allowed"])), max_size=4))
def test_rows_survive_a_file(folder: Path, said: list[tuple[Target, str]]) -> None:
    """What was written as YAML and read again is the same, and the rest of the bottle is plain."""
    found = rows(folder, [{"to": str(to), "expect": expect} for to, expect in said])

    assert [(row.target, row.expect) for row in found] == said
    assert len({row.id for row in found}) == len(said)


def test_everything_wrong_is_told_at_once(folder: Path) -> None:
    """Each mistake has its own line, with its path, what is expected, and the nearest word."""
    lines = complaints(
        folder,
        [
            {"id": "NET-01", "from": "agnet", "to": "db.internal:5432", "expect": "block"},
            {"id": "USER-x", "to": "127.0.0.1:80/tcp", "expect": "blocked"},
            {"id": "USER-A", "to": "a.test:99999/tcp", "expect": "blocked"},
            {"id": "USER-A", "to": "a.test:80/tpc", "expect": "blocked"},
            {"from": "sidecar", "to": "a.test:80/tcp", "expect": "allowed", "via": "proxy"},
            {"to": "a.test:53/udp", "expect": "blocked", "via": "proxy", "form": "agent"},
            {"to": "[2001:db8::7]:53/udp", "expect": "blocked", "from": "privileged"},
            {"id": "USER-6", "to": "a.test:53/udp", "expect": "blocked"},
            7,
            {},
        ],
    )  # fmt: skip

    starts = [
        "policy[0].id: this ID is the catalogue's: expected an ID of your own, such as USER-NET-01",
        "policy[0].from: this is not known; did you mean 'agent'? expected one of: agent, ",
        "policy[0].expect: this is not known; did you mean 'blocked'? expected one of: blocked, ",
        "policy[0].to: this is nothing that can be reached: expected host:port/tcp, ",
        "policy[1].id: this is no ID of a row: expected USER- and up to 32 of ",
        "policy[1].to: this is nothing that can be reached: expected the address of one host ",
        "policy[2].to: this is nothing that can be reached: expected ports from 1 to 65535",
        "policy[3].id: this ID stands here twice: ",
        "policy[3].to: the protocol 'tpc' is not known; did you mean 'tcp'? ",
        "policy[4].via: only the agent has a proxy: expected via: direct, seen from: sidecar",
        "policy[5].via: a proxy carries nothing but tcp: expected via: direct, ",
        "policy[5].form: there is no such word; did you mean 'from'?",
        "policy[6].to: the privileged probe hands packets to the gateway, ",
        "policy[7].id: this ID stands here twice: ",
        "policy[8]: a mapping is needed: ",
        "policy[9]: this row says nothing of 'to': ",
        "policy[9]: this row says nothing of 'expect': ",
    ]  # fmt: skip
    missing = [start for start in starts if not any(line.startswith(start) for line in lines)]
    assert not missing, lines
    assert len(lines) == len(starts)
    assert all(", seen " in line for line in lines)


@pytest.mark.parametrize(
    ("policy", "start"),
    [
        ({"to": "a.test:1/tcp"}, "policy: a list is needed"),
        ("a.test:1/tcp", "policy: a list is needed"),
        ([{"to": 5432, "expect": "blocked"}], "policy[0].to: this is no text"),
        ([{"to": f"a.test:1-{MOST_PORTS + 1}/tcp", "expect": "blocked"}], "policy[0].to: this is "),
        (
            [{"to": "a.test:1/tcp", "expect": "blocked"}] * (MOST_ROWS + 1),
            "policy: these are too many rows: expected at most 100, seen 101",
        ),
        ([{"to": "a.test:0/tcp", "expect": "blocked"}], "policy[0].to: this is "),
        ([{"to": "a.test:9-8/tcp", "expect": "blocked"}], "policy[0].to: this is "),
        ([{"to": "a.test:80/icmp", "expect": "blocked"}], "policy[0].to: this is "),
        ([{"to": "224.0.0.1/icmp", "expect": "blocked"}], "policy[0].to: this is "),
        ([{"to": "fe80::1/icmp", "expect": "blocked"}], "policy[0].to: this is "),
    ],
)
def test_what_makes_no_sense(folder: Path, policy: Any, start: str) -> None:
    """It is refused, in a line of its own."""
    (line, *_) = complaints(folder, policy)
    assert line.startswith(start)


def test_a_marker_takes_no_rows() -> None:
    """They are the suite's: a test's bottle does not silently swallow them, and says so."""
    with pytest.raises(ConfigurationError) as caught:
        read({"policy": [], "comand": ["x"]}, PLAIN, "/")

    assert (
        "policy: rows are judged by the suite, not in a test: expected them in bottle.yaml"
        in (caught.value.lines[0])
    )
    assert "comand" in caught.value.lines[1]
    assert "policy" not in caught.value.lines[1]


def test_a_row_is_a_check_outside_of_the_registry() -> None:
    """With an ID, a title and a requirement of its own; what the catalogue has stays as it is."""
    before = all_checks()
    (check,) = checks_of([Row("USER-DB", Target.parse("db.internal:5432/tcp"), "blocked")])

    assert check.id == "USER-DB"
    assert check.title == "db.internal:5432/tcp is blocked from the agent, directly"
    assert "does not reach the far side" in check.requirement
    assert all_checks() == before
