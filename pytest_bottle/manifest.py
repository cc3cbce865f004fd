"""``bottle.yaml``: found on disk, read as YAML without its traps, and laid over the plain bottle.

What readers of YAML 1.1 and 1.2 do not agree on (``on``, ``0100``, ``12:30``, a date) is neither
text nor number here until it is quoted; a key that stands twice is an error, and so is a merge key.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import yaml

from pytest_bottle.reading import Ignored, Odd, Problem, Report, TooMuchError, Word, refusal
from pytest_bottle.spec import PLAIN
from pytest_bottle.words import lay_over

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pytest_bottle.errors import ConfigurationError
    from pytest_bottle.reading import Path
    from pytest_bottle.spec import BottleSpec

T = TypeVar("T")

_LARGEST = 256 << 10
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_BROKEN = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")


class Manifest(NamedTuple):
    """A file that was read.

    Attributes:
        path: its absolute path.
        spec: the bottle that it describes.
        ignored: one line for each key of bot-bottle's that has no meaning here.
    """

    path: str
    spec: BottleSpec
    ignored: tuple[str, ...]


def load(path: str | os.PathLike[str]) -> Manifest:
    """Read a file and everything that it refers to.

    Raises:
        ConfigurationError: with everything that is wrong with it, each with its line and its path.
    """

    def read(root: Word) -> tuple[BottleSpec, list[Ignored]]:
        return lay_over(root.value, PLAIN, root.report), root.report.ignored

    source, document, (spec, ignored) = _read(path, read, lenient=True)
    told = tuple(_say(one, source, document) for one in ignored)
    return Manifest(os.path.abspath(path), spec, told)


def load_other(path: str | os.PathLike[str], read: Callable[[Word], T]) -> T:
    """Read a file that is no ``bottle.yaml``, with the same care.

    Args:
        path: of the file.
        read: makes what it stands for of its root; problems are told to the report.

    Raises:
        ConfigurationError: with everything that is wrong with it, each with its line and its path.
    """
    return _read(path, read)[2]


def _read(
    path: str | os.PathLike[str], read: Callable[[Word], T], *, lenient: bool = False
) -> tuple[str, _Document, T]:
    full = os.path.abspath(path)
    source = _shorten(full)
    text = _text(full, source)
    node = _compose(text, source)
    document = _Document(node)
    report = Report(os.path.dirname(full), lenient=lenient)
    made: list[T] = []
    with contextlib.suppress(TooMuchError):  # the report knows
        made.append(read(Word(document.value, (), report)))
    found = [*document.problems, *report.problems]
    problems = [one._replace(line=one.line or document.line(one.path)) for one in found]
    if problems:
        raise refusal(sorted(problems, key=lambda one: one.line), source)
    return source, document, made[0]


def _say(one: Ignored, source: str, document: _Document) -> str:
    return f"{source}:{document.line(one.path)}: {one}"


def _shorten(path: str) -> str:
    try:
        short = os.path.relpath(path)
    except (OSError, ValueError):
        return path
    return path if short.startswith("..") else short


# -- text ----------------------------------------------------------------------------------------


def _broken(source: str, what: str, expected: str, seen: str, line: int = 0) -> ConfigurationError:
    return refusal([Problem((), what, expected, seen, line)], source)


def _text(path: str, source: str) -> str:
    try:
        data = _bytes(path)
    except (OSError, ValueError) as error:
        seen = getattr(error, "strerror", None) or str(error)
        raise _broken(source, f"it cannot be read{_meant(path)}", "a YAML file", seen) from None
    if len(data) > _LARGEST:
        raise _broken(source, "it is too long", f"at most {_LARGEST} bytes", "more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        seen = f"byte {data[error.start]:#04x}"
        raise _broken(source, "it is no text", "UTF-8", seen, line) from None


def _bytes(path: str) -> bytes:
    # Without waiting: opening a pipe that nobody writes to would never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "no ordinary file")
        return file.read(_LARGEST + 1)


def _meant(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        names = [entry for entry in os.listdir(folder) if entry.endswith((".yaml", ".yml"))]
    except OSError:
        return ""
    near = difflib.get_close_matches(name, set(names) - {name}, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _compose(text: str, source: str) -> yaml.Node:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at column {mark.column + 1}" if mark else ""
        seen = ", ".join(filter(None, (error.context, error.problem)))
        raise _broken(
            source, f"it is no YAML{place}", "one document", seen, mark.line + 1 if mark else 0
        ) from None
    except yaml.YAMLError as error:
        seen = str(error).splitlines()[0]
        raise _broken(source, "it is no YAML", "one document", seen) from None
    except RecursionError:
        raise _broken(source, "it is nested too deeply", "a few levels", "hundreds") from None
    if node is None:
        raise _broken(source, "it says nothing", "words, or {} for the plain bottle", "no document")
    return node


# -- values --------------------------------------------------------------------------------------


class _Document:
    """The values of a document's nodes; what an alias refers to is one value, built once."""

    def __init__(self, root: yaml.Node) -> None:
        self.problems: list[Problem] = []
        self._made: dict[int, object] = {}
        self._root = root
        self.value = self._build(root, ())

    def line(self, path: Path) -> int:
        """Find the line of a value, or of the deepest one above it that is there."""
        node, line = self._root, self._root.start_mark.line
        for key in path:
            step = _step(node, key)
            if step is None:
                break
            node, line = step
        return line + 1

    def _build(self, node: yaml.Node, path: Path) -> object:
        if id(node) in self._made:
            return self._made[id(node)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        wanted = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _TAG + wanted:
            self._complain(node, path, "this kind of value is not known", node.tag)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        items: list[object] = []
        self._made[id(node)] = items  # before its parts: one of them may refer to it
        items += (self._build(one, (*path, number)) for number, one in enumerate(node.value))
        return items

    def _mapping(self, node: yaml.MappingNode, path: Path) -> object:
        made: dict[Hashable, object] = {}
        self._made[id(node)] = made
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, path, "a name is no text", "a list or a mapping")
                continue
            if key_node.tag == f"{_TAG}merge":
                self._complain(key_node, path, "merge keys are not read", "<<")
                continue
            # A name is what is written: ``ON: "1"`` is a variable that is called ON.
            key = key_node.value
            if key in made:
                self._complain(key_node, (*path, key), "this stands here twice", repr(key))
            made[key] = self._build(value_node, (*path, key))
        return made

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        kind = node.tag.removeprefix(_TAG)
        if kind not in _SCALARS:
            self._complain(node, path, "this kind of value is not known", node.tag)
            return node.value
        return _SCALARS[kind](node.value)

    def _complain(self, node: yaml.Node, path: Path, what: str, seen: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(path, what, "plain values, each name once", seen, line))


def _step(node: yaml.Node, key: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in reversed(node.value):
            if key_node.value == key:
                return value_node, key_node.start_mark.line
    elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key].start_mark.line
    return None


def _bool(text: str) -> object:
    odd = text.lower() not in ("true", "false")
    return Odd(text, "a truth value") if odd else text.lower() == "true"


def _int(text: str) -> object:
    return int(text) if _WHOLE.match(text) else Odd(text, "another number, or none")


def _float(text: str) -> object:
    return float(text) if _BROKEN.match(text) else Odd(text, "another number, or none")


_SCALARS: dict[str, Callable[[str], object]] = {
    "str": str,
    "null": lambda _text: None,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "timestamp": lambda text: Odd(text, "a date"),
    "value": str,
}
