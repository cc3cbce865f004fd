"""New namespaces: whether they can be had, and what gets out of them (namespaces(7))."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct

from pytest_bottle.guest.probe.core import answer, operation, typed
from pytest_bottle.guest.probe.direct import tcp, udp
from pytest_bottle.guest.probe.netlink import attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

    from pytest_bottle.guest.probe.core import Operation, Record

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
#: The system call's number is the same everywhere (asm-generic/unistd.h).
_SYS_CLONE3 = 435
_TUN = "/dev/net/tun"
#: What is sent from inside.
_SENDERS = {"tcp": tcp, "udp": udp}


@operation("nest")
def nest(operation: Operation, deadline: float) -> Record:
    """Make a user and a network namespace; from inside, try to get out, and do ``operations``.

    The answers say what the kernel made of each attempt. ``sent`` has the records of the
    operations, none if there was no inside, and ``outer`` that of a datagram by a socket that was
    made outside.
    """
    # Not in the child for the first time: it would wait for ever for another thread's import.
    import ctypes  # noqa: F401

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(read)
            os.write(write, json.dumps(_nested(operation, deadline)).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if not said:
        raise ValueError("the nested process said nothing")
    return dict(json.loads(said), outcome="answered")


def _nested(operation: Operation, deadline: float) -> Record:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    answers = {
        "clone3 user and network": answer(lambda: _clone3(libc)),
        "unshare network": answer(lambda: _unshare_apart(libc, _NEWNET)),
    }
    entered = answer(lambda: _checked(libc.unshare(_NEWUSER | _NEWNET), "unshare"))
    answers["unshare user and network"] = entered
    if entered != "done":
        return {"answers": answers, "inside": {}, "sent": [], "outer": {}, "power": ""}
    inside = {
        "take a link of the outer namespace": answer(lambda: _take_link(links)),
        "open a TUN device": answer(_open_tun),
        "go back": answer(lambda: _checked(libc.setns(home, _NEWNET), "setns")),
    }
    sent = [_send(one, deadline) for one in operation["operations"]]
    outer = answer(lambda: _say(outside, operation["outer"]))
    return {
        "answers": answers,
        "inside": inside,
        "sent": sent,
        "power": _power(),
        "outer": {"outcome": "sent" if outer == "done" else "unreachable", "errno": outer},
    }


def _send(what: Operation, deadline: float) -> Record:
    return typed(lambda: _SENDERS[what["kind"]](what, deadline))


def _checked(result: int, what: str) -> str:
    if result < 0:
        import ctypes

        raise OSError(ctypes.get_errno(), what)
    return "done"


def _clone3(libc: ctypes.CDLL) -> str:
    import ctypes

    # struct clone_args: flags, three addresses, the signal at its end, and no stack of its own.
    arguments = ctypes.create_string_buffer(
        struct.pack("8Q", _NEWUSER | _NEWNET, 0, 0, 0, 17, *[0] * 3)
    )
    libc.syscall.restype = ctypes.c_long
    pid = libc.syscall(ctypes.c_long(_SYS_CLONE3), arguments, ctypes.c_size_t(64))
    if pid == 0:
        os._exit(0)
    _checked(pid, "clone3")
    os.waitpid(pid, 0)
    return "done"


def _unshare_apart(libc: ctypes.CDLL, flags: int) -> str:
    """Do it in a child, so that we stay where we are."""
    import ctypes

    child = os.fork()
    if child == 0:
        os._exit(ctypes.get_errno() if libc.unshare(flags) else 0)
    code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, "unshare")
    return "done"


def _take_link(sock: socket.socket) -> str:
    """Ask, in the outer namespace, for its first real link to be moved here (RTM_NEWLINK)."""
    link = struct.pack("BxHiII", 0, 0, 2, 0, 0)
    body = link + attribute(19, struct.pack("I", os.getpid()))  # IFLA_NET_NS_PID
    sock.settimeout(2)
    sock.send(struct.pack("IHHII", 16 + len(body), 16, 1 | 4, 1, 0) + body)
    code = -int(struct.unpack_from("i", sock.recv(4096), 16)[0])
    if code:
        raise OSError(code, "RTM_NEWLINK")
    return "done"


def _open_tun() -> str:
    os.close(os.open(_TUN, os.O_RDWR))
    return "done"


def _say(sock: socket.socket, what: Operation) -> str:
    sock.sendto(what["nonce"].encode(), (what["host"], what["port"]))
    return "done"


def _power() -> str:
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith("CapEff"))
