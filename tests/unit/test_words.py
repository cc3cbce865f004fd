"""The words of a bottle: what each means, what is said about a wrong one, and that all is said."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.backends.contract import DenialForm
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.spec import PLAIN, BottleSpec, EgressRoute, PublishedPort, SidecarSpec
from pytest_bottle.waiting import AllOf, AnyOf, Exec, File, Http, Log, Port
from pytest_bottle.words import MARKER_WORDS, read
from tests.bottle_words import specs, words_of

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"command": ["proxy"]}


def said(words: Any, over: BottleSpec = PLAIN, folder: object = "/") -> BottleSpec:
    """Read words, laid over the plain bottle."""
    return read(words, over, str(folder))


def complaints(words: Any, over: BottleSpec = PLAIN, folder: object = "/") -> tuple[str, ...]:
    """Read words that are refused; returns a line for each problem."""
    with pytest.raises(ConfigurationError) as caught:
        said(words, over, folder)
    for part in (caught.value.what, caught.value.where, caught.value.expected, caught.value.seen):
        assert part
    assert caught.value.lines
    return caught.value.lines


# -- what the words mean ------------------------------------------------------------------------


def test_without_words_a_bottle_is_what_lies_below() -> None:
    """Nothing said is nothing changed."""
    other = BottleSpec(environment={"NAME": "value"}, timeout=3)
    assert said({}) is PLAIN
    assert said({}, other) == other


def test_every_word_has_its_place(tmp_path: Path) -> None:
    """As they stand in ``bottle.yaml``."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "proxy.conf").write_text("Port 8888\n")
    words = {
        "rootfs": "rootfs",
        "command": ["sleep", "1000"],
        "user": "root",
        "environment": {"NAME": "value", "EMPTY": ""},
        "egress": {"routes": [{"host": "packages.test", "ports": [8443]}, "Other.test:80"]},
        "sidecar": {
            "command": ["tinyproxy", "-d"],
            "image": "proxy:1",
            "port": 8888,
            "user": "root",
            "files": {"/etc/a": "text", "/etc/b": {"from": "proxy.conf"}},
            "environment": {"A": "1"},
            "wait": {"log": "Initialized"},
            "denial": {"status": 451, "header": "Server"},
            "tls_opaque": True,
        },
        "ports": ["127.0.0.30:8080:8889"],
        "machine_port": 9090,
        "networks": {"internal": "10.89.0.0/24", "egress": "192.168.7.0/24"},
    }

    assert said(words, folder=tmp_path) == BottleSpec(
        rootfs=str(tmp_path / "rootfs"),
        command=("sleep", "1000"),
        user="root",
        environment={"NAME": "value", "EMPTY": ""},
        egress=(EgressRoute("packages.test", (8443,)), EgressRoute("other.test", (80,))),
        sidecar=SidecarSpec(
            command=("tinyproxy", "-d"),
            image="proxy:1",
            port=8888,
            user="root",
            files={"/etc/a": "text", "/etc/b": "Port 8888\n"},
            environment={"A": "1"},
            wait=Log("Initialized"),
            denial=DenialForm(451, "server"),
            tls_opaque=True,
        ),
        publish=PublishedPort("127.0.0.30", 8080, 9090, 8889),
        internal_subnet="10.89.0.0/24",
        egress_subnet="192.168.7.0/24",
    )


@pytest.mark.parametrize(
    ("egress", "routes"),
    [
        ([], ()),
        ({}, ()),
        ({"routes": []}, ()),
        (["a.test"], (EgressRoute("a.test"),)),
        (("a.test", {"host": "b.test"}), (EgressRoute("a.test"), EgressRoute("b.test"))),
        ([{"host": "a.test:8443"}], (EgressRoute("a.test", (8443,)),)),
        ([{"host": "[2620:4f:8000::7]", "ports": [22]}], (EgressRoute("2620:4f:8000::7", (22,)),)),
    ],
)
def test_egress_in_all_its_forms(egress: Any, routes: tuple[EgressRoute, ...]) -> None:
    """Short or in bot-bottle's words; what is not listed is denied, nothing listed is nothing."""
    assert said({"egress": egress}).egress == routes


