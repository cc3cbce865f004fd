"""What a guest was made of and what runs in it, so that it can be started once more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.engines.contract import GuestRequest


@dataclass(slots=True)
class Recipe:
    """How to make a guest again.

    Attributes:
        guest: what it was asked for with.
        service: starts the engine's own service in it again; None if there is none.
        command: starts the user's own command again, likewise.
    """

    guest: GuestRequest
    service: Callable[[], object] | None = None
    command: Callable[[], None] | None = None
