"""``bottle-command.yaml``: read whole, every error at once, before any command line is run."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.command.orders import (
    ADDRESSED,
    FAULTS,
    PLACES,
    SAID,
    VERBS,
    WORDS,
    Orders,
)
from pytest_bottle.manifest import load_other
from pytest_bottle.part_words import argv
from pytest_bottle.spec import LONGEST_TIMEOUT, SHORTEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_bottle.backends.command.orders import Line
    from pytest_bottle.backends.contract import Feature
    from pytest_bottle.reading import Word

    Reader = Callable[[Word], Any]

_EXAMPLE = "exec: [./sandbox.sh, exec]"
_LINE = "[./sandbox.sh, up]"


def load(path: str | os.PathLike[str]) -> Orders:
    """Read a file.

    Raises:
        ConfigurationError: with everything that is wrong with it, each with its line and its path.
    """
    full = os.path.abspath(path)
    return Orders(source=os.path.basename(full), path=full, **load_other(full, _read))


def _read(root: Word) -> dict[str, Any]:
    words = root.fields((*WORDS_OF_THE_FILE, *VERBS), {}, _EXAMPLE)
    values = {name: read(words[name]) for name, read in _READERS.items() if name in words}
    values["verbs"] = {verb: _line(words[verb]) for verb in VERBS if verb in words}
    values["places"] = _places(words["exec"]) if "exec" in words else {}
    _together(root, words, values)
    return {_NAMES.get(name, name): value for name, value in values.items()}


def _line(word: Word) -> Line:
    """Read a command line; a program that is named by a path is looked for now."""
    before = len(word.report.problems)
    line = argv(word)
    if not line and len(word.report.problems) == before:
        word.refuse("a command line is empty", f"a program and its arguments, such as {_LINE}")
    if line and line[0] and not _exists(line[0], word.report.folder):
        expected = "a program on the PATH, or the path of one, relative to this file"
        word.refuse("there is no such program", expected, repr(line[0]))
    return line


def _exists(program: str, folder: str) -> bool:
    if "/" not in program:
        return shutil.which(program) is not None
    path = os.path.join(folder, program)
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _places(word: Word) -> dict[str, Line]:
    """Read ``exec``: one command line for the agent, or one for each place."""
    if not word.is_mapping:
        return {"agent": _line(word)}
    found = word.fields(PLACES, {}, "agent: [./sandbox.sh, exec]")
    return {place: _line(one) for place, one in found.items()}


def _together(root: Word, words: Mapping[str, Word], values: Mapping[str, Any]) -> None:
    """Look at what one word asks of another."""
    places, verbs = values["places"], values["verbs"]
    if root.is_mapping and "agent" not in places:
        where = words.get("exec", root)
        where.refuse("nothing says how to run a program in the agent", _EXAMPLE, "no exec.agent")
    for one, other in (("residue", "sweep"), ("sweep", "residue")):
        if one in verbs and other not in verbs:
            words[one].refuse(
                f"this goes with {other}", f"both, or neither of them, such as {_LINE}", one
            )
    faults = values.get("features", frozenset()).intersection(FAULTS)
    if faults and "fault" not in verbs:
        expected = f"fault: {_LINE}, which does it"
        seen = ", ".join(sorted(one.value for one in faults))
        words["features"].refuse("nothing does these faults", expected, seen)
    addressed = [place for place in ADDRESSED if place in places]
    if addressed and "address" not in verbs:
        expected = f"address: {_LINE}, which prints the address of a place"
        words["exec"].refuse("nothing tells where a place is", expected, ", ".join(addressed))
    if values.get("internet"):
        for place in ("open", "sidecar"):
            if place in places:
                word = words["exec"].below(place, None)
                word.refuse(
                    "the lab has this place itself", "no such word with internet: lab", place
                )


def _text(example: str) -> Reader:
    return lambda word: word.text(example)


def _seconds(word: Word) -> float:
    value = word.value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not SHORTEST_TIMEOUT <= float(str(value)) <= LONGEST_TIMEOUT:
        limits = f"seconds, {SHORTEST_TIMEOUT} to {LONGEST_TIMEOUT}"
        word.refuse("this is no deadline", limits)
        return 1.0
    return float(str(value))


def _internet(word: Word) -> bool:
    return word.choice("none", "lab") == "lab"


def _said(word: Word) -> frozenset[Feature]:
    names = {feature.value: feature for feature in SAID}
    return frozenset(names[one.choice(*names)] for one in word.entries("[publish]"))


def _accepts(word: Word) -> frozenset[str]:
    return frozenset(one.choice(*WORDS) for one in word.entries("[command]"))


_READERS: Mapping[str, Reader] = {
    "name": _text("my-sandbox"),
    "version": _text('"1.0"'),
    "internet": _internet,
    "python": _text("/usr/bin/python3"),
    "deadline": _seconds,
    "features": _said,
    "accepts": _accepts,
}
#: Every word of the file but the verbs.
WORDS_OF_THE_FILE = (*_READERS, "exec")
#: What is called otherwise here than in the file.
_NAMES = {"internet": "inside_lab", "features": "said"}
