"""What the watchdog calls when the owner of a session is gone (:mod:`pytest_bottle.cleanup`)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.backends.engines import places
from pytest_bottle.backends.engines.cli import Cli
from pytest_bottle.backends.engines.macos_container import removal
from pytest_bottle.backends.engines.macos_container.labels import Session
from pytest_bottle.errors import BottleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.cleanup.ledger import Entry

#: The variable that names the folder in which all that the service knows is.
_ROOT: Final = "CONTAINER_APP_ROOT"
#: How often a service that does not answer is asked anew, and after how many seconds.
_ATTEMPTS, _PAUSE = 5, 2.0


def head(program: Cli, session: Session) -> dict[str, object]:
    """Give the first line of a session's ledger."""
    return {
        "undertaker": __name__,
        "identity": str(session),
        "program": program.program,
        "variables": program.variables,
        "place": places.save(program.place),
    }


def bury(head: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Remove all of a dead session.

    Raises:
        BottleError: something is left; the ledger stays.
    """
    root = head["variables"].get(_ROOT)
    if root and not os.path.isdir(root):  # an emulator of the owner's own went with it
        return
    place = places.restore(head["place"])
    try:
        _remove(Cli(head["program"], place, variables=head["variables"]), head, entries)
    finally:
        place.close()


def _remove(program: Cli, head: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            removal.remove_session(program, Session.parse(head["identity"]), entries)
            break
        except BottleError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE)
