"""What the server answers when something cannot be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_bottle import _wire

#: What could not be done, in an error's words.
_DEEDS = {
    "network_add": "make a network",
    "guest_add": "start a guest",
    "settled": "start a guest",
    "sidecar": "start a sidecar",
    "forward": "publish a port",
    "exec": "run a command",
    "lab": "hand out the lab",
}


class Refused(Exception):  # noqa: N818 - an answer
    """A request that cannot be met, in the keyword fields of an error of the owner's."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields
        super().__init__(fields.get("what", ""))


class Lost(Refused):
    """The server cannot go on: it says so, and ends, and everything that it made with it."""

    def __init__(self, **fields: str) -> None:
        super().__init__(**{**fields, "next_step": "the session is lost; start pytest again"})


def words(error: OSError) -> str:
    """Say what the kernel said, without Python's ornaments."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {said}" if error.filename else said


def failure(operation: str, request: _wire.Message, error: OSError) -> dict[str, str]:
    """Say what could not be done, about which part, and what the kernel said."""
    names = ", ".join(request.get("names", ()))
    return {
        "what": f"the netns engine could not {_DEEDS.get(operation, f'do {operation!r}')}",
        "where": str(request.get("name") or request.get("guest") or names),
        "expected": "system calls that succeed",
        "seen": words(error),
        "next_step": "free what this machine is short of, or raise its limit",
    }


def nursery_is_gone() -> Refused:
    """Say that nobody is there to make sidecars, or origins."""
    return Refused(
        what="the nursery of sidecars is gone",
        seen="its line is closed",
        next_step="the session is lost; start pytest again",
    )
