"""Removing: containers before networks, each by its exact name, and nothing but what is ours.

Ours is what carries our label in a list, and what a call of ours has made, with that label; a name
that was begun and not made is looked up first (:func:`others`).

``delete --force`` of a missing container and ``network delete`` of a missing network fail, the
latter without deleting the others; so what fails is judged by what is listed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_bottle.backends.engines import cli
from pytest_bottle.backends.engines.macos_container import answers
from pytest_bottle.backends.engines.macos_container.labels import Session
from pytest_bottle.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.backends.engines.cli import Cli
    from pytest_bottle.backends.engines.macos_container.answers import Container, Network
    from pytest_bottle.backends.running import Said
    from pytest_bottle.cleanup.ledger import Entry

CONTAINER, NETWORK = "container", "network"
#: Seconds that a network may still be taken for used after its last guest (apple/container#1318).
_RELEASE: Final = 10.0
#: Seconds between two attempts, and how long nothing may come up for a session to count as gone.
_PAUSE, _QUIET = 0.2, 0.5
#: Seconds after which an undertaker gives up.
_LAST: Final = 120.0


class Listed(NamedTuple):
    """What there is of ours, of all sessions."""

    containers: Mapping[str, Session]
    networks: Mapping[str, Session]

    def of(self, session: Session) -> tuple[list[str], list[str]]:
        """Name the containers and the networks of one session."""
        return _of(self.containers, session), _of(self.networks, session)

    @property
    def sessions(self) -> set[Session]:
        """Whose there are."""
        return {*self.containers.values(), *self.networks.values()}


def _of(found: Mapping[str, Session], session: Session) -> list[str]:
    return [name for name, whose in found.items() if whose == session]


def listed(program: Cli) -> Listed:
    """List what carries our labels, by one call for containers and one for networks."""
    said: dict[str, Said] = {}

    def ask(kind: str, *argv: str) -> None:
        said[kind] = program.call(*argv, "--format", "json")

    cli.together(
        [
            lambda: ask(CONTAINER, "list", "--all"),
            lambda: ask(NETWORK, "network", "list"),
        ]
    )
    place = program.place.name
    return Listed(
        _ours(answers.containers(said[CONTAINER], place)),
        _ours(answers.networks(said[NETWORK], place)),
    )


def _ours(found: Sequence[Container | Network]) -> dict[str, Session]:
    whose = {one.name: Session.of(one.labels) for one in found}
    return {name: session for name, session in whose.items() if session is not None}


def others(program: Cli, kind: str, names: Sequence[str], session: Session) -> set[str]:
    """Tell which of these names are of things that do not carry a session's label."""
    argv = {CONTAINER: ("list", "--all"), NETWORK: ("network", "list")}[kind]
    said, place = program.call(*argv, "--format", "json"), program.place.name
    found: Sequence[Container | Network] = (
        answers.containers(said, place) if kind == CONTAINER else answers.networks(said, place)
    )
    return {one.name for one in found if one.name in names and Session.of(one.labels) != session}


def remove_containers(program: Cli, names: Sequence[str]) -> None:
    """Remove containers, running or not; those that are not there are no error.

    Raises:
        TransportError: one is still there.
    """

    def there() -> list[str]:
        said = program.call("list", "--all", "--format", "json")
        present = {one.name for one in answers.containers(said, program.place.name)}
        return [name for name in names if name in present]

    _remove(program, ["delete", "--force"], names, there)


def remove_networks(program: Cli, names: Sequence[str]) -> None:
    """Remove networks whose guests are gone; those that are not there are no error.

    Raises:
        TransportError: one is still there after ten seconds.
    """

    def there() -> list[str]:
        said = program.call("network", "list", "--format", "json")
        present = {one.name for one in answers.networks(said, program.place.name)}
        return [name for name in names if name in present]

    _remove(program, ["network", "delete"], names, there)


def _remove(
    program: Cli, verb: Sequence[str], names: Sequence[str], there: Callable[[], list[str]]
) -> None:
    end, left = time.monotonic() + _RELEASE, list(names)
    while left:
        said = program.run(*verb, *left)
        if said.ok:
            return
        left = there()
        if left and time.monotonic() > end:
            raise cli.failure(said, program.place.name, expected=f"the end of {', '.join(left)}")
        if left:
            time.sleep(_PAUSE)


def remove_session(program: Cli, session: Session, entries: Sequence[Entry] = ()) -> None:
    """Remove all there is of a session, until nothing more comes up.

    Args:
        program: the command.
        session: whose.
        entries: what is known to have been begun, newest first; it may not be listed yet.

    Raises:
        TransportError: something is left.
    """
    end, quiet_since = time.monotonic() + _LAST, 0.0
    known = {entry.name for entry in entries}
    while time.monotonic() < end:
        containers, networks = listed(program).of(session)
        if not containers and not networks:
            if not known or (quiet_since and time.monotonic() - quiet_since > _QUIET):
                return
            quiet_since = quiet_since or time.monotonic()
            time.sleep(_PAUSE)
            continue
        quiet_since = 0.0
        remove_containers(program, sorted(containers))
        remove_networks(program, sorted(networks))
    raise TransportError(
        "a session could not be removed",
        where=f"{session} ({program.place.name})",
        expected=f"nothing with its label within {_LAST:g} s",
        seen="something comes up again and again",
    )


def sweep(program: Cli, found: Listed) -> None:
    """Remove what sessions left whose owner, a process of this machine, is dead."""
    for session in found.sessions:
        if session.owner.is_dead and not os.path.exists(kept_file(session)):
            remove_session(program, session)
    with contextlib.suppress(OSError):
        _forget_kept({session.mark for session in found.sessions})


def kept_file(session: Session) -> str:
    """Name the file that says that a session is to outlive its owner."""
    folder = os.path.join(tempfile.gettempdir(), f"pytest-bottle-{os.getuid()}")
    return os.path.join(folder, f"{session.mark}.kept")


def _forget_kept(there: set[str]) -> None:
    folder = os.path.join(tempfile.gettempdir(), f"pytest-bottle-{os.getuid()}")
    for name in os.listdir(folder):
        mark, dot, end = name.partition(".")
        if (dot, end) == (".", "kept") and mark not in there:
            os.unlink(os.path.join(folder, name))
