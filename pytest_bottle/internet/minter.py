"""The minter: the lab's certificate authority, outside of all namespaces.

It is the only server that needs a package (trustme), hence the user's own view of the file
system. Importing that takes some 130 ms, so it happens when the first certificate is asked for.
"""

from __future__ import annotations

import selectors
import sys
from typing import TYPE_CHECKING

from pytest_bottle.internet._control import answer_one, survive_hang_ups

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    import trustme

    from pytest_bottle._wire import Message

#: Names come from strangers' ClientHellos; forgetting them all costs less than keeping them all.
_MOST_LEAVES = 2048


def serve(clients: Sequence[socket.socket], import_paths: Sequence[str]) -> None:
    """Answer ``ca`` and ``leaf`` requests until every client has closed its connection.

    Args:
        clients: control connections, all of which see the same authority.
        import_paths: where trustme is to be found; appended to ``sys.path`` on the first request.
    """
    survive_hang_ups()
    minter = Minter(import_paths)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select():
                if not answer_one(key.data, minter.handle):
                    selector.unregister(key.fileobj)


class Minter:
    """One authority and the leaves it has signed."""

    def __init__(self, import_paths: Sequence[str]) -> None:
        self._import_paths = import_paths
        self._authority: trustme.CA | None = None
        self._leaves: dict[str, str] = {}

    def handle(self, request: Message) -> Message:
        """Answer one request of a control connection."""
        try:
            match request["op"]:
                case "ca":
                    return {"pem": self._ca().cert_pem.bytes().decode()}
                case "leaf":
                    return {"key_and_chain": self._leaf(str(request["name"]))}
        except ImportError as error:
            raise OSError(f"trustme cannot be imported ({error}); it is a dependency") from error
        raise ValueError(f"unknown request {request['op']!r}")

    def _leaf(self, name: str) -> str:
        name = name.lower()
        if name not in self._leaves:
            issued = self._ca().issue_cert(name)
            if len(self._leaves) >= _MOST_LEAVES:
                self._leaves.clear()
            self._leaves[name] = issued.private_key_and_cert_chain_pem.bytes().decode()
        return self._leaves[name]

    def _ca(self) -> trustme.CA:
        if self._authority is None:
            sys.path.extend(path for path in self._import_paths if path not in sys.path)
            import trustme

            self._authority = trustme.CA(
                organization_name="pytest-bottle lab", organization_unit_name="not for real traffic"
            )
        return self._authority
