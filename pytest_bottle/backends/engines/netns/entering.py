"""Command lines, for people, that enter a guest which outlives the run."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_START = ("nsenter", "--preserve-credentials")
_PLACES = ("-m", "-n", "-p", "-i", "-u")


class Ways(NamedTuple):
    """The ways into the guests of a keeper.

    Its user namespace owns all the others: from there one may enter them, root or not.
    """

    keeper: int

    def privileged(self, pid: int) -> str:
        """Enter the namespaces of a guest's first process, with every privilege there."""
        return shlex.join([*_START, self._user, *_PLACES, "-t", str(pid), "sh"])

    def as_agent(self, pid: int, variables: Mapping[str, str]) -> str:
        """Enter as a guest's own user, with that user's variables and without privileges.

        In two steps: from inside the agents' user namespace one may not enter the other namespaces,
        and a guest's own user namespace must be entered last.
        """
        # Who is nobody in there would lose all privileges with the next exec: root becomes the
        # guests' own id, anybody else is that already.
        start = _START if self._is_ours() else _START[:1]
        enter = [*_START, "-U", *_PLACES, "-t", str(pid)]
        shell = [f"{name}={value}" for name, value in variables.items()]
        # The exec has left no capability; what is left is to let none be gained by another.
        clean = ["setpriv", "--no-new-privs", "env", "-i", *shell, "sh"]
        return shlex.join([*start, self._user, *enter, *clean])

    def _is_ours(self) -> bool:
        """Tell whether the guests are our own user of the machine."""
        with open(f"/proc/{self.keeper}/uid_map") as file:
            return file.read().split()[1] == str(os.geteuid())

    @property
    def _user(self) -> str:
        return f"--user=/proc/{self.keeper}/ns/user"