@pytest.mark.parametrize(
    ("words", "port"),
    [
        ({"publish": "127.0.0.30:80"}, PublishedPort("127.0.0.30", 80)),
        ({"ports": ["127.0.0.30:80"]}, PublishedPort("127.0.0.30", 80)),
        ({"ports": []}, None),
        ({"machine_port": 9090}, PublishedPort(machine_port=9090)),
        ({"publish": "127.0.0.30:80", "machine_port": 1}, PublishedPort("127.0.0.30", 80, 1)),
        ({"sidecar": OWN}, None),
        ({"sidecar": OWN, "publish": "127.0.0.30:80:8"}, PublishedPort("127.0.0.30", 80, 0, 8)),
    ],
)
def test_what_is_published(words: Any, port: PublishedPort | None) -> None:
    """A sidecar of one's own publishes nothing unless it is told its port."""
    assert said(words).publish == port


@pytest.mark.parametrize(
    ("wait", "condition"),
    [
        ({"port": 8080}, Port(8080)),
        ({"port": 0}, Port()),
        ({"http": "/ready?x=1"}, Http("/ready?x=1")),
        ({"http": {"path": "/ready", "status": 204, "port": 81}}, Http("/ready", 204, 81)),
        ({"log": "listening on [0-9]+"}, Log("listening on [0-9]+")),
        ({"exec": ["test", "-e", "/run/ready", ""]}, Exec(("test", "-e", "/run/ready", ""))),
        ({"file": "/run/ready"}, File("/run/ready")),
        ({"all": [{"port": 1}, {"file": "/a"}]}, AllOf((Port(1), File("/a")))),
        ({"any": [{"all": [{"port": 1}]}, {"port": 2}]}, AnyOf((AllOf((Port(1),)), Port(2)))),
    ],
)
def test_when_a_sidecar_is_ready(wait: Any, condition: Any) -> None:
    """One condition, or a group of them."""
    assert said({"sidecar": {**OWN, "wait": wait}}).sidecar.wait == condition


def test_a_word_takes_the_place_of_the_same_word() -> None:
    """As a whole: nothing is merged, and what is not said stays."""
    over = BottleSpec(
        image="agent:1",
        environment={"A": "1"},
        internal_subnet="10.89.0.0/24",
        publish=PublishedPort("127.0.0.30", 80),
    )

    spec = said({"environment": {"B": "2"}, "networks": {"egress": "10.89.1.0/24"}}, over)

    assert spec == dataclasses.replace(
        over, environment={"B": "2"}, internal_subnet="", egress_subnet="10.89.1.0/24"
    )
    assert said({"machine_port": 9090}, over).publish == PublishedPort("127.0.0.30", 80, 9090)


def test_a_rootfs_takes_the_place_of_an_image(tmp_path: Path) -> None:
    """And the other way round: guests are made of one thing."""
    rootfs = said({"rootfs": tmp_path}, BottleSpec(image="agent:1"))
    assert (rootfs.image, rootfs.rootfs) == ("", str(tmp_path))
    assert said({"image": "agent:1"}, rootfs) == BottleSpec(image="agent:1")


def test_bot_bottles_env_is_the_environment() -> None:
    """Literals only: nobody is asked, and nothing of the machine's own environment is looked up."""
    assert said({"env": {"A": "1"}}).environment == {"A": "1"}
    assert said({"environment": {"A": "?x", "B": "${HOME}"}}).environment["B"] == "${HOME}"
    lines = complaints({"env": {"A": "?x", "B": "a${HOME}"}, "sidecar": {**OWN, "env": {"C": "?"}}})
    assert [line.split(":")[0] for line in lines] == ["env.A", "env.B", "sidecar.env.C"]


