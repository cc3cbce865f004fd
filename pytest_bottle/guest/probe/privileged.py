"""What only a privileged process may do: change packet filters, send what it likes."""

from __future__ import annotations

import errno
import os
import socket
import struct

from pytest_bottle.guest.probe.core import answer, operation
from pytest_bottle.guest.probe.netlink import ask, attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.guest.probe.core import Operation, Record

#: The bpf(2) system call's number (asm/unistd.h).
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}


@operation("filters")
def filters(_operation: Operation, deadline: float) -> Record:
    """Ask the kernel, without any tool, for changes of packet filters; report each answer.

    What is made is a table of our own and a queue of loopback's, and both are removed again; what
    is to be replaced in the legacy tables is not well-formed, which nobody looks at who refuses.
    """
    nothing = b"filter".ljust(96, b"\0")  # a replacement of 0 entries
    trials: dict[str, Callable[[], str]] = {
        "nftables": lambda: _nftables(deadline),
        "iptables": lambda: _replace_table(socket.AF_INET, 0, 64, nothing),
        "ip6tables": lambda: _replace_table(socket.AF_INET6, 41, 64, nothing),
        "ebtables": lambda: _replace_table(socket.AF_INET, 0, 128, nothing),
        "tc": _queue,
        "bpf": _load_program,
    }
    return {"outcome": "answered", "answers": {name: answer(trials[name]) for name in trials}}


def _nftables(deadline: float) -> str:
    """Make a table with a chain that accepts all, and flush it: one batch (nfnetlink)."""
    name = b"bottle_probe\0"
    hook = attribute(1, struct.pack("!I", 3)) + attribute(2, struct.pack("!I", 0))
    chain = attribute(1, name) + attribute(3, b"output\0") + attribute(4 | 0x8000, hook)
    chain += attribute(5, struct.pack("!I", 1)) + attribute(7, b"filter\0")
    table = attribute(1, name)
    # NEWTABLE, NEWCHAIN with the policy "accept", DELRULE of every rule in the table.
    answer = _batch([(0, 0x400, table), (3, 0x400, chain), (8, 4, table)], deadline)
    if answer == "done":
        _batch([(2, 4, table)], deadline)  # DELTABLE
    return answer


def _batch(messages: list[tuple[int, int, bytes]], deadline: float) -> str:
    """Send a batch, whose last message asks for an answer, and tell the first that comes."""
    edge = struct.pack("!BBH", 0, 0, 10)  # for the subsystem of nftables
    parts = [(0x10, 0, edge)]
    parts += [(10 << 8 | kind, flags, b"\2\0\0\0" + body) for kind, flags, body in messages]
    parts.append((0x11, 0, edge))
    data = b"".join(
        struct.pack("IHHII", 16 + len(body), kind, 1 | flags, number, 0) + body
        for number, (kind, flags, body) in enumerate(parts)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(deadline)
        sock.bind((0, 0))
        sock.send(data)
        code = -int(struct.unpack_from("i", sock.recv(4096), 16)[0])
        return errno.errorcode.get(code, str(code)) if code else "done"


def _replace_table(family: int, level: int, option: int, value: bytes) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, option, value)
    return "done"


def _queue() -> str:
    """Give loopback a queueing discipline (RTM_NEWQDISC), and take it away again."""
    index = socket.if_nametoindex("lo")
    root = struct.pack("BxxxiIII", 0, index, 0, 0xFFFFFFFF, 0)
    answer = ask(36, 0x400 | 0x100, root + attribute(1, b"pfifo\0"))
    if answer == "done":
        ask(37, 0, root)
    return answer


def _load_program() -> str:
    """Load a program of two instructions that would let every packet of a cgroup pass (bpf(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    code = ctypes.create_string_buffer(struct.pack("BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0), 16)
    license_ = ctypes.create_string_buffer(b"GPL")
    # BPF_PROG_TYPE_CGROUP_SKB, 2 instructions; what follows the addresses is zero.
    words = struct.pack("IIQQ", 8, 2, ctypes.addressof(code), ctypes.addressof(license_))
    attributes = ctypes.create_string_buffer(words, 72)
    number = ctypes.c_long(_SYS_BPF[os.uname().machine])
    fd = libc.syscall(number, ctypes.c_int(5), attributes, ctypes.c_uint(72))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    os.close(fd)
    return "done"


@operation("raw")
def raw(operation: Operation, _deadline: float) -> Record:
    """Open what sends packets of one's own making, and devices; report each answer."""
    sockets = {
        "SOCK_RAW IPv4": (socket.AF_INET, socket.SOCK_RAW, 255),
        "SOCK_RAW IPv6": (socket.AF_INET6, socket.SOCK_RAW, 255),
        "AF_PACKET": (socket.AF_PACKET, socket.SOCK_RAW, 0),
        "AF_XDP": (44, socket.SOCK_RAW, 0),
    }
    answers = {}
    for name, what in sockets.items():
        answers[name] = answer(lambda what=what: _open_socket(*what))  # type: ignore[misc]
    for path in operation["devices"]:
        answers[path] = answer(lambda path=path: _open_device(path))  # type: ignore[misc]
    return {"outcome": "answered", "answers": answers}


def _open_socket(family: int, kind: int, protocol: int) -> str:
    socket.socket(family, kind, protocol).close()
    return "done"


def _open_device(path: str) -> str:
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    return "done"
