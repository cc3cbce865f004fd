"""The far side as a guest's own program: witness, origins and names, and a door to ask them by.

An engine that has only networks and guests has this for its Internet. It is started in a guest of
an egress network and asked by short commands there (:data:`CLIENT`), for exec is all that such an
engine has. It owns the addresses that it is told to: a local route makes the kernel answer ARP for
them (ip-route(8), type ``local``), so that one interface is many machines.

Needs NET_ADMIN for the route and NET_RAW for the witness; standard library and h11, Python >= 3.8.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_bottle import _wire
from pytest_bottle.internet import origin, witness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bottle._wire import Message

#: What the door is, in the guest's file system.
DOOR = "/run/bottle-far-side.sock"
#: Asks one question: carries standard input to the door, and the answer to standard output.
CLIENT = """\
import socket, sys
line = socket.socket(socket.AF_UNIX)
line.settimeout(float(sys.argv[2]))
line.connect(sys.argv[1])
line.sendall(sys.stdin.buffer.read())
line.shutdown(socket.SHUT_WR)
while True:
    part = line.recv(1 << 20)
    if not part:
        break
    sys.stdout.buffer.write(part)
sys.stdout.buffer.flush()
"""
#: Seconds for which a greeting waits for its certificate, and a clerk for a greeting.
_PATIENCE, _CLERKS_PATIENCE = 8.0, 20.0
_ANSWER = 5.0
#: How many packets one answer tells of, about: some 20 MB.
_MOST_RECORDS = 100_000
# rtnetlink(7): a local route in the table of local routes, by the loopback interface.
_NEWROUTE, _REQUEST, _ACK, _CREATE, _REPLACE = 24, 1, 4, 0x400, 0x100
_TABLE_LOCAL, _BY_STATIC, _SCOPE_HOST, _LOCAL = 255, 4, 254, 2
_DESTINATION, _DEVICE, _LOOPBACK = 1, 4, 1


def main(argv: Sequence[str]) -> int:
    """Run until killed; the one argument is JSON.

    ``own`` are the networks whose addresses are the far side's, in CIDR form; ``first`` and
    ``last`` the host numbers that names get; ``door`` where to listen.
    """
    settings = json.loads(argv[0])
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for network in settings["own"]:
        own(network)
    ear = witness.open_packet_socket()
    clerk = Clerk()
    lines = {
        "witness": _fork(lambda line: witness.serve(line, ear)),
        "origin": _fork(lambda line: _be_origins(line, settings), clerk.serve),
    }
    ear.close()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(FileNotFoundError):  # of one that was killed
        os.unlink(settings["door"])
    door.bind(settings["door"])
    door.listen(64)
    sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
    sys.stdout.flush()
    Station(lines, clerk).serve(door)
    return 0


def own(network: str) -> None:
    """Make all addresses of a network this machine's own.

    Raises:
        OSError: the kernel refuses it.
    """
    address, _, bits = network.partition("/")
    kind = (_TABLE_LOCAL, _BY_STATIC, _SCOPE_HOST, _LOCAL)
    body = struct.pack("BBBBBBBBI", socket.AF_INET, int(bits), 0, 0, *kind, 0)
    body += _attribute(_DESTINATION, socket.inet_aton(address))
    body += _attribute(_DEVICE, struct.pack("I", _LOOPBACK))
    flags = _REQUEST | _ACK | _CREATE | _REPLACE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(_ANSWER)
        netlink.send(struct.pack("IHHII", 16 + len(body), _NEWROUTE, flags, 1, 0) + body)
        (error,) = struct.unpack_from("i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error), network)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _be_origins(line: tuple[socket.socket, socket.socket], settings: dict[str, Any]) -> None:
    control, minter = line
    numbers = range(settings["first"], settings["last"] + 1)
    origin.serve(control, minter, numbers=numbers, version6=False)


def _fork(run: Any, mint: Callable[[socket.socket], None] | None = None) -> socket.socket:
    """Fork a server, and give its control line; one that needs certificates gets a second line."""
    ours, theirs = socket.socketpair()
    minting = socket.socketpair() if mint is not None else ()
    if os.fork() == 0:
        ours.close()
        try:
            if minting:
                minting[0].close()
                run((theirs, minting[1]))
            else:
                run(theirs)
        finally:
            os._exit(1)
    theirs.close()
    if minting and mint is not None:
        minting[1].close()
        threading.Thread(target=mint, args=(minting[0],), daemon=True).start()
    return ours


class Clerk:
    """Has certificates made outside: who asks at the door is told which names are wanted."""

    def __init__(self) -> None:
        self._wanted: queue.Queue[str] = queue.Queue()
        self._leaves: dict[str, str] = {}
        self._arrived = threading.Condition()

    def serve(self, line: socket.socket) -> None:
        """Be the origins' minter (:mod:`pytest_bottle.internet.minter`) until they end."""
        while True:
            try:
                request, _ = _wire.receive(line)
                _wire.send(line, self._leaf(str(request["name"]).lower()))
            except (OSError, _wire.Closed):
                return

    def _leaf(self, name: str) -> Message:
        with self._arrived:
            if name not in self._leaves:
                self._wanted.put(name)
                self._arrived.wait_for(lambda: name in self._leaves, _PATIENCE)
            if name not in self._leaves:
                return {"error": f"nobody made a certificate for {name} within {_PATIENCE:g} s"}
            return {"key_and_chain": self._leaves[name]}

    def exchange(self, leaves: dict[str, str]) -> Message:
        """Take certificates, and tell the names of those that are wanted next, if any are soon."""
        with self._arrived:
            self._leaves.update(leaves)
            self._arrived.notify_all()
        names = []
        with suppress(queue.Empty):
            names.append(self._wanted.get(timeout=_CLERKS_PATIENCE))
            while True:
                names.append(self._wanted.get_nowait())
        return {"wanted": [name for name in names if name]}

    def dismiss(self) -> Message:
        """Let whoever waits for names go without any."""
        self._wanted.put("")
        return {"ok": True}