def test_a_specification_keeps_what_it_was_given() -> None:
    """Whoever gave the words may use them again."""
    environment = {"NAME": "value"}
    spec = said({"environment": environment})
    environment["NAME"] = "other"
    assert spec.environment == {"NAME": "value"}


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ({"egres": []}, "egres: there is no such word; did you mean 'egress'? expected one of: "),
        ({"timeout": 3}, "timeout: there is no such word: expected one of: image, rootfs, "),
        ({"routes": []}, "routes: there is no such word"),
        ({"extends": "base"}, "extends: there is no such word"),
        ([], "a mapping is needed: expected a mapping"),
        ({"image": ""}, "image: "),
        ({"image": "a b"}, "image: this is no name of an image"),
        ({"image": "--privileged"}, "image: this is no name of an image"),
        ({"image": 5}, 'image: this is no text: expected a text: put it in quotes, as in "5", se'),
        ({"image": "a", "rootfs": "/"}, "rootfs: this goes without image"),
        ({"rootfs": "nowhere"}, "rootfs: there is no such folder: expected a folder, here '/no"),
        ({"rootfs": "a\0b"}, "rootfs: this text will not do"),
        ({"rootfs": b"/"}, "rootfs: this is no text"),
        ({"command": "sleep 1000"}, "command: a list is needed: expected a list, such as "),
        ({"command": None}, "command: a list is needed: expected a list, such as "),
        ({"command": ["a", 5]}, "command[1]: this is no text"),
        ({"command": ["a\0b"]}, "command[0]: this text will not do"),
        ({"command": [""]}, "command[0]: this text will not do"),
        ({"command": ["\ud800"]}, "command[0]: this text will not do"),
        ({"user": "rot"}, "user: this is not known; did you mean 'root'? expected one of: agent, "),
        ({"user": 0}, "user: this is not known: expected one of: agent, root, seen 0"),
        ({"environment": ["A=1"]}, "environment: a mapping is needed"),
        ({"environment": {"A": 5}}, "environment.A: this is no text: expected a text: put it in q"),
        ({"environment": {"A": True}}, "environment.A: this is no text: expected a text: put it"),
        ({"environment": {"A": None}}, "environment.A: this is no text"),
        ({"environment": {"A": "a\0b"}}, "environment.A: this text will not do"),
        ({"environment": {"": "a"}}, "environment['']: this is no name of a variable"),
        ({"environment": {"A=B": "a"}}, "environment['A=B']: this is no name of a variable"),
        ({"environment": {5: "a"}}, "environment: a name is no text"),
        ({"env": {}, "environment": {}}, "env: this goes without environment"),
        ({"egress": "allowed.test"}, "egress: a list is needed"),
        ({"egress": 5}, "egress: a list is needed"),
        ({"egress": {"allowed.test"}}, "egress: a list is needed"),
        ({"egress": b"allowed.test"}, "egress: a list is needed"),
        ({"egress": [5]}, "egress[0]: a mapping is needed"),
        ({"egress": ["http://x"]}, "egress[0]: an egress route cannot be read: expected host"),
        ({"egress": {"routes": "a.test"}}, "egress.routes: a list is needed"),
        ({"egress": {"route": []}}, "egress.route: there is no such word; did you mean 'routes'?"),
        ({"egress": [{}]}, "egress[0]: this route has no host"),
        (
            {"egress": [{"hosts": "a"}]},
            "egress[0].hosts: there is no such word; did you mean 'ho",
        ),
        ({"egress": [{"host": "a.test", "dlp": False}]}, "egress[0].dlp: there is no such word"),
        ({"egress": [{"host": "a b"}]}, "egress[0].host: an egress route cannot be read"),
        ({"egress": [{"host": "a.test", "ports": 80}]}, "egress[0].ports: a list is needed"),
        ({"egress": [{"host": "a.test", "ports": []}]}, "egress[0].ports: this lets nothing thr"),
        ({"egress": [{"host": "a.test", "ports": [0]}]}, "egress[0].ports[0]: this is no port"),
        ({"egress": [{"host": "a.test", "ports": ["80"]}]}, "egress[0].ports[0]: this is no port"),
        ({"egress": [{"host": "a.test", "ports": [True]}]}, "egress[0].ports[0]: this is no port"),
        ({"egress": [{"host": "a.test:80", "ports": [80]}]}, "egress[0].host: an egress route"),
        ({"publish": 18080}, "publish: a published port cannot be read: expected address:port"),
        ({"publish": ""}, "publish: a published port cannot be read"),
        ({"publish": None}, "publish: a published port cannot be read"),
        ({"publish": "0.0.0.0:80"}, "publish: a published port must sit on a loopback address"),
        ({"publish": "127.0.0.30:80", "ports": []}, "publish: this goes without ports"),
        ({"ports": "127.0.0.30:80"}, "ports: a list is needed"),
        ({"ports": ["127.0.0.30:80"] * 2}, "ports: a bottle publishes one port"),
        ({"ports": ["127.0.0.30:80:8080"]}, "ports: the reference sidecar publishes its status"),
        ({"ports": ["127.0.0.30:80"], "sidecar": OWN}, "ports: a sidecar of your own has no stat"),
        ({"ports": [], "machine_port": 80}, "machine_port: no port is published"),
        ({"machine_port": "80"}, "machine_port: this is no port: expected a port, 0-65535, seen"),
        ({"machine_port": 65536}, "machine_port: this is no port"),
        ({"networks": {"internal": "10.0.0.0/8"}}, "networks.internal: a subnet will not do"),
        ({"networks": {"outer": "10.9.0.0/24"}}, "networks.outer: there is no such word"),
        (
            {"networks": {"internal": "10.9.0.0/16", "egress": "10.9.3.0/24"}},
            "networks: the networks of a bottle overlap",
        ),
        ({"sidecar": "tinyproxy"}, "sidecar: a mapping is needed"),
        ({"sidecar": {"port": 80}}, "sidecar: the reference sidecar is as it is: expected command"),
        ({"sidecar": {"comand": []}}, "sidecar.comand: there is no such word; did you mean 'comma"),
        ({"sidecar": {**OWN, "port": 0}}, "sidecar.port: this is no port"),
        ({"sidecar": {**OWN, "files": {"etc/a": "x"}}}, "sidecar.files['etc/a']: this is no place"),
        ({"sidecar": {**OWN, "files": {"/../a": "x"}}}, "sidecar.files['/../a']: this is no place"),
        ({"sidecar": {**OWN, "files": {"/a": 5}}}, "sidecar.files['/a']: this is no text"),
        (
            {"sidecar": {**OWN, "files": {"/a": {}}}},
            "sidecar.files['/a']: this says not which",
        ),
        (
            {"sidecar": {**OWN, "files": {"/a": {"from": "nowhere"}}}},
            "sidecar.files['/a'].from: there is no such file",
        ),
        ({"sidecar": {**OWN, "denial": {"status": 200}}}, "sidecar.denial.status: this is no stat"),
        ({"sidecar": {**OWN, "denial": {"header": "a b"}}}, "sidecar.denial.header: this is no na"),
        ({"sidecar": {**OWN, "tls_opaque": "yes"}}, "sidecar.tls_opaque: this is neither true nor"),
        ({"sidecar": {**OWN, "denial": {"header": ""}}}, "sidecar.denial.header: this text will"),
        ({"sidecar": {**OWN, "wait": 5}}, "sidecar.wait: a mapping is needed"),
        ({"sidecar": {**OWN, "wait": {}}}, "sidecar.wait: this is not one condition"),
        (
            {"sidecar": {**OWN, "wait": {"port": 1, "file": "/a"}}},
            "sidecar.wait: this is not one condition: expected one of: port: 8080, ",
        ),
        ({"sidecar": {**OWN, "wait": {"log": "["}}}, "sidecar.wait.log: this is no regular expr"),
        ({"sidecar": {**OWN, "wait": {"exec": []}}}, "sidecar.wait.exec: this runs nothing"),
        ({"sidecar": {**OWN, "wait": {"file": "a"}}}, "sidecar.wait.file: this is no place for"),
        ({"sidecar": {**OWN, "wait": {"all": []}}}, "sidecar.wait.all: this waits for nothing"),
        (
            {"sidecar": {**OWN, "wait": {"any": [{"prt": 1}]}}},
            "sidecar.wait.any[0].prt: there is no such word; did you mean 'port'?",
        ),
        ({"sidecar": {**OWN, "wait": {"http": {}}}}, "sidecar.wait.http: this says not what to"),
        ({"sidecar": {**OWN, "wait": {"http": "ready"}}}, "sidecar.wait.http: this is no path"),
        (
            {"sidecar": {**OWN, "wait": {"http": {"path": "/a", "status": 99}}}},
            "sidecar.wait.http.status: this is no status",
        ),
    ],
)
def test_a_word_that_makes_no_sense_is_named(words: Any, start: str) -> None:
    """With its path, what was expected in its place and what was seen."""
    lines = complaints(words)
    assert any(line.startswith(start) for line in lines), lines
    assert all(", seen " in line for line in lines)


