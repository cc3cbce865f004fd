"""The argv grammar of Apple's ``container``: what each version takes, and what it refuses."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.emulator import grammar
from pytest_bottle.emulator.grammar import UsageError, validate

VERSIONS = ("1.0.0", "1.2.2")


def refused(argv: list[str], version: str = "1.0.0") -> UsageError:
    """Return the error that a command line gives."""
    with pytest.raises(UsageError) as caught:
        validate(version, argv)
    return caught.value


@pytest.mark.parametrize("version", VERSIONS)
def test_a_command_line_is_taken_apart(version: str) -> None:
    """Options in any of their forms, then the image, and all behind it verbatim."""
    argv = [
        *("--debug", "run", "-d", "--name=web-1", "--network", "out", "--network", "in"),
        *(
            "-e",
            "A=1",
            "-e=B=2",
            "--cwd",
            "/srv",
            "example.test/image:1",
            "sh",
            "-c",
            "x",
            "--",
            "-d",
        ),
    ]
    parsed = validate(version, argv)
    assert parsed.command == "run"
    assert parsed.has("--detach")
    assert parsed.one("--name") == "web-1"
    assert parsed.all("--network") == ["out", "in"]
    assert parsed.all("--env") == ["A=1", "B=2"]
    assert parsed.one("--workdir") == "/srv"
    assert parsed.words("image") == ["example.test/image:1"]
    assert parsed.words("arguments") == ["sh", "-c", "x", "--", "-d"]


def test_an_option_behind_the_image_is_the_programs() -> None:
    """A misplaced --network is no option any more, and no error either."""
    parsed = validate("1.0.0", ["run", "example.test/image", "--network", "inner"])
    assert not parsed.has("--network")
    assert parsed.words("arguments") == ["--network", "inner"]


def test_two_dashes_before_the_image_are_dropped_and_behind_it_kept() -> None:
    """`run --rm -- IMG cmd` runs cmd; `run IMG -- cmd` runs a program called --."""
    before = validate("1.0.0", ["run", "--rm", "--", "img", "cmd"])
    assert before.words("image") + before.words("arguments") == ["img", "cmd"]
    assert validate("1.0.0", ["run", "img", "--", "cmd"]).words("arguments") == ["--", "cmd"]


def test_packs_of_short_flags_are_split() -> None:
    """-it is -i -t; what a pack's options need follows in words of their own, in order."""
    parsed = validate("1.0.0", ["run", "-dit", "img"])
    assert {"--detach", "--interactive", "--tty"} <= set(parsed.options)
    parsed = validate("1.0.0", ["run", "-dew", "A=1", "/srv", "img"])
    assert (parsed.all("--env"), parsed.one("--workdir")) == (["A=1"], "/srv")


def test_the_last_of_a_single_option_wins() -> None:
    """An option that takes one value may stand there twice."""
    assert validate("1.0.0", ["run", "--name", "a1", "--name", "b1", "img"]).one("--name") == "b1"


def test_an_empty_value_takes_the_next_word() -> None:
    """`--name=` is read as `--name`; an empty word of its own is an empty value."""
    assert validate("1.0.0", ["run", "--name=", "img", "x1"]).one("--name") == "img"
    assert validate("1.0.0", ["run", "--entrypoint", "", "img"]).one("--entrypoint") == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "--privileged", "img"], "Unknown option '--privileged'"),
        (["run", "--rm=yes", "img"], "does not take any value"),
        (["run", "--name", "-x", "img"], "Missing value for '--name <name>'"),
        (["run", "--cpus", "many", "img"], "The value 'many' is invalid"),
        (["run", "-nx", "img"], "Unknown option '-nx'"),
        (["run", "--net", "x", "img"], "Unknown option '--net'"),
        (["run"], "Missing expected argument '<image>'"),
        (["exec", "web-1"], "Missing expected argument '<arguments> ...'"),
        (["start", "a1", "b1"], "Unexpected argument 'b1'"),
        (["list", "--format", "xml"], "The value 'xml' is invalid"),
        (["network", "create", "--subnet", "10.0.0.0", "x"], "The value '10.0.0.0' is invalid"),
        (["network", "connect", "x", "y"], "Unexpected argument 'connect'"),
        (["network", "delete", "--force", "x"], "Unknown option '--force'"),
        (["run", "--no-dns", "--dns", "192.0.2.1", "img"], "--no-dns"),
        (["system", "start", "--enable-kernel-install", "--disable-kernel-install"], "already"),
        (["compose", "up"], "Plugin 'container-compose' not found"),
    ],
)
def test_what_is_refused_exits_64(argv: list[str], said: str) -> None:
    """A usage error says what is wrong, and how the command is used."""
    error = refused(argv)
    assert said in str(error)
    assert error.status == 64
    assert error.usage.startswith("Usage: container ") or error.command == ""


