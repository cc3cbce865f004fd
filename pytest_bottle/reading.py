"""Values of a document that somebody else wrote, read so that every error is told at once.

A :class:`Word` knows what it is and where it stands. What cannot be read is told to the report, and
something harmless of the right kind is returned in its place: whoever asks for the whole looks at
the report first.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pytest_bottle.errors import ConfigurationError
from pytest_bottle.spelling import near, unknown_word

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Path = tuple[str | int, ...]
    T = TypeVar("T")

#: Anchors and aliases make a small file say much; nobody's bottle needs this much.
_MOST_WORDS = 20_000
_DEEPEST = 24
_MOST_PROBLEMS = 50
_PLAIN = re.compile(r"[A-Za-z0-9_-]+\Z")

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple = 2, 3, 4, 4
_short.maxstring = _short.maxother = 80


class Odd(NamedTuple):
    """A plain scalar that readers of YAML do not agree on; neither text nor number until quoted."""

    text: str
    meaning: str

    def __repr__(self) -> str:
        return f"{self.text} (which YAML reads as {self.meaning})"


class Problem(NamedTuple):
    """One thing that is wrong; ``line`` is 0 where there are no lines."""

    path: Path
    what: str
    expected: str
    seen: str
    line: int = 0

    def __str__(self) -> str:
        where = f"{spell(self.path)}: " if self.path else ""
        link = " " if self.what.endswith("?") else ": "
        return f"{where}{self.what}{link}expected {self.expected}, seen {self.seen}"


class Ignored(NamedTuple):
    """A key that is another tool's, and why it does nothing here."""

    path: Path
    why: str
    line: int = 0

    def __str__(self) -> str:
        return f"{spell(self.path)} is ignored: {self.why}"


class TooMuchError(Exception):
    """The document says more than any sane one does; the report knows where."""


@dataclass(slots=True)
class Report:
    """What was found on the way through a document.

    Attributes:
        folder: what relative paths in it are relative to.
        lenient: whether another tool's keys are ignored, by name, or refused.
    """

    folder: str
    lenient: bool = False
    problems: list[Problem] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    left: int = _MOST_WORDS

    def visit(self, path: Path) -> None:
        """Count one more value.

        Raises:
            TooMuchError: it is one too many, or too deep down.
        """
        self.left -= 1
        if self.left < 0 or len(path) > _DEEPEST or len(self.problems) >= _MOST_PROBLEMS:
            if len(self.problems) < _MOST_PROBLEMS:
                expected = f"at most {_MOST_WORDS} values, {_DEEPEST} deep"
                self.problems.append(Problem(path[:8], "this says too much", expected, "more"))
            raise TooMuchError