def test_everything_wrong_is_told_at_once() -> None:
    """One error has a line for each problem, in nested words and in those that go together."""
    words = {
        "comand": ["a"],
        "user": "nobody",
        "egress": [{"host": "a b", "ports": [0, 80, "x"]}],
        "ports": ["127.0.0.30:80:8080"],
        "networks": {"internal": "x"},
    }

    places = [line.split(":")[0] for line in complaints(words)]

    assert sorted(places) == [
        "comand",
        "egress[0].host",
        "egress[0].ports[0]",
        "egress[0].ports[2]",
        "networks.internal",
        "ports",
        "user",
    ]


def test_the_message_answers_what_where_expected_and_seen() -> None:
    """One problem reads like every error of the package; several are listed."""
    with pytest.raises(ConfigurationError) as one:
        said({"user": "rot"})
    assert one.value.where == "user"
    assert one.value.seen == "'rot'"
    with pytest.raises(ConfigurationError) as two:
        said({"user": "rot", "image": ""})
    assert two.value.what == "2 things are wrong"
    assert all(line in str(two.value) for line in two.value.lines)


def test_an_overlay_is_judged_with_what_lies_below() -> None:
    """A word that makes no sense together with the file's is refused, where it stands."""
    over = said({"sidecar": OWN, "ports": ["127.0.0.30:80:8080"]})
    (line,) = complaints({"sidecar": {}}, over)
    assert line.startswith("sidecar: the reference sidecar publishes its status service and noth")
    assert said({"sidecar": {}, "ports": []}, over).publish is None


