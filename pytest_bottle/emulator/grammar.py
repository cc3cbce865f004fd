"""The argv grammar of Apple's ``container``, for each version from 1.0.0 to 1.2.2.

``grammar.json`` has the commands, flags and positionals, as declared in the sources of those tags;
here are the rules of swift-argument-parser by which they are read.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The tags between which flags were added (apple/container).
VERSIONS: Final = ("1.0.0", "1.1.0", "1.2.0", "1.2.1", "1.2.2")
_PROGRAM: Final = "container"
#: What every command takes besides its own.
_EVERYWHERE: Final = (
    {"flag": "--debug"},
    {"flag": "--version"},
    {"flag": "--help", "short": "-h"},
)
_DNS: Final = ("--dns", "--dns-domain", "--dns-option", "--dns-search")
#: Commands that take names, or ``--all``; neither or both is no usage error but a refusal.
_NAMES_OR_ALL: Final = ("delete", "kill", "stop", "image delete", "volume delete", "network delete")


class UsageError(Exception):
    """A command line that ``container`` does not take.

    Attributes:
        command: the command it was read as, such as ``network create``; empty for none.
        usage: the lines that follow the message on stderr; empty where there are none.
        status: 64 (EX_USAGE); 1 where a command's own validation refuses it.
    """

    def __init__(self, message: str, *, command: str = "", usage: str = "", status: int = 64):
        super().__init__(message)
        self.command = command
        self.usage = usage
        self.status = status


class Parsed(NamedTuple):
    """A command line, taken apart.

    Attributes:
        command: its full name, such as ``network create``; empty or a group's where that has none.
        options: the values of each option that was given, by long name; a flag has an empty list.
            Of an option that takes one value the last counts, and is the only one here.
        positionals: the words of each positional, by the grammar's name.
    """

    command: str
    options: Mapping[str, Sequence[str]]
    positionals: Mapping[str, Sequence[str]]

    def has(self, flag: str) -> bool:
        """Whether an option was given."""
        return flag in self.options

    def one(self, flag: str, default: str = "") -> str:
        """The value of an option that has one."""
        values = self.options.get(flag)
        return values[-1] if values else default

    def all(self, flag: str) -> list[str]:
        """The values of an option that may be repeated, in the order they were given."""
        return list(self.options.get(flag, ()))

    def words(self, name: str) -> list[str]:
        """The words of a positional."""
        return list(self.positionals.get(name, ()))


def validate(version: str, argv: Sequence[str]) -> Parsed:
    """Read a command line as ``container`` of a version would.

    Args:
        version: one of :data:`VERSIONS`.
        argv: the words after the program's name.

    Returns:
        what it says; ``--help`` and ``--version`` are options like others, and end the reading.

    Raises:
        UsageError: that version refuses it before anything is done.
        ValueError: no such version is known.
    """
    name, words, asked = _find_command(commands(version), list(argv))
    if asked:
        return Parsed(name, {asked: []}, {})
    if name not in commands(version):
        return Parsed(name, {}, {})  # a group alone prints its help
    reading = _Reading(name, commands(version)[name])
    if reading.read(words):
        reading.check()
    return Parsed(name, reading.options, reading.positionals)


@functools.cache
def commands(version: str) -> dict[str, dict[str, Any]]:
    """The commands of a version by their full names, as ``grammar.json`` has them.

    Raises:
        ValueError: no such version is known.
    """
    if version not in VERSIONS:
        raise ValueError(f"the grammar of container {version!r} is not known: {VERSIONS}")
    found = {}
    for name, command in _load()["commands"].items():
        flags = [f for f in command["flags"] if f.get("since", VERSIONS[0]) <= version]
        found[name] = {**command, "flags": [*flags, *_EVERYWHERE]}
    return found


@functools.cache
def _load() -> dict[str, Any]:
    path = os.path.join(os.path.dirname(__file__), "grammar.json")
    with open(path, encoding="utf-8") as file:
        grammar: dict[str, Any] = json.load(file)
    return grammar


def usage(name: str, command: Mapping[str, Any]) -> str:
    """The lines that say how a command is used."""
    parts = [_PROGRAM, name, "[<options>]" if command["flags"] else ""]
    for positional in command["positionals"]:
        text = f"<{_dashed(positional['name'])}>"
        text += " ..." if positional.get("repeat") else ""
        parts.append(text if positional.get("required") else f"[{text}]")
    line = " ".join(part for part in parts if part)
    return f"Usage: {line}\n  See '{_PROGRAM} {name} --help' for more information."


def _dashed(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _find_command(
    known: Mapping[str, Mapping[str, Any]], words: list[str]
) -> tuple[str, list[str], str]:
    """Walk groups and aliases; returns the name, the words behind it, and a question asked."""
    groups: dict[str, list[str]] = _load()["groups"]
    name = ""
    while True:
        while words and words[0] == "--debug":
            words = words[1:]
        if not words:
            return name, [], ""
        word = words[0]
        if word in ("--help", "-h", "--version"):
            return name, [], "--version" if word == "--version" else "--help"
        found = _named(word, name, groups, known)
        if found is None:
            raise _no_command(name, word)
        name, words = found, words[1:]
        if name in known:
            return name, words, ""


def _named(
    word: str,
    group: str,
    groups: Mapping[str, Sequence[str]],
    known: Mapping[str, Mapping[str, Any]],
) -> str | None:
    """Find what a word names below a group: a group, a command, or an alias of one."""
    aliases = {name: command.get("aliases", ()) for name, command in known.items()}
    for name, others in {**groups, **aliases}.items():
        above, _, last = name.rpartition(" ")
        if above == group and word in (last, *others):
            return name
    return None


def _no_command(group: str, word: str) -> UsageError:
    if word.startswith("-"):
        return UsageError(f"Unknown option '{word}'", command=group, usage=_group_usage(group))
    if group:
        said = f"Unexpected argument '{word}'"
        return UsageError(said, command=group, usage=_group_usage(group))
    return UsageError(f"Plugin '{_PROGRAM}-{word}' not found")


def _group_usage(group: str) -> str:
    name = f"{_PROGRAM} {group}".strip()
    return f"Usage: {name} <subcommand>\n  See '{name} --help' for more information."


class _Reading:
    """The words of one command being read."""

    def __init__(self, name: str, command: Mapping[str, Any]) -> None:
        self._name = name
        self._command = command
        self._flags: dict[str, Mapping[str, Any]] = {}
        for flag in command["flags"]:
            for spelling in (flag["flag"], flag.get("short"), *flag.get("aliases", ())):
                self._flags[spelling] = flag
        self.options: dict[str, list[str]] = {}
        self.positionals: dict[str, list[str]] = {}

    def error(self, message: str, status: int = 64) -> UsageError:
        """Make the error that this command line gives."""
        shown = usage(self._name, self._command) if status == 64 else ""
        return UsageError(message, command=self._name, usage=shown, status=status)

    def read(self, words: list[str]) -> bool:
        """Sort the words into options and positionals; False if only help was asked for."""
        bare: list[str] = []
        words = list(words)
        while words:
            word = words.pop(0)
            if word == "--":
                bare += words
                break
            if word == "-" or not word.startswith("-"):
                bare.append(word)
                if self._command.get("passthrough"):
                    bare += words
                    break
            elif self._option(word, words):
                return False
        self._place(bare)
        return True

    def _option(self, word: str, words: list[str]) -> bool:
        """Read one option and its values; True if it asks for help or the version."""
        spelling, equals, value = word.partition("=")
        if spelling in self._flags:
            names = [spelling]
        elif not word.startswith("--") and not equals:
            names = [f"-{letter}" for letter in word[1:]]  # a pack; what follows are its values
        else:
            raise self.error(f"Unknown option '{spelling}'")
        for name in names:
            if name not in self._flags:
                raise self.error(f"Unknown option '{word}'")
            flag = self._flags[name]
            if flag["flag"] in ("--help", "--version"):
                self.options = {flag["flag"]: []}
                return True
            self._take(name, flag, value, words)
        return False

    def _take(self, spelling: str, flag: Mapping[str, Any], value: str, words: list[str]) -> None:
        if "value" not in flag:
            if value:
                raise self.error(f"The option '{spelling}' does not take any value, but '{value}'")
            self.options[flag["flag"]] = []
            return
        if not value:  # `--x=` is read as `--x`
            if not words or (words[0].startswith("-") and words[0] != "-"):
                raise self.error(f"Missing value for '{spelling} <{_dashed(flag['flag'][2:])}>'")
            value = words.pop(0)
        self._check_value(spelling, flag, value)
        earlier = self.options.get(flag["flag"], []) if flag.get("repeatable") else []
        self.options[flag["flag"]] = [*earlier, value]

    def _check_value(self, spelling: str, flag: Mapping[str, Any], value: str) -> None:
        choices = flag.get("choices")
        if (choices and value not in choices) or not _TYPES[flag["value"]](value):
            label = f"{spelling} <{_dashed(flag['flag'][2:])}>"
            raise self.error(f"The value '{value}' is invalid for '{label}'")

    def _place(self, bare: list[str]) -> None:
        """Give each positional its words."""
        for positional in self._command["positionals"]:
            name = positional["name"]
            taken = bare if positional.get("repeat") else bare[:1]
            bare = bare[len(taken) :]
            if taken:
                self.positionals[name] = taken
            elif positional.get("required"):
                several = " ..." if positional.get("repeat") else ""
                raise self.error(f"Missing expected argument '<{_dashed(name)}>{several}'")
        if bare:
            raise self.error(f"Unexpected argument '{bare[0]}'")

    def check(self) -> None:
        """Apply the rules that are about several parts at once."""
        for flag in self._command["flags"]:
            other = flag.get("excludes")
            if other in self.options and flag["flag"] in self.options:
                said = f"Value to be set with flag '{flag['flag']}' had already been set with flag"
                raise self.error(f"{said} '{other}'")
        given = [flag for flag in _DNS if flag in self.options]
        if given and "--no-dns" in self.options:
            raise self.error(f"`--no-dns` cannot be used with other DNS configuration: {given}")
        if self._name in _NAMES_OR_ALL:
            self._check_names()

    def _check_names(self) -> None:
        everything, named = "--all" in self.options, bool(self.positionals)
        kind = self._name.partition(" ")[0] if " " in self._name else "container"
        if not everything and not named:
            raise self.error(f"no {kind}s specified and --all not supplied", status=1)
        if everything and named:
            said = f"explicitly supplied {kind} IDs conflict with the --all flag"
            raise self.error(said, status=1)


def _integer(least: int, most: int) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        return bool(re.fullmatch(r"[+-]?[0-9]{1,20}", text)) and least <= int(text) <= most

    return holds


def _is_seconds(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text))


def _cidr(family: socket.AddressFamily, longest: int) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        address, _, length = text.partition("/")
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            return False
        return bool(re.fullmatch("[0-9]{1,3}", length)) and int(length) <= longest

    return holds


_TYPES: Final[Mapping[str, Callable[[str], bool]]] = {
    "String": lambda _: True,
    "Int": _integer(-(1 << 63), (1 << 63) - 1),
    "Int64": _integer(-(1 << 63), (1 << 63) - 1),
    "Int32": _integer(-(1 << 31), (1 << 31) - 1),
    "UInt32": _integer(0, (1 << 32) - 1),
    "seconds": _is_seconds,
    "CIDRv4": _cidr(socket.AF_INET, 32),
    "CIDRv6": _cidr(socket.AF_INET6, 128),
}
