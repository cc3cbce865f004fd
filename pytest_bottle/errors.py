"""What can go wrong, as one family of exceptions.

Every message answers five questions, in this order: what, where, expected, seen, what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class BottleError(Exception):
    """The base of every error of this package.

    Args:
        what: one clause that names the failure.
        where: the part, file, option or address it happened at.
        expected: what should have been there.
        seen: what was there.
        next_step: what the reader can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        seen: str = "",
        next_step: str = "",
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.seen = seen
        self.next_step = next_step
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [f"  {name + ':':<10}{text}" for name, text in self._fields() if text]
        return "\n".join([self.what, *lines])

    def _fields(self) -> list[tuple[str, str]]:
        return [
            ("where", self.where),
            ("expected", self.expected),
            ("seen", self.seen),
            ("next", self.next_step),
        ]


class ConfigurationError(BottleError):
    """An option, a marker or a file asks for something that does not exist or makes no sense.

    ``lines`` has everything that is wrong with a file or a marker, a line of text for each.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        seen: str = "",
        next_step: str = "",
        lines: Sequence[str] = (),
    ) -> None:
        super().__init__(what, where=where, expected=expected, seen=seen, next_step=next_step)
        self.lines = tuple(lines) or (" ".join(str(self).split()),)


class BackendUnavailableError(BottleError):
    """The chosen backend cannot work on this machine; the message says which switch forbids it."""


class BringUpError(BottleError):
    """A bottle, or a part of one, did not come up; whatever had been made is gone again."""


class TransportError(BottleError):
    """A command could not be run at all, or its outcome is unknown.

    It says nothing about the network: a broken exec is not a block.
    """


class DeadlineError(TransportError):
    """A command was cut at its deadline; ``stdout`` and ``stderr`` hold its output so far.

    The message shows the end of both.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        seen: str = "",
        next_step: str = "",
        stdout: bytes = b"",
        stderr: bytes = b"",
    ) -> None:
        said = [seen, _end("standard output", stdout), _end("standard error", stderr)]
        super().__init__(
            what,
            where=where,
            expected=expected,
            seen="; ".join(filter(None, said)),
            next_step=next_step,
        )
        self.stdout = stdout
        self.stderr = stderr


#: How many characters of a cut command's output its error shows.
_SHOWN = 500


def _end(name: str, output: bytes) -> str:
    """Show the end of an output, whatever its bytes are; empty if there was none."""
    if not output:
        return ""
    text = output[-4 * _SHOWN :].decode(errors="replace")[-_SHOWN:]
    verb = "was" if len(text) == len(output) else "ended in"
    return f"{name} ({len(output)} bytes) {verb} {text!r}"


class Facts(NamedTuple):
    """What a verdict rests on.

    Attributes:
        sent: the stimuli.
        heard: who heard what: address, time and nonce.
        how: the mechanism: what the probers saw, by place.
        cause: what the likely cause is.
        evidence: where others met the same.
    """

    sent: str = ""
    heard: str = ""
    how: str = ""
    cause: str = ""
    evidence: str = ""


#: Nothing is known.
UNKNOWN = Facts()


class _FoundedError(BottleError):
    """A verdict; that of a check says what it rests on."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        seen: str = "",
        next_step: str = "",
        facts: Facts = UNKNOWN,
    ) -> None:
        self.facts = facts
        super().__init__(what, where=where, expected=expected, seen=seen, next_step=next_step)

    def _fields(self) -> list[tuple[str, str]]:
        *before, last = super()._fields()
        return [*before, *self.facts._asdict().items(), last]


class Inconclusive(_FoundedError):  # noqa: N818 - a verdict, not a defect
    """Nothing can be concluded: a control failed, a record is missing, the witness was deaf.

    Counts as a failure of the run. Never a skip, never a pass.
    """


class Violation(_FoundedError, AssertionError):  # noqa: N818 - a verdict, not a defect
    """There is evidence that the property does not hold."""


class NotSupported(BottleError):  # noqa: N818 - a verdict, not a defect
    """The backend does not have the feature that the check needs, and says so itself."""
