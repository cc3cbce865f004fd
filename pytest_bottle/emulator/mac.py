"""Runs a command at the emulated Mac: the place that has the networks' gateway addresses.

On a real Mac that is the machine itself. Here it is a network namespace, and this is the way in.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_bottle.emulator import fast

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run a command there, on the caller's files; returns its exit status.

    Its file system is a guest's, and its user an ordinary one.
    """
    status = fast.ask(list(argv), "", at="mac")
    if status is None:
        print("the emulator does not run: container system start", file=sys.stderr)  # noqa: T201
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
