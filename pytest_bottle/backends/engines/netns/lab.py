"""The server's side of the lab: the witness, the origins, and the authority that guests trust."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns import confine, linux, nursery
from pytest_bottle.backends.engines.netns.answers import Lost, Refused, nursery_is_gone
from pytest_bottle.backends.engines.netns.guests import AGENT
from pytest_bottle.backends.engines.netns.ready import STARTUP, Ready

if TYPE_CHECKING:
    from pytest_bottle.backends.engines.netns.children import Children
    from pytest_bottle.backends.engines.netns.guests import Users


class Lab:
    """The processes of the lab, in its network namespace; they are starting.

    Args:
        children: forks the witness.
        users: whom the two run as.
        network: the lab's network namespace, an open file.
        nursery_line: leads to who forks the origins.
        minters: the lines to the minter, ours and the origins'.
    """

    def __init__(
        self,
        children: Children,
        users: Users,
        network: int,
        nursery_line: socket.socket,
        minters: tuple[socket.socket, ...],
    ) -> None:
        self._users = users
        self._network = network
        self._minter, origin_minter = minters
        origins, hearing = Ready(), Ready()
        self._expected = {"the witness": hearing, "the origins": origins}
        self._trusted = False
        self._origin = self._start_origins(nursery_line, origin_minter, origins.write)
        self._witness = self._start_witness(children, hearing.write)

    def _start_origins(self, line: socket.socket, minter: socket.socket, ready: int) -> int:
        ours, theirs = socket.socketpair()
        server = os.pidfd_open(os.getpid())
        try:
            nursery.order_origin(
                line,
                server=server,
                user_namespace=self._users.files[0],
                ready=ready,
                network=self._network,
                control=theirs.fileno(),
                minter=minter.fileno(),
            )
        except _wire.Closed:
            raise nursery_is_gone() from None
        os.close(server)
        theirs.close()
        minter.close()
        return ours.detach()

    def _start_witness(self, children: Children, ready: int) -> int:
        ours, theirs = socket.socketpair()
        keep = (theirs.fileno(), ready, self._network, *self._users.files)
        children.fork(keep, partial(self._be_witness, theirs, ready))
        theirs.close()
        return ours.detach()

    def _be_witness(self, control: socket.socket, ready: int) -> None:
        from pytest_bottle.internet import witness  # here: beside the way up, on another core

        linux.set_name("bottle-witness")
        linux.setns(self._network, linux.CLONE_NEWNET)
        packets = witness.open_packet_socket()
        self._users.become(AGENT)
        os.write(ready, b"ready")
        witness.serve(control, packets)

    def require(self) -> None:
        """Wait until the lab is there.

        Raises:
            Lost: it is not, and no bottle of this session could prove anything.
        """
        for who, ready in list(self._expected.items()):
            try:
                ready.wait(who)
            except Refused as refused:
                raise Lost(**refused.fields) from refused
            del self._expected[who]

    def ends(self) -> tuple[int, int]:
        """Duplicate the control ends of the witness and the origins.

        We hold the ends as well: a lab that is kept outlives the owner.
        """
        first = os.dup(self._witness)
        try:
            return first, os.dup(self._origin)
        except OSError:
            os.close(first)
            raise

    def trust(self, authority: str = "") -> None:
        """Let every guest trust an authority; the lab's own is minted for that, once."""
        if authority:
            _write_trust(authority)
            return
        if self._trusted:
            return
        try:
            answer, _ = _wire.call(self._minter, {"op": "ca"}, timeout=STARTUP)
        except (_wire.Closed, TimeoutError) as error:
            answer = {"error": f"the minter does not answer: {error!r}"}
        if "error" in answer:
            raise Refused(what="the lab's certificates could not be minted", seen=answer["error"])
        _write_trust(answer["pem"])
        self._trusted = True


def _write_trust(pem: str) -> None:
    path = f"{confine.STATE}/trust/{os.path.basename(confine.TRUST_FILE)}"
    with open(path, "w") as file:
        file.write(pem)
