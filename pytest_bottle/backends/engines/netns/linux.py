"""The Linux system calls the engine needs and Python 3.11 lacks, by ctypes.

Every function raises ``OSError`` with the kernel's errno and the call's name.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
MNT_DETACH: Final = 0x2

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2

CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13

# Numbers above 423 are the same on every architecture (asm-generic/unistd.h).
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91, "riscv64": 91}
_SYS_SOCKET: Final = {"x86_64": 41, "aarch64": 198, "riscv64": 198}
_AUDIT_ARCH: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7, "riscv64": 0xC000_00F3}
_SYS_KEYCTL_FAMILY: Final = {
    "x86_64": (248, 249, 250),
    "aarch64": (217, 218, 219),
    "riscv64": (217, 218, 219),
}
_SYS_IO_URING_SETUP: Final = 425

_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_AT_RECURSIVE: Final = 0x8000
_AT_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_NOSUID: Final = 0x2
_MOUNT_ATTR_NODEV: Final = 0x4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def architecture() -> str:
    """Name this machine's architecture, as ``uname -m`` does.

    Raises:
        OSError: the engine has no system call table for it.
    """
    machine = os.uname().machine
    if machine not in _AUDIT_ARCH:
        raise OSError(38, f"no system call table for architecture {machine!r}")
    return machine


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Enter the namespace behind an open file."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """Mount a file system, or change a mount (see the manual)."""
    _check(
        _libc.mount(
            _text(source),
            os.fsencode(target),
            _text(fstype),
            ctypes.c_ulong(flags),
            _text(data or None),
        ),
        f"mount {target}",
    )


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def clone_tree(path: str) -> int:
    """Take a copy of the mount tree at ``path``, detached; returns an open file."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_OPEN_TREE),
            ctypes.c_int(_AT_FDCWD),
            os.fsencode(path),
            ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE),
        ),
        f"open_tree {path}",
    )


def protect_tree(tree: int, *, readonly: bool = True, nodev: bool = True) -> None:
    """Make a detached tree nosuid, and read-only and nodev where asked, with all below it."""
    attributes = _MOUNT_ATTR_NOSUID
    attributes |= _MOUNT_ATTR_RDONLY if readonly else 0
    attributes |= _MOUNT_ATTR_NODEV if nodev else 0
    words = struct.pack("QQQQ", attributes, 0, 0, 0)
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_int(tree),
            b"",
            ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE),
            ctypes.c_char_p(words),
            ctypes.c_size_t(len(words)),
        ),
        "mount_setattr",
    )


def attach_tree(tree: int, target: str) -> None:
    """Mount a detached tree at ``target`` and close it."""
    try:
        _check(
            _libc.syscall(
                ctypes.c_long(_SYS_MOVE_MOUNT),
                ctypes.c_int(tree),
                b"",
                ctypes.c_int(_AT_FDCWD),
                os.fsencode(target),
                ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
            ),
            f"move_mount {target}",
        )
    finally:
        os.close(tree)


def pivot_root(new_root: str) -> None:
    """Make ``new_root`` the root and let go of the old one."""
    os.chdir(new_root)
    number = _SYS_PIVOT_ROOT[architecture()]
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")


def die_with_parent(signal_number: int = 9) -> None:
    """Be killed when the thread that forked us ends (PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def set_dumpable(dumpable: bool) -> None:
    """Allow or forbid others of our uid to read our memory and our /proc entries."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_name(name: str) -> None:
    """Set the name that ``ps`` shows for the process (15 bytes)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _check(_libc.prctl(_PR_SET_NAME, buffer, 0, 0, 0), "prctl PR_SET_NAME")


def drop_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Give up every capability but ``keep``, in all five sets and for good.

    What is kept stays in the bounding, permitted and effective sets; it is inheritable and ambient
    too, so that it survives an exec by a user other than root.
    """
    set_capabilities(bounding=keep, effective=keep, inheritable=keep)


def set_capabilities(
    *, bounding: frozenset[int], effective: frozenset[int], inheritable: frozenset[int]
) -> None:
    """Give up every capability but these; what is effective is permitted, and nothing ambient."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_last_capability() + 1):
        if capability not in bounding:
            _prctl(_PR_CAPBSET_DROP, capability)
    header = struct.pack("Ii", 0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    masks = [sum(1 << one for one in some) for some in (effective, effective, inheritable)]
    words = [mask >> shift & 0xFFFF_FFFF for shift in (0, 32) for mask in masks]
    data = struct.pack("IIIIII", *words)
    _check(
        _libc.syscall(ctypes.c_long(_SYS_CAPSET[architecture()]), header, data),
        "capset",
    )


def forbid_new_privileges() -> None:
    """PR_SET_NO_NEW_PRIVS: no later exec gains anything."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def seccomp_filter() -> bytes:
    """Assemble the guests' filter: what a network namespace does not confine is refused.

    AF_VSOCK reaches the hypervisor from any namespace (moby/moby#44562) and answers EAFNOSUPPORT;
    io_uring opens sockets behind a filter's back, keyrings are shared with the machine, and foreign
    system call tables (i386, x32) would be a way around: all EPERM.
    """
    arch = architecture()
    load, jump_equal, jump_bits, answer = 0x20, 0x15, 0x45, 0x06
    allow, errno = 0x7FFF_0000, 0x0005_0000
    refused = [_SYS_IO_URING_SETUP, *_SYS_KEYCTL_FAMILY[arch]]
    refuse, vsock = errno | 1, errno | 97
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (jump_equal, 1, 0, _AUDIT_ARCH[arch]),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),  # seccomp_data.nr
        (jump_bits, 0, 1, 0x4000_0000),  # the x32 bit
        (answer, 0, 0, refuse),
    ]
    for number in refused:
        program += [(jump_equal, 0, 1, number), (answer, 0, 0, refuse)]
    program += [
        (jump_equal, 1, 0, _SYS_SOCKET[arch]),
        (answer, 0, 0, allow),
        (load, 0, 0, 16),  # seccomp_data.args[0], the address family
        (jump_equal, 0, 1, 40),  # AF_VSOCK
        (answer, 0, 0, vsock),
        (answer, 0, 0, allow),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def install_filter(program: bytes) -> None:
    """Install a seccomp filter for this process and all its children."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _check(
        _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(fprog), 0, 0),
        "prctl PR_SET_SECCOMP",
    )


def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except FileNotFoundError:
        return 40  # CAP_CHECKPOINT_RESTORE, Linux 5.9


def _prctl(option: int, argument: int) -> None:
    ulong = ctypes.c_ulong
    _check(_libc.prctl(option, ulong(argument), ulong(0), ulong(0), ulong(0)), f"prctl {option}")


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
