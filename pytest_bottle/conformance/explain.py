"""What a check is about, in print: ``pytest --bottle-explain NET-05``; nothing is touched."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import re
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from pytest_bottle import planning, rerunning, settings
from pytest_bottle.backends import selection
from pytest_bottle.conformance.registry import Level, Severity, Witness
from pytest_bottle.conformance.sent import sent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_bottle.conformance.registry import Check

_SEVERITY = {
    Severity.CRITICAL: "an unbounded channel, control of the host, or false assurance",
    Severity.HIGH: "a bounded channel, a way to a neighbour, or lost cleanup",
    Severity.MEDIUM: "defence in depth",
    Severity.LOW: "usability",
}
_LEVEL = {
    Level.CORE: "every backend has to pass it",
    Level.STRICT: "some platforms cannot pass it yet",
    Level.TRANSPARENT: "for backends that intercept without proxy variables",
    Level.QUIRK: "tells how a platform behaves",
}
_WITNESS = {
    Witness.REQUIRED: "The far side alone decides: what its witness heard has leaked, whatever the "
    "prober saw, and silence counts only while every control is green.",
    Witness.AT_HOST: "A listener at the bottle's host decides: whom it heard got there, and its "
    "silence counts only if it heard its controls before and after.",
    Witness.NO: "By inspection, or by the kernel's own answer to an attempt; nothing has to arrive "
    "anywhere.",
    Witness.NOT_APPLICABLE: "By what the suite's own means report of themselves.",
}
#: What a row of a user's own rests on.
_OWN = ("your own bottle.yaml",)
_WIDTH = 96
_INDENT = 15


def to_terminal(texts: Iterable[str], config: pytest.Config) -> int:
    """Print what is known of the checks that are asked for; returns pytest's exit status.

    Raises:
        pytest.UsageError: one of them is not known.
    """
    chosen = choose(texts, planning.known_checks(config))
    rerun = rerunning.of(config, settings.of(config))
    with contextlib.suppress(BrokenPipeError):  # whoever reads has seen enough
        for check in chosen:
            sys.stdout.write(f"{explain(check, rerun(check.id))}\n")
        sys.stdout.flush()
    return pytest.ExitCode.OK


def choose(texts: Iterable[str], checks: Sequence[Check]) -> list[Check]:
    """Find the checks that are asked for: IDs, separated by commas or blanks, or ``all``.

    Raises:
        pytest.UsageError: with a line for each that is not known.
    """
    known = {check.id: check for check in checks}
    wanted = [word for text in texts for word in re.split(r"[\s,]+", text.upper()) if word]
    problems = [_unknown(word, known) for word in wanted if word not in known and word != "ALL"]
    if problems or not wanted:
        raise pytest.UsageError(*(problems or ["--bottle-explain: expected an ID, seen none"]))
    if "ALL" in wanted:
        return [*checks]
    return [known[word] for word in dict.fromkeys(wanted)]


def _unknown(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word[:80], [*known, "ALL"], 1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    areas = ", ".join(sorted({identity.partition("-")[0] + "-…" for identity in known}))
    return f"--bottle-explain: {word!r} is not known{meant} (known: all, and the IDs {areas})"


def explain(check: Check, rerun: str) -> str:
    """Say everything that is known of a check.

    Args:
        check: which one.
        rerun: the command line that runs it alone.
    """
    parts = [
        ("requirement", check.requirement),
        ("severity", f"{check.severity.value}: {_SEVERITY[check.severity]}"),
        ("level", f"{check.level.value}: {_LEVEL[check.level]}"),
        *(("evidence" if n == 0 else "", each) for n, each in enumerate(check.evidence or _OWN)),
        *(("sent" if n == 0 else "", line) for n, line in enumerate(sent(check))),
        ("judged", f"{_WITNESS[check.witness]} (witness: {check.witness.value})"),
        ("needs", ", ".join(sorted(one.value for one in check.needs)) or "nothing special"),
        *(("mutants" if n == 0 else "", line) for n, line in enumerate(_mutants(check))),
        ("source", _source(check)),
    ]
    lines = [f"{check.id}  {check.title}", *(_line(*part) for part in parts)]
    return "\n".join([*lines, f"  {'rerun:':<{_INDENT - 2}}{rerun}", ""])  # whole, to be copied


def _line(name: str, text: str) -> str:
    first = f"  {name + ':' if name else '':<{_INDENT - 2}}"
    wrapped = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    return first + f"\n{' ' * _INDENT}".join(wrapped)


# -- where it lies ---------------------------------------------------------------------------------


def _mutants(check: Check) -> list[str]:
    """Say which mutants the check has to catch, and what each of them weakens."""
    if selection.impossible_here("netns"):
        return ["they live on Linux"]
    from pytest_bottle.conformance.mutants.base import all_mutants

    found = [one for one in all_mutants().values() if one.check == check.id]
    lines = []
    for one in found:
        others = f" Others see it too: {', '.join(sorted(one.also))}." if one.also else ""
        doc = " ".join((inspect.getdoc(one.make) or "").split())
        lines.append(f"--bottle-mutant={one.name}: {doc}{others}")
    return lines or ["none"]


def _source(check: Check) -> str:
    body = getattr(check.body, "func", check.body)
    path = os.path.relpath(inspect.getsourcefile(body) or "", _package())
    return f"{path}:{inspect.getsourcelines(body)[1]}"


def _package() -> str:
    import pytest_bottle

    return os.path.dirname(os.path.dirname(os.path.abspath(pytest_bottle.__file__)))