@dataclass(frozen=True, slots=True)
class Word:
    """A value of a document, and where it stands."""

    value: object
    path: Path
    report: Report

    @property
    def is_mapping(self) -> bool:
        """Whether it has keys."""
        return isinstance(self.value, Mapping)

    def refuse(self, what: str, expected: str, seen: str | None = None) -> None:
        """Tell that this value will not do."""
        text = show(self.value) if seen is None else seen
        self.report.problems.append(Problem(self.path, what, expected, text))

    def below(self, key: str | int, value: object) -> Word:
        """Go one step down."""
        path = (*self.path, key)
        self.report.visit(path)
        return Word(value, path, self.report)

    def fields(
        self, known: Collection[str], foreign: Mapping[str, str], example: str
    ) -> dict[str, Word]:
        """Read a mapping of known words; ``foreign`` are another tool's, each with a reason."""
        found = {}
        for key, word in self.pairs(example):
            if key in known:
                found[key] = word
            elif self.report.lenient and key in foreign:
                self.report.ignored.append(Ignored(word.path, foreign[key]))
            else:
                what, expected = unknown_word(key, known)
                word.refuse(what, expected, repr(key) if len(key) < 80 else show(key))
        return found

    def pairs(self, example: str) -> list[tuple[str, Word]]:
        """Read a mapping of texts to anything."""
        if not isinstance(self.value, Mapping):
            self.refuse("a mapping is needed", f"a mapping, such as {example}")
            return []
        found = []
        for key, value in self.value.items():
            if isinstance(key, str) and "\0" not in key and _can_be_encoded(key):
                found.append((key, self.below(key, value)))
            else:
                self.refuse("a name is no text", f"texts, as in {example}", show(key))
        return found

    def entries(self, example: str) -> list[Word]:
        """Read a list of anything."""
        # A single string is a sequence too, of its letters: the classic slip.
        if isinstance(self.value, str | bytes | bytearray | Odd) or not isinstance(
            self.value, Sequence
        ):
            self.refuse("a list is needed", f"a list, such as {example}")
            return []
        return [self.below(number, value) for number, value in enumerate(self.value)]

    def text(self, example: str, *, empty: bool = False) -> str:
        """Read a text, without NUL bytes; what merely looks like one is to be quoted."""
        if isinstance(self.value, bool | int | float | Odd):
            raw = self.value.text if isinstance(self.value, Odd) else _plain(self.value)
            self.refuse("this is no text", f'a text: put it in quotes, as in "{raw}"')
        elif not isinstance(self.value, str):
            self.refuse("this is no text", f"a text, such as {example}")
        elif "\0" in self.value or not (self.value or empty) or not _can_be_encoded(self.value):
            self.refuse("this text will not do", f"a text, such as {example}")
        else:
            return self.value
        return ""

    def integer(self, what: str, lowest: int, highest: int) -> int:
        """Read a whole number within a range."""
        if type(self.value) is not int or not lowest <= self.value <= highest:
            self.refuse(f"this is no {what}", f"a {what}, {lowest}-{highest}")
            return lowest
        return self.value

    def truth(self) -> bool:
        """Read a yes or a no."""
        if not isinstance(self.value, bool):
            self.refuse("this is neither true nor false", "true or false")
        return self.value is True

    def choice(self, *known: str) -> str:
        """Read one of a few texts."""
        if not isinstance(self.value, str) or self.value not in known:
            close = near(str(self.value), known) if isinstance(self.value, str) else ""
            self.refuse(f"this is not known{close}", f"one of: {', '.join(known)}")
            return known[0]
        return self.value

    def attempt(self, make: Callable[[], T]) -> T | None:
        """Make a value that checks itself; its complaint is told as this word's."""
        try:
            return make()
        except ConfigurationError as error:
            self.refuse(error.what, error.expected, error.seen)
            return None


def refusal(problems: Sequence[Problem], source: str = "") -> ConfigurationError:
    """Make one error of everything that is wrong; its ``lines`` have one for each problem."""
    lines = tuple(f"{located(source, one.line)}{one}" for one in problems)
    first = problems[0]
    if len(problems) == 1:
        where = (located(source, first.line) + spell(first.path)).removesuffix(": ")
        what, expected, seen = first.what, first.expected, first.seen
    else:
        where = source
        what, expected = f"{len(problems)} things are wrong", "words that can be read"
        seen = "\n    ".join(("", *lines))
    where = where or "the words of a bottle"
    return ConfigurationError(what, where=where, expected=expected, seen=seen, lines=lines)


def spell(path: Path) -> str:
    """Write a path down, as in ``egress.routes[1].ports[0]``."""
    text = ""
    for key in path:
        if isinstance(key, str) and _PLAIN.match(key):
            text += f".{key}" if text else key
        else:
            text += f"[{show(key)}]"
    return text


def located(source: str, line: int) -> str:
    """Begin a message with a file and a line of it, as far as there are any."""
    return f"{source}:{line}: " if source and line else f"{source}: " if source else ""


def show(value: object) -> str:
    """Write a value down, shortened; whatever it is, this takes little time."""
    if value is None:
        return "nothing"
    if isinstance(value, Odd):
        return repr(value)
    try:
        return _short.repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"a very long {type(value).__name__}"


def _plain(value: bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else show(value)


def _can_be_encoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
