"""Waivers: a violation of one check on one backend that is excused until a date, and said to be.

A waiver excuses a violation and nothing else. It is no way to skip a check: the check runs, and
what it finds is reported.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from pytest_bottle import manifest
from pytest_bottle.reading import Odd, spell
from pytest_bottle.spelling import near

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pytest_bottle.reading import Path, Word

#: Whoever needs longer than this has to say so again.
LONGEST_DAYS = 180
_EXAMPLE = "waivers: [{check: HST-01, backend: mine, …}]"
_EXAMPLES = {
    "check": "HST-01",
    "backend": "netns",
    "reason": "the engine answers on its gateway address",
    "issue": "https://tracker.test/issues/7",
    "expires": "2030-01-31",
    "owner": "the network team",
}
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z")
_NUMBERS = re.compile(r"v?(\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True)
class Waiver:
    """One entry.

    Attributes:
        versions: of the backend, as in ``>=1.2,<2``; empty stands for all.
        source: the file, for messages; ``place``: the path in it.
    """

    check: str
    backend: str
    reason: str
    issue: str
    expires: dt.date
    owner: str
    versions: str = ""
    source: str = ""
    place: str = ""

    @property
    def expired(self) -> bool:
        """Whether its last day has gone by."""
        return today() > self.expires

    def covers(self, version: str) -> bool:
        """Tell whether it is about a version; what has no number at its front is about none."""
        if not self.versions:
            return True
        number = _NUMBERS.match(version)
        return number is not None and SpecifierSet(self.versions).contains(Version(number[1]))

    def __str__(self) -> str:
        return f"the waiver of {self.check} on {self.backend} ({self.place} of {self.source})"


def today() -> dt.date:
    """Tell the date by which waivers expire; tests put another function here."""
    return dt.datetime.now(dt.UTC).date()


def of(waivers: Sequence[Waiver], check: str, backend: str, version: str) -> Waiver | None:
    """Find the waiver that holds for a check on a backend today."""
    for one in waivers:
        if (one.check, one.backend) == (check, backend) and not one.expired:
            return one if one.covers(version) else None
    return None


def load(
    path: str | os.PathLike[str], checks: Collection[str], backends: Collection[str]
) -> tuple[Waiver, ...]:
    """Read a file of waivers.

    Args:
        path: of the file.
        checks: the IDs that there are.
        backends: the names of backends that there are.

    Raises:
        ConfigurationError: with everything that is wrong with it, each with its line and its path.
    """

    def read(root: Word) -> tuple[Waiver, ...]:
        entries = root.fields(("waivers",), {}, _EXAMPLE).get("waivers")
        if entries is None:
            root.refuse("the word 'waivers' is missing", f"a mapping, such as {_EXAMPLE}", "none")
            return ()
        words = entries.entries(_EXAMPLE)
        return _distinct(words, [_waiver(one, checks, backends) for one in words])

    source = os.path.basename(path)
    return tuple(replace(one, source=source) for one in manifest.load_other(path, read))


def _distinct(words: Sequence[Word], found: Sequence[Waiver | None]) -> tuple[Waiver, ...]:
    first: dict[tuple[str, str], Path] = {}
    for word, one in zip(words, found, strict=True):
        if one and first.setdefault((one.check, one.backend), word.path) != word.path:
            before = spell(first[one.check, one.backend])
            seen = f"{one.check} on {one.backend}, as in {before}"
            word.refuse("this is waived twice", "one entry for each check and backend", seen)
    return tuple(filter(None, found))


def _waiver(word: Word, checks: Collection[str], backends: Collection[str]) -> Waiver | None:
    before = len(word.report.problems)
    fields = word.fields(READERS, {}, "{check: HST-01, backend: mine, …}")
    for name in _EXAMPLES if word.is_mapping else ():
        if name not in fields:
            example = f"such as {name}: {_EXAMPLES[name]}"
            word.refuse(f"the word {name!r} is missing", example, ", ".join(fields) or "none")
    values = {name: READERS[name](one) for name, one in fields.items()}
    for name, known in (("check", checks), ("backend", backends)):
        if values.get(name) and values[name] not in known:
            expected = "the ID of a check" if name == "check" else f"one of: {', '.join(known)}"
            fields[name].refuse(f"this {name} is not known{near(values[name], known)}", expected)
    if len(word.report.problems) > before:
        return None
    return Waiver(**values, place=spell(word.path))


def _text(word: Word) -> str:
    text = word.text(_EXAMPLES[str(word.path[-1])])
    if text and not text.strip():
        word.refuse("this says nothing", f"a text, such as {_EXAMPLES[str(word.path[-1])]}")
    return text


def _link(word: Word) -> str:
    text = _text(word)
    parts = urlsplit(text)
    if text and not (parts.scheme in ("http", "https") and parts.netloc):
        word.refuse("this is no link", f"such as {_EXAMPLES['issue']}")
    return text


def _date(word: Word) -> dt.date:
    # Unquoted it is a date to YAML, and here that is just what is meant.
    text = word.value.text if isinstance(word.value, Odd) else word.value
    last = today() + dt.timedelta(LONGEST_DAYS)
    expected = f"a date up to {last}, {LONGEST_DAYS} days from today"
    try:
        date = dt.date.fromisoformat(str(text) if _DATE.match(str(text)) else "")
    except ValueError:
        word.refuse("this is no date", f"{expected}, such as 2030-01-31")
        return last
    if date > last:
        word.refuse("this is too far ahead", expected, str(date))
    return date


def _versions(word: Word) -> str:
    text = word.text(">=1.2,<2")
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        word.refuse("these are no versions", "such as >=1.2,<2")
    return text


#: The words of an entry and how each is read; ``versions`` may be left out.
READERS: dict[str, Callable[[Word], Any]] = {
    "check": _text,
    "backend": _text,
    "versions": _versions,
    "reason": _text,
    "issue": _link,
    "expires": _date,
    "owner": _text,
}
