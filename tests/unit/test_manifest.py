"""``bottle.yaml`` as a file: what YAML makes of it, what is ignored, and how an error reads."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_bottle.errors import ConfigurationError
from pytest_bottle.manifest import load
from pytest_bottle.spec import PLAIN, BottleSpec, EgressRoute
from tests.bottle_words import specs, words_of

if TYPE_CHECKING:
    from pathlib import Path

IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is to be, seen from its own folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bottle.yaml"


def complaints(file: Path, text: str | bytes) -> tuple[str, ...]:
    """Load a file that is refused; returns a line for each problem."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert all(line.startswith(file.name) for line in caught.value.lines)
    return caught.value.lines


def test_a_file_is_a_bottle(file: Path) -> None:
    """Its words, its own folder for what it refers to, and nothing ignored."""
    file.write_text("command: [sleep, '1000']\negress:\n  routes:\n    - host: packages.test\n")

    manifest = load(file)

    expected = BottleSpec(command=("sleep", "1000"), egress=(EgressRoute("packages.test"),))
    assert manifest == (str(file), expected, ())


def test_paths_are_relative_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to where pytest was started."""
    (file.parent / "rootfs").mkdir()
    file.write_text("rootfs: ./rootfs\n")
    monkeypatch.chdir("/")

    assert load(file).spec.rootfs == str(file.parent / "rootfs")


def test_an_empty_mapping_is_the_plain_bottle(file: Path) -> None:
    """It says so; an empty file says nothing, and may be half of one."""
    file.write_text("{}\n")
    assert load(file).spec == PLAIN
    for nothing in ("", "# a comment\n", "---\n"):
        (line,) = complaints(file, nothing)
        assert "expected" in line


@IN_A_FOLDER
@given(spec=specs())
def test_a_specification_survives_a_file(file: Path, spec: BottleSpec) -> None:
    """What was written as YAML and read again is the same, whatever the texts in it look like."""
    file.write_text(yaml.safe_dump(words_of(spec)))

    manifest = load(file)

    assert manifest.spec == spec
    assert manifest.ignored == ()


@IN_A_FOLDER
@given(data=st.binary(max_size=200) | st.text("{}[]:-,*&!|>'\"#% \n\tab01<").map(str.encode))
def test_any_bytes_are_a_bottle_or_one_error(file: Path, data: bytes) -> None:
    """No other exception comes out, and every line of it begins with the file."""
    file.write_bytes(data)
    refused: ConfigurationError | None = None
    try:
        load(file)
    except ConfigurationError as error:
        refused = error
    assert refused is None or all(line.startswith("bottle.yaml") for line in refused.lines)


# -- errors -------------------------------------------------------------------------------------


def test_every_error_has_its_line_and_its_path(file: Path) -> None:
    """All at once, in the order of the file."""
    lines = complaints(
        file,
        """\
comand: [sleep]
user: rot
egress:
  routes:
    - host: allowed.test
    - host: other.test
      ports: [443, 80443]
sidecar:
  command: [proxy]
  wait:
    any:
      - port: 1
      - htpp: /ready
