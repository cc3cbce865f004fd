"""Whether ``container`` can be used here at all, and which version of it this is."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Final, NamedTuple

from packaging.version import Version

from pytest_bottle.backends.engines import cli
from pytest_bottle.backends.engines.macos_container import answers
from pytest_bottle.errors import BackendUnavailableError, TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.engines.cli import Cli, Machine
    from pytest_bottle.backends.engines.macos_container.answers import Component
    from pytest_bottle.backends.running import Said

OLDEST, NEWEST = Version("1.0.0"), Version("1.2.2")
_OPENS_PATHS: Final = Version("1.2.1")
_MACOS: Final = Version("26")
_NUMBER: Final = re.compile(r"\d+\.\d+\.\d+")
#: Seconds; the service has 2 of its own to answer in, its client 10.
_DEADLINE: Final = 20.0
_STARTED: Final = "run `container system start`, as the same user and in the same kind of session"
#: The build that only the emulator is of; Apple's are ``release`` or ``debug``.
_EMULATED: Final = "emulated"
#: What was read in the source of 1.2.2, and is relied on.
_UNVERIFIED: Final = (
    "the shape of list, inspect and network inspect; labels; --no-dns; the refusal to delete a "
    "network that is in use; the default capabilities; what exec passes on"
)


class NewerVersionWarning(UserWarning):
    """This version of ``container`` is newer than any that was read."""


class Gate(NamedTuple):
    """What was found: the version of the command line, and a line about the machine."""

    version: str
    detail: str

    @property
    def can_open_paths(self) -> bool:
        """Whether it can leave paths writable that it makes read-only (apple/container#2069)."""
        return Version(self.version) >= _OPENS_PATHS


def check_machine(machine: Machine, place: str) -> None:
    """Refuse what Apple's container does not run on.

    Raises:
        BackendUnavailableError: not macOS, before 26, or an Intel processor.
    """
    if machine.system != "Darwin":
        raise _unusable("macos-container needs a Mac", place, "macOS", machine.system, _OTHERS)
    if machine.processor != "arm64":
        step = "use a Mac with Apple silicon"
        raise _unusable(
            "macos-container needs Apple silicon", place, "arm64", machine.processor, step
        )
    found = _NUMBER.match(f"{machine.release}.0.0")
    if found is None or Version(found[0]) < _MACOS:
        step = "update macOS: before 26 it has no networks but the default one"
        seen = f"macOS {machine.release}"
        raise _unusable("macos-container needs macOS 26", place, "macOS 26 or newer", seen, step)


_OTHERS: Final = (
    "on Linux choose --bottle-backend=netns, or macos-container-emulated to try this backend's "
    "own code without a Mac"
)


def check_service(program: Cli, *, emulated: bool = False) -> Gate:
    """Ask for the version and the health of the installation, both at once.

    Args:
        program: the command.
        emulated: whether an emulator is expected; a Mac is not to be taken for one, nor one for it.

    Raises:
        BackendUnavailableError: there is no such program, it is older than 1.0.0, its service is
            not running, or it is an emulator where Apple's is expected, or the reverse.
        TransportError: an answer cannot be understood.
    """
    said: dict[str, Said] = {}

    def ask(what: str) -> None:
        said[what] = program.run("system", what, "--format", "json", deadline=_DEADLINE)

    try:
        cli.together([lambda: ask("version"), lambda: ask("status")])
    except TransportError as error:
        raise _unusable(
            "there is no container command",
            program.place.name,
            "Apple's container 1.0.0 or newer",
            error.seen,
            "install it from its signed package, then " + _STARTED,
        ) from error
    version = _check_version(said["version"], program, emulated=emulated)
    _check_status(said["status"], program)
    return Gate(version, f"container {version}")


def _check_version(said: Said, program: Cli, *, emulated: bool) -> str:
    place = program.place.name
    if said.status == 127:  # a shell's, or ssh's, word for a program that is not there
        raise _unusable(
            "there is no container command",
            place,
            "Apple's container 1.0.0 or newer",
            str(said),
            "install it from its signed package, or name its path",
        )
    if said.cut:
        raise _silent(said, place)
    if not said.ok:  # before 1.0.0 there was no `system version`
        raise _too_old(place, str(said))
    parts = answers.components(said, place)
    _check_builds(parts, place, emulated=emulated)
    numbers = {part.name: _number(part.version) for part in parts}
    version = numbers.get("container")
    if version is None:
        raise cli.failure(said, place, expected="a part named container, with its version")
    if Version(version) < OLDEST:
        raise _too_old(place, f"container {version}")
    server = numbers.get("container-apiserver")
    if server is not None and server != version:
        raise _unusable(
            "the container command and its service are of different versions",
            place,
            f"both {version}",
            f"the service is {server}",
            "run `container system stop`, then `container system start`",
        )
    if Version(version) > NEWEST:
        warnings.warn(
            f"container {version} is newer than {NEWEST}, the newest that was read; unverified: "
            f"{_UNVERIFIED}",
            NewerVersionWarning,
            stacklevel=2,
        )
    return version


def _check_builds(parts: Sequence[Component], place: str, *, emulated: bool) -> None:
    """Hold each part to what the backend's name says of it: reports and what may be broken rest."""
    for part in parts:
        if emulated and part.build != _EMULATED:
            raise _unusable(
                "this container command is Apple's own, and no emulator",
                place,
                f"{part.name} of build {_EMULATED}",
                f"build {part.build}",
                "choose --bottle-backend=macos-container, which spares a Mac that others use",
            )
        if not emulated and part.build == _EMULATED:
            raise _unusable(
                "this container command is an emulator, and says nothing about a Mac",
                place,
                "Apple's container",
                f"{part.name} of build {part.build}",
                "choose --bottle-backend=macos-container-emulated, or take it off the PATH",
            )


def _number(text: str) -> str | None:
    found = _NUMBER.search(text)
    return found[0] if found else None


def _check_status(said: Said, program: Cli) -> None:
    place = program.place.name
    if said.cut:
        raise _silent(said, place)
    if not said.ok and not said.stdout:
        raise cli.failure(said, place, next_step=_STARTED)
    status = answers.status(said, place)
    if status != "running":
        raise _unusable("the container service is not running", place, "running", status, _STARTED)


def _silent(said: Said, place: str) -> BackendUnavailableError:
    return _unusable(
        "the container service does not answer",
        f"{said.line} ({place})",
        f"an answer within {_DEADLINE:g} s",
        said.cut,
        "run `container system stop`, then `container system start`; it hangs at times "
        "(apple/container#2275)",
    )


def _too_old(place: str, seen: str) -> BackendUnavailableError:
    return _unusable(
        "this container command is too old",
        place,
        f"{OLDEST} or newer: before, a guest has all capabilities and cannot have two networks",
        seen,
        "install a newer version, then run `container system stop` and `container system start`",
    )


def _unusable(
    what: str, where: str, expected: str, seen: str, next_step: str
) -> BackendUnavailableError:
    return BackendUnavailableError(
        what, where=where, expected=expected, seen=seen, next_step=next_step
    )
