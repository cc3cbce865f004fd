"""A guest as a testinfra host: our own connection behind testinfra's own objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from testinfra.backend.base import BaseBackend
from testinfra.host import Host

if TYPE_CHECKING:
    from pytest_bottle.bottle import Guest


class _Connection(BaseBackend):  # type: ignore[misc]
    """Runs testinfra's shell commands by the bottle's own exec, with its deadline.

    testinfra would report a broken transport as a failed command (rc 125 and the like); here it
    raises :class:`~pytest_bottle.errors.TransportError`.
    """

    NAME = "bottle"

    def __init__(self, guest: Guest, name: str) -> None:
        super().__init__(name)
        self._guest = guest

    def run(self, command: str, *args: str, **_kwargs: Any) -> Any:
        text = self.get_command(command, *args)
        result = self._guest.run("/bin/sh", "-c", text)
        return self.result(result.exit_status, self.encode(text), result.stdout, result.stderr)


def host_for(guest: Guest) -> Host:
    """Make a testinfra host of a guest, without testinfra's global registry and cache."""
    connection = _Connection(guest, repr(guest))
    host = Host(connection)
    connection.set_host(host)
    return host