@pytest.mark.parametrize("command", ["delete", "stop", "kill", "network delete"])
def test_neither_names_nor_all_exits_1(command: str) -> None:
    """A command's own validation refuses with status 1 and without usage."""
    for more in ([], ["--all", "name-1"]):
        error = refused([*command.split(), *more])
        assert (error.status, error.usage) == (1, "")


def test_versions_differ_by_the_flags_that_were_added() -> None:
    """1.0.0 refuses what 1.2.0 and 1.2.1 brought; 1.2.2 takes it."""
    for flag in ("--kernel-arg", "--masked-path", "--read-only-path"):
        assert f"Unknown option '{flag}'" in str(refused(["run", flag, "x", "img"]))
        assert validate("1.2.2", ["run", flag, "x", "img"]).all(flag) == ["x"]
    refused(["run", "--masked-path", "x", "img"], "1.2.0")


def test_what_was_never_there_is_refused_by_both() -> None:
    """No version has these, although other engines do."""
    names = "sysctl security-opt hostname add-host ip restart network-alias device pull"
    for version in VERSIONS:
        for name in names.split():
            refused(["run", f"--{name}", "x", "img"], version)


def test_aliases_and_groups() -> None:
    """Short names of commands and groups lead to the same commands; a group alone is no error."""
    assert validate("1.0.0", ["ls", "-a"]).command == "list"
    assert validate("1.0.0", ["n", "rm", "x"]).command == "network delete"
    assert validate("1.0.0", ["s", "dns", "list"]).command == "system dns list"
    assert validate("1.0.0", ["network"]).command == "network"


def test_help_and_version_end_the_reading() -> None:
    """Whatever else is wrong, they are answered; behind the image they are the program's."""
    assert validate("1.0.0", ["--version"]).has("--version")
    assert validate("1.0.0", ["run", "--help"]).has("--help")
    assert validate("1.0.0", ["network", "-h"]).has("--help")
    assert validate("1.0.0", ["run", "img", "--help"]).words("arguments") == ["--help"]


def test_an_unknown_version_is_no_usage_error() -> None:
    """Nobody has read the grammar of another version."""
    with pytest.raises(ValueError, match=r"9\.9\.9"):
        validate("9.9.9", ["list"])


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_words_are_taken_or_refused(argv: list[str]) -> None:
    """There is no command line that the grammar fails on."""
    for start in ([], ["run"], ["network", "create"], ["exec"]):
        with suppress(UsageError):
            assert validate("1.2.2", [*start, *argv]).command.startswith(" ".join(start))


@given(st.lists(st.text(max_size=8), max_size=6))
def test_what_follows_the_image_comes_through_unchanged(words: list[str]) -> None:
    """The program's words are nobody else's, whatever they look like."""
    parsed = validate("1.0.0", ["run", "--rm", "img", *words])
    assert parsed.words("arguments") == words


def test_every_value_of_an_option_can_be_given_behind_an_equals_sign() -> None:
    """`--x=v` is taken for each option with a value, of every command and version."""
    samples = {"UInt32": "1", "Int": "1", "Int64": "1", "Int32": "1", "seconds": "1"}
    samples |= {"String": "-v", "CIDRv4": "192.0.2.0/24", "CIDRv6": "2001:db8::/64"}
    for version in grammar.VERSIONS:
        for name, command in grammar.commands(version).items():
            positionals = ["x" for one in command["positionals"] if one.get("required")]
            names = ["x"] if name in grammar._NAMES_OR_ALL else positionals
            for flag in command["flags"]:
                if "value" in flag:
                    value = flag.get("choices", [samples[flag["value"]]])[0]
                    argv = [*name.split(), f"{flag['flag']}={value}", *names]
                    assert validate(version, argv).one(flag["flag"]) == value
