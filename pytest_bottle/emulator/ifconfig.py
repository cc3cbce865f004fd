"""As much of macOS's ``ifconfig`` as is needed to give the loopback interface an alias (S23)."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from pytest_bottle.emulator import fast

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The file of the aliases in the folder of the state.
ALIASES = "loopback-aliases"


def main(argv: Sequence[str]) -> int:
    """Take ``lo0``, ``lo0 alias ADDRESS`` or ``lo0 -alias ADDRESS``; returns the exit status."""
    path = os.path.join(fast.root(), ALIASES)
    known = aliases(path)
    if list(argv) == ["lo0"]:
        lines = [f"\tinet {one} netmask 0xff000000" for one in ("127.0.0.1", *known)]
        print("\n".join(["lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> (emulated)", *lines]))  # noqa: T201
        return 0
    if len(argv) != 3 or argv[0] != "lo0" or argv[1] not in ("alias", "-alias"):
        print("usage: ifconfig lo0 [alias | -alias address] (emulated)", file=sys.stderr)  # noqa: T201
        return 1
    try:
        loopback = socket.inet_pton(socket.AF_INET, argv[2])[0] == 127
    except OSError:
        loopback = False
    if not loopback:
        print(f"ifconfig: {argv[2]}: bad value", file=sys.stderr)  # noqa: T201
        return 1
    known = [one for one in known if one != argv[2]]
    known += [argv[2]] if argv[1] == "alias" else []
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"{one}\n" for one in known)
    return 0


def aliases(path: str) -> list[str]:
    """Read the aliases that were given, none if the file is not there."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