def test_a_file_of_a_sidecar_is_text(tmp_path: Path) -> None:
    """Other bytes, a folder and what is far too long are refused."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_bytes(b"a" * ((1 << 20) + 1))
    files = {f"/{name}": {"from": name} for name in ("bytes", "long", ".")}

    lines = complaints({"sidecar": {**OWN, "files": files}}, folder=tmp_path)

    assert "sidecar.files['/bytes'].from: this file cannot be read" in lines[0]
    assert len([line for line in lines if "there is no such file" in line]) == 2


def test_a_bomb_does_not_go_off() -> None:
    """What refers to itself, and what says the same thing a billion times, is refused at once."""
    itself: dict[str, Any] = {}
    itself["all"] = [itself, itself]
    laughs: Any = ["a.test"] * 10
    for _ in range(12):
        laughs = [laughs] * 10
    waits: Any = {"port": 1}
    for _ in range(15):
        waits = {"all": [waits] * 10}
    start = time.monotonic()

    for bomb in (itself, waits):
        lines = complaints({"sidecar": {**OWN, "wait": bomb}})
        assert "this says too much" in lines[-1]
    for word in MARKER_WORDS:
        assert max(map(len, complaints({word: laughs}))) < 2000

    assert time.monotonic() - start < 60


# -- properties ---------------------------------------------------------------------------------

_KEYS = (
    *(*MARKER_WORDS, "timeout", "routes", "host", "wait", "http", "path", "status", "port", "log"),
    *("exec", "file", "all", "any", "files", "from", "denial", "header", "internal", "dlp"),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_KEYS) | st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(ANYTHING | st.dictionaries(st.sampled_from(_KEYS), ANYTHING, max_size=4))
def test_anything_is_a_bottle_or_one_error(words: Any) -> None:
    """Whatever a user writes, no other exception comes out, and the error has something to say."""
    refused: ConfigurationError | None = None
    try:
        assert isinstance(said(words), BottleSpec)
    except ConfigurationError as error:
        refused = error
    assert refused is None or (refused.lines and all(", seen " in line for line in refused.lines))


@given(specs())
def test_a_specification_survives_its_own_words(spec: BottleSpec) -> None:
    """What was written down and read again is the same."""
    words = words_of(spec)
    timeout = words.pop("timeout")
    assert said(words, BottleSpec(timeout=timeout)) == spec


def _mappings(value: Any, path: str = "") -> list[tuple[dict[str, Any], str]]:
    """Find the mappings in which only certain words may stand, each with its path."""
    here: list[tuple[dict[str, Any], str]] = []
    if isinstance(value, dict):
        here = [(value, path)]
        for key, below in value.items():
            if key not in ("environment", "files"):
                here += _mappings(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, below in enumerate(value):
            here += _mappings(below, f"{path}[{number}]")
    return here


@given(specs(), st.data(), st.sampled_from(["x-unknown", "hostt", "a b", "comandd", "ALL"]))
def test_one_unknown_word_is_always_named(spec: BottleSpec, data: st.DataObject, key: str) -> None:
    """Wherever it stands, in an otherwise faultless document, with its path."""
    words = words_of(spec)
    words.pop("timeout")
    place, path = data.draw(st.sampled_from(_mappings(words)), "place")
    place[key] = "value"
    spelled = f"[{key!r}]" if " " in key else f".{key}"

    lines = complaints(words)

    expected = (path + spelled).removeprefix(".") + ": there is no such word"
    assert any(line.startswith(expected) for line in lines), (expected, lines)