class Station:
    """Passes questions at the door on to who can answer them."""

    def __init__(self, lines: dict[str, socket.socket], clerk: Clerk) -> None:
        self._lines = lines
        self._locks = {name: threading.Lock() for name in lines}
        self._clerk = clerk

    def serve(self, door: socket.socket) -> None:
        """Answer for ever, each visitor in a thread of its own."""
        while True:
            visitor, _ = door.accept()
            threading.Thread(target=self._answer, args=(visitor,), daemon=True).start()

    def _answer(self, visitor: socket.socket) -> None:
        with visitor, suppress(OSError):  # a visitor that went away
            visitor.settimeout(_ANSWER)
            with visitor.makefile("rb") as asked:
                answer = self._ask(asked.read())
            visitor.settimeout(None)
            visitor.sendall(json.dumps(answer, separators=(",", ":")).encode())

    def _call(self, whom: str, request: Message) -> Message:
        with self._locks[whom]:
            return _wire.call(self._lines[whom], request, timeout=_ANSWER)[0]

    def _heard(self, request: Message) -> Message:
        """Give many of the witness's pages as one: each question from outside takes an exec."""
        answer = self._call("witness", request)
        while "error" not in answer and answer["next"] < answer["seq"]:
            left = None if request["limit"] is None else request["limit"] - len(answer["records"])
            if len(answer["records"]) >= _MOST_RECORDS or left == 0:
                break
            more = self._call("witness", {**request, "since": answer["next"], "limit": left})
            answer["records"] += more["records"]
            answer["missed"] += more["missed"]
            answer["next"] = more["next"]
        return answer

    def _ask(self, asked: bytes) -> Message:
        try:
            request = json.loads(asked)
            whom = request.pop("whom")
            if whom == "clerk":
                waits = request["op"] == "exchange"
                return self._clerk.exchange(request["leaves"]) if waits else self._clerk.dismiss()
            return self._heard(request) if request["op"] == "heard" else self._call(whom, request)
        except (OSError, LookupError, TypeError, ValueError, _wire.Closed) as error:
            return {"error": f"{type(error).__name__}: {error}"}
