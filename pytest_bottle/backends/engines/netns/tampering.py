"""Engines that were tampered with: for backends that are wrong on purpose."""

from __future__ import annotations

from pytest_bottle.backends.engines.netns.client import Client
from pytest_bottle.backends.engines.netns.engine import NetnsEngine


def patched_engine(code: str) -> NetnsEngine:
    """Open an engine whose session runs a line of code before its own.

    It runs in the keeper, which every process of the session descends from.
    """
    before, after = Client.boot.split("gc.enable()")

    class Patched(Client):
        boot = f"{before}{code}; gc.enable(){after}"

    return NetnsEngine(Patched())