""",
    )

    assert [line.split(": ")[:2] for line in lines] == [
        ["bottle.yaml:1", "comand"],
        ["bottle.yaml:2", "user"],
        ["bottle.yaml:7", "egress.routes[1].ports[1]"],
        ["bottle.yaml:13", "sidecar.wait.any[1].htpp"],
        ["bottle.yaml:13", "sidecar.wait.any[1]"],
    ]
    assert "did you mean 'command'?" in lines[0]
    assert "expected a port, 1-65535, seen 80443" in lines[2]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "egress: [a.test\nuser: root\n",
            "bottle.yaml:2: it is no YAML at column 5: expected one ",
        ),
        ("a: b: c\n", "bottle.yaml:1: it is no YAML at column 5"),
        ("user: root\n\tcommand: []\n", "bottle.yaml:2: it is no YAML at column 1"),
        ("user: *who\n", "bottle.yaml:1: it is no YAML at column 7"),
        ("{}\n---\n{}\n", "bottle.yaml:2: it is no YAML at column 1"),
        ("user: \x07\n", "bottle.yaml: it is no YAML"),
        (
            b"user: root\nimage: \xff\n",
            "bottle.yaml:2: it is no text: expected UTF-8, seen byte 0x",
        ),
        ("- user\n", "bottle.yaml:1: a mapping is needed"),
        ("egress\n", "bottle.yaml:1: a mapping is needed"),
        ("", "bottle.yaml: it says nothing: expected words, or {} for the plain bottle"),
        ("a: " + "[" * 5000, "bottle.yaml: it is nested too deeply"),
        ("# " + "x" * (256 << 10), "bottle.yaml: it is too long: expected at most 262144 bytes"),
    ],
)
def test_what_is_no_yaml(file: Path, text: str | bytes, line: str) -> None:
    """The line and the column that the parser stumbled over."""
    (seen,) = complaints(file, text)
    assert seen.startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("machine_port: 080", "bottle.yaml:1: machine_port: this is no port: *, seen '080'"),
        ("machine_port: 0100", "*seen 0100 (which YAML reads as another number, or none)"),
        ("machine_port: 0x50", "*seen 0x50 (which YAML reads as another number, or none)"),
        ("machine_port: 1_000", "*seen 1_000 (which YAML reads as another number, or none)"),
        ("machine_port: 22:22", "*seen 22:22 (which YAML reads as another number, or none)"),
        ("machine_port: 80.0", "*this is no port*seen 80.0"),
        ("machine_port: " + "9" * 5000, "*this is no port*"),
        (
            "environment: {DEBUG: on}",
            '*environment.DEBUG: *put it in quotes, as in "on", seen on *',
        ),
        ("environment: {DEBUG: No}", '*environment.DEBUG: *put it in quotes, as in "No"*'),
        ("environment: {DEBUG: true}", '*environment.DEBUG: *put it in quotes, as in "true"*'),
        ("environment: {PORT: 8080}", '*environment.PORT: *put it in quotes, as in "8080"*'),
        ("environment: {MASK: 022}", '*environment.MASK: *put it in quotes, as in "022"*'),
        ("environment: {DAY: 2026-01-31}", '*put it in quotes, as in "2026-01-31"*'),
        ("environment: {DAY: 2026-99-99}", '*put it in quotes, as in "2026-99-99"*'),
        ("environment: {TIME: 12:30}", '*put it in quotes, as in "12:30"*'),
        ("environment: {PI: 3.14}", '*put it in quotes, as in "3.14"*'),
        ("environment: {A: }", "*environment.A: this is no text: expected a text*seen nothing"),
        ("environment: {A: ~}", "*environment.A: this is no text: expected a text*seen nothing"),
        ("command:", "*command: a list is needed*seen nothing"),
        ("user: ", "*user: this is not known: *seen nothing"),
        ("timeout: .inf", "*timeout: this is no timeout: expected seconds, 0.1-3600, seen *"),
        ("timeout: 1e3", "*timeout: this is no timeout: *seen '1e3'"),
        ("user: root\nuser: root", "bottle.yaml:2: user: this stands here twice: *"),
        ("<<: {user: root}", "bottle.yaml:1: merge keys are not read: *"),
        ("? [a]\n: b", "bottle.yaml:1: a name is no text: *"),
        ("user: !!binary cm9vdA==", "bottle.yaml:1: user: this kind of value is not known: *"),
        ("user: !mine root", "bottle.yaml:1: user: this kind of value is not known: *"),
        ("command: !!set {a, b}", "bottle.yaml:1: command: this kind of value is not known: *"),
        ("command: !!python/tuple [a]", "bottle.yaml:1: command: this kind of value *"),
    ],
)
def test_the_traps_of_yaml(file: Path, text: str, line: str) -> None:
    """What is not what it looks like is refused, and the remedy is named."""
    pytest.LineMatcher([*complaints(file, text)]).fnmatch_lines(line.replace("[", "[[]"))


def test_names_are_what_is_written(file: Path) -> None:
    """A variable can be called ON or 1, without quotes."""
    file.write_text("environment: {ON: 'a', 1: 'b', null: 'ü'}\n", encoding="utf-8")
    assert load(file).spec.environment == {"ON": "a", "1": "b", "null": "ü"}


def test_anchors_and_aliases_are_read(file: Path) -> None:
    """What stands once can be used twice."""
    file.write_text("command: &argv [sleep, '5']\nsidecar:\n  command: *argv\n")
    spec = load(file).spec
    assert spec.command == spec.sidecar.command == ("sleep", "5")


@pytest.mark.parametrize(
    "text",
    [
        "sidecar: {command: [a], wait: &a {all: [*a, *a]}}",
        "command: &a [*a]",
        "&a a: *a",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 50}]\n" for n in range(1, 30)),
        "w0: &a0 {port: 1}\n"
        + "".join(f"w{n}: &a{n} {{all: [{f'*a{n - 1},' * 50}]}}\n" for n in range(1, 15))
        + "sidecar: {command: [a], wait: *a14}",
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9}]}}\n" for n in range(1, 30)),
        "egress:\n- &a {host: a.test, ports: &p [" + "0," * 20000 + "]}\n" + "- *a\n" * 20000,
    ],
)
def test_a_bomb_does_not_go_off(file: Path, text: str) -> None:
    """Aliases make a small file say much; it is refused in no time, in a few lines."""
    start = time.process_time()  # ours alone: the machine may be busy
    lines = complaints(file, text)
    assert sum(map(len, lines)) < 50_000
    assert time.process_time() - start < 5


def test_a_file_that_is_not_there(file: Path) -> None:
    """The nearest one of its folder is named."""
    file.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"did you mean 'bottle\.yaml'\?") as caught:
        load(file.with_name("botle.yaml"))
    assert caught.value.where == "botle.yaml"
    assert "No such file" in caught.value.seen


def test_what_is_no_ordinary_file(file: Path) -> None:
    """A folder is refused, and so is a pipe, without waiting for somebody to write to it."""
    os.mkfifo(file)
    for path in (file, file.parent):
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert "it cannot be read" in caught.value.what


def test_a_file_elsewhere_is_named_in_full(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to where pytest was started as long as it is below."""
    file.write_text("user: me")
    monkeypatch.chdir("/")
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.lines[0].startswith(f"{str(file).removeprefix('/')}:1: user: ")
    monkeypatch.chdir("/usr")
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.lines[0].startswith(f"{file}:1: user: ")


