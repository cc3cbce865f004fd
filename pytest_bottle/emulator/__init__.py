"""A stand-in on Linux for Apple's ``container``, which says of itself that it is emulated.

It speaks Apple's command line, JSON and error texts, of version 1.0.0 or 1.2.2, over the namespaces
of the netns engine. What it does not do as a Mac does stands in ``docs/emulator.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_bottle.emulator.images import archive as archive
    from pytest_bottle.emulator.installing import Emulator as Emulator
    from pytest_bottle.emulator.installing import install as install

#: The version that is emulated unless another is asked for.
NEWEST: Final = "1.2.2"
_PLACES = {"archive": "images", "Emulator": "installing", "install": "installing"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