# -- bot-bottle's own keys ----------------------------------------------------------------------

MANIFEST = """\
extends: [base, python]
agent_provider: {template: claude}
git-gate: {repos: {}}
git: {}
supervise: true
env:
  TOKEN: placeholder
egress:
  log: true
  allowlist: [old.test]
  routes:
    - host: packages.test
      role: x
      auth: {scheme: Bearer, token_ref: HOST_TOKEN}
      matches: [{methods: [GET]}]
      dlp: {outbound_on_match: block}
      git: {fetch: true}
      path_allowlist: [/simple]
"""


def test_bot_bottles_keys_are_ignored_by_name(file: Path) -> None:
    """Each in a line of its own, with its place and the reason; the rest of the file holds."""
    file.write_text(MANIFEST)

    manifest = load(file)

    assert manifest.spec == BottleSpec(
        egress=(EgressRoute("packages.test"),), environment={"TOKEN": "placeholder"}
    )
    assert {line.split(" is ignored: ")[0] for line in manifest.ignored} == {
        "bottle.yaml:1: extends",
        "bottle.yaml:2: agent_provider",
        "bottle.yaml:3: git-gate",
        "bottle.yaml:4: git",
        "bottle.yaml:5: supervise",
        "bottle.yaml:9: egress.log",
        "bottle.yaml:10: egress.allowlist",
        "bottle.yaml:13: egress.routes[0].role",
        "bottle.yaml:14: egress.routes[0].auth",
        "bottle.yaml:15: egress.routes[0].matches",
        "bottle.yaml:16: egress.routes[0].dlp",
        "bottle.yaml:17: egress.routes[0].git",
        "bottle.yaml:18: egress.routes[0].path_allowlist",
    }


@pytest.mark.parametrize("key", ["auth", "matches", "dlp", "git", "path_allowlist"])
def test_what_makes_it_more_permissive_is_said(file: Path, key: str) -> None:
    """A route without its restrictions lets through more than bot-bottle's own would."""
    file.write_text(f"egress: {{routes: [{{host: a.test, {key}: x}}]}}")
    (line,) = load(file).ignored
    assert line.endswith("so more gets through here than from a bottle of bot-bottle's")


def test_a_manifest_without_routes_lets_nothing_through(file: Path) -> None:
    """As in bot-bottle: what is not listed is denied."""
    file.write_text("egress: {allowlist: [a.test]}")
    assert load(file).spec.egress == ()


def test_bot_bottles_keys_are_known_in_their_place_only(file: Path) -> None:
    """Elsewhere they are words that do not exist."""
    (line,) = complaints(file, "dlp: false")
    assert line.startswith("bottle.yaml:1: dlp: there is no such word")


def test_an_unknown_word_beside_ignored_ones(file: Path) -> None:
    """Whatever else is ignored, it is still an error."""
    document: Any = yaml.safe_load(MANIFEST)
    document["egress"]["routes"][0]["mathces"] = []
    (line,) = complaints(file, yaml.safe_dump(document))
    assert "egress.routes[0].mathces: there is no such word" in line
