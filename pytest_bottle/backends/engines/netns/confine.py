"""How a process becomes a guest: namespaces, a file system by allowlist, and no privilege left.

The file system is an allowlist, not a read-only copy of the machine's: a read-only mount does not
stop ``connect()`` to a UNIX socket that lies on it.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest_bottle
from pytest_bottle.backends.engines.netns import linux

if TYPE_CHECKING:
    from collections.abc import Iterable

AGENT_UID: Final = 1000
_SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    "/etc/alternatives",  # nothing but links into /usr
)
_ETC: Final = (
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "os-release",
    "protocols",
    "services",
    "ssl/openssl.cnf",
)
#: What says that this machine has no such file for us: everything else is an error.
_MISSING: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_PRIVATE: Final = {
    "tmp": "mode=1777",
    "run": "mode=755",
    "var": "mode=755",
    "home": "mode=755",
    "root": "mode=700",
    "dev/shm": "mode=1777",
}
#: What Docker makes read-only and hides too (moby/oci defaults).
_PROC_READONLY: Final = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_PROC_HIDDEN: Final = ("kcore", "keys", "timer_list", "acpi", "scsi", "latency_stats")
_PASSWD: Final = (
    "root:x:0:0:root:/root:/bin/sh\n"
    f"agent:x:{AGENT_UID}:{AGENT_UID}:agent:/home/agent:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/bin/false\n"
)
_GROUP: Final = f"root:x:0:\nagent:x:{AGENT_UID}:\nnogroup:x:65534:\n"
#: What one guest may use, so that the server and other guests go on: files in flight between
#: processes and processes themselves are counted by user, and all guests are one user.
_LIMITS: Final = {resource.RLIMIT_NOFILE: 4096, resource.RLIMIT_NPROC: 4096}
_NO_DNS: Final = (
    "# pytest-bottle: nothing resolves names on the internal network; the egress proxy does.\n"
    "options timeout:1 attempts:1\n"
)
#: Where a guest's certificates lie: one folder, filled when the first certificate is minted.
TRUST_FOLDER: Final = "/etc/ssl/certs"
TRUST_FILE: Final = f"{TRUST_FOLDER}/ca-certificates.crt"
#: The server's own corner, unmounted before a guest sees anything.
STATE: Final = "/server"
#: What commands of users write; a file system of its own, so that it fills only itself.
OUTPUT: Final = f"{STATE}/output"
#: The mount points of a guest whose file system is a folder of the user's.
SKELETON: Final = f"{STATE}/skeleton"
#: This package, for the server and the lab to import the rest of itself from.
CODE: Final = f"{STATE}/code"


class Identity(NamedTuple):
    """What a guest is called and whom it may ask."""

    hostname: str
    hosts: str
    resolv_conf: str = _NO_DNS
    #: Whether its root may change the files below ``/etc``, these too.
    open_etc: bool = False
    #: Whether its first process may gain privileges, as a machine's of its own may.
    may_gain: bool = False


# -- the server's own file system, once ---------------------------------------


class Sources(NamedTuple):
    """What the template is made of, taken from the machine: mount trees, links, small files."""

    trees: dict[str, int]
    links: dict[str, str]
    devices: dict[str, int]
    etc: dict[str, bytes]
    package: int


def collect(interpreter_prefixes: Iterable[str]) -> Sources:
    """Take what guests may see of the machine.

    Must run while the process can still reach the interpreter, which may lie below root's closed
    home, and already has its capabilities in the user namespace.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    trees, links = _collect_trees(interpreter_prefixes)
    devices = {name: linux.clone_tree(f"/dev/{name}") for name in _DEVICES}
    package = linux.clone_tree(pytest_bottle.__path__[0])
    return Sources(trees, links, devices, _read_etc(), package)


def build_template(sources: Sources) -> None:
    """Turn the root of this mount namespace into the template of every guest."""
    trees, links, devices, etc, package = sources
    # Everything is collected: it does not matter what this mount covers.
    base = "/tmp"
    linux.mount("bottle", base, "tmpfs", linux.MS_NOSUID, "mode=755,size=64m")
    os.chdir(base)
    for path, tree in trees.items():
        os.makedirs(f".{path}", exist_ok=True)
        linux.protect_tree(tree)
        linux.attach_tree(tree, f"{base}{path}")
    for path, target in links.items():
        os.symlink(target, f".{path}")
    _fill(base, etc, devices)
    linux.protect_tree(package)
    linux.attach_tree(package, f"{base}{CODE}/pytest_bottle")
    linux.mount("proc", f"{base}/proc", "proc", _NO_EXTRAS)
    linux.pivot_root(base)


_NO_EXTRAS: Final = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def _collect_trees(prefixes: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
    trees: dict[str, int] = {}
    links: dict[str, str] = {}
    for path in _SYSTEM:
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.isdir(path):
            trees[path] = linux.clone_tree(path)
    for prefix in prefixes:
        for part in ("bin", "lib", "lib64"):
            path = f"{prefix}/{part}"
            inside = any(f"{path}/".startswith(f"{known}/") for known in trees)
            if not inside and os.path.isdir(path) and not os.path.islink(path):
                trees[path] = linux.clone_tree(path)
    return trees, links


def _read_etc() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in _ETC:
        with suppress(*_MISSING), open(f"/etc/{name}", "rb") as file:
            found[name] = file.read()
    return found


def _fill(base: str, etc: dict[str, bytes], devices: dict[str, int]) -> None:
    for name in ("proc", "sys", "mnt", "etc", "dev", "dev/pts", STATE[1:], *_PRIVATE):
        os.makedirs(f"{base}/{name}", exist_ok=True)
    os.makedirs(f"{base}{TRUST_FOLDER}", exist_ok=True)
    for name, content in etc.items():
        os.makedirs(os.path.dirname(f"{base}/etc/{name}"), exist_ok=True)
        _write(f"{base}/etc/{name}", content)
    _write(f"{base}/etc/passwd", _PASSWD.encode())
    _write(f"{base}/etc/group", _GROUP.encode())
    _write(f"{base}/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        _write(f"{base}/etc/{name}", b"")
    for name, tree in devices.items():
        _write(f"{base}/dev/{name}", b"")
        linux.attach_tree(tree, f"{base}/dev/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{base}/dev/{name}")
    linux.mount("bottle", f"{base}{STATE}", "tmpfs", linux.MS_NOSUID, "mode=700,size=64m")
    os.makedirs(f"{base}{CODE}/pytest_bottle")
    os.mkdir(f"{base}{STATE}/trust", 0o755)
    os.mkdir(f"{base}{STATE}/guests", 0o755)
    os.mkdir(f"{base}{OUTPUT}", 0o700)
    linux.mount("bottle", f"{base}{OUTPUT}", "tmpfs", _NO_EXTRAS, "mode=700,size=64m")


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def find_package_again() -> None:
    """Import the rest of this package from where the server's root has it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pytest_bottle" and hasattr(module, "__path__"):
            module.__path__ = [f"{CODE}/{name.replace('.', '/')}"]


# -- one guest's file system ----------------------------------------------------


def enter_root(
    name: str, identity: Identity, paths: Iterable[str], rootfs: int | None = None
) -> None:
    """Give the calling process, first of its PID namespace, a root of its own; name the host.

    Args:
        name: the guest's.
        identity: what it is called and whom it may ask.
        paths: the template's own trees; one below a private folder is mounted there again.
        rootfs: a mount tree of the user's to be that root, instead of the template.
    """
    linux.unshare(linux.CLONE_NEWNS)
    root = "/mnt"
    private = _identity_files(name, identity)
    if rootfs is None:
        tree = linux.clone_tree("/")
        linux.protect_tree(tree, nodev=False)  # its /dev holds devices; all else is nodev already
        linux.attach_tree(tree, root)
    else:
        _attach_rootfs(rootfs, root)
    trust = linux.clone_tree(f"{STATE}/trust")
    linux.protect_tree(trust)
    if identity.open_etc:
        _open_etc(root, identity)
    for path, source in private.items():
        linux.attach_tree(source, f"{root}{path}")
    linux.attach_tree(trust, f"{root}{TRUST_FOLDER}")
    covered = {}
    if rootfs is None:
        linux.unmount(f"{root}{STATE}")
        covered = {path: linux.clone_tree(path) for path in paths if path.split("/")[1] in _PRIVATE}
    for folder, options in _PRIVATE.items():
        flags = linux.MS_NOSUID | linux.MS_NODEV
        linux.mount("tmpfs", f"{root}/{folder}", "tmpfs", flags, f"{options},size=256m")
    for path, tree in covered.items():
        os.makedirs(f"{root}{path}", exist_ok=True)
        linux.attach_tree(tree, f"{root}{path}")
    os.makedirs(f"{root}/var/tmp", exist_ok=True)
    os.chmod(f"{root}/var/tmp", 0o1777)
    os.makedirs(f"{root}/home/agent", exist_ok=True)
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", f"{root}/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=620")
    _mount_proc(root)
    linux.pivot_root(root)
    socket.sethostname(identity.hostname)


def _open_etc(root: str, identity: Identity) -> None:
    """Put a copy of a guest's ``/etc`` over it, which its root may change."""
    etc, kept = f"{root}/etc", {}
    mounted = {f"{root}{path}" for path in ("/etc/alternatives", TRUST_FOLDER)}
    links = linux.clone_tree("/etc/alternatives") if os.path.isdir("/etc/alternatives") else None
    for folder, folders, names in os.walk(etc):
        folders[:] = [name for name in folders if f"{folder}/{name}" not in mounted]
        for path in (os.path.join(folder, name) for name in names):
            with suppress(*_MISSING), open(path, "rb") as file:
                kept[os.path.relpath(path, root)] = file.read()
    for path, text in _identity_texts(identity).items():
        kept[path[1:]] = text.encode()
    linux.mount("tmpfs", etc, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=16m")
    os.makedirs(f"{root}{TRUST_FOLDER}")
    if links is not None:
        os.mkdir(f"{etc}/alternatives")
        linux.attach_tree(links, f"{etc}/alternatives")
    for path, content in kept.items():
        os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
        _write(f"{root}/{path}", content)


def _attach_rootfs(rootfs: int, root: str) -> None:
    """Mount a folder of the user's, with our mount points over it, whatever it has itself.

    A read-only overlay needs no file of the folder changed or owned. What is mounted below the
    folder is not shown.
    """
    linux.protect_tree(rootfs)
    linux.attach_tree(rootfs, root)
    flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("bottle", root, "overlay", flags, f"lowerdir={SKELETON}:{root}")
    devices = linux.clone_tree("/dev")
    linux.protect_tree(devices, nodev=False)
    linux.attach_tree(devices, f"{root}/dev")
    linux.mount("proc", f"{root}/proc", "proc", _NO_EXTRAS)


def make_skeleton() -> None:
    """Make the mount points that a guest on a folder of the user's needs, once."""
    if os.path.isdir(SKELETON):
        return
    for name in ("proc", "sys", "dev", TRUST_FOLDER[1:], *_PRIVATE):
        os.makedirs(f"{SKELETON}/{name}", exist_ok=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        _write(f"{SKELETON}/etc/{name}", b"")


def _identity_texts(identity: Identity) -> dict[str, str]:
    return {
        "/etc/hosts": identity.hosts,
        "/etc/resolv.conf": identity.resolv_conf,
        "/etc/hostname": f"{identity.hostname}\n",
    }


def _identity_files(name: str, identity: Identity) -> dict[str, int]:
    folder = f"{STATE}/guests/{name}"
    os.mkdir(folder, 0o755)
    trees: dict[str, int] = {}
    if identity.open_etc:
        return trees
    for path, text in _identity_texts(identity).items():
        source = f"{folder}/{os.path.basename(path)}"
        _write(source, text.encode())
        trees[path] = linux.clone_tree(source)
        linux.protect_tree(trees[path])
    return trees


def _mount_proc(root: str) -> None:
    # The template's own /proc shows the server's PID namespace: never a guest's business.
    linux.unmount(f"{root}/proc")
    linux.mount("proc", f"{root}/proc", "proc", _NO_EXTRAS)
    for name in _PROC_READONLY:
        path = f"{root}/proc/{name}"
        if os.path.exists(path):
            tree = linux.clone_tree(path)
            linux.protect_tree(tree)
            linux.attach_tree(tree, path)
    for name in _PROC_HIDDEN:
        path = f"{root}/proc/{name}"
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", _NO_EXTRAS | linux.MS_RDONLY, "size=0,mode=555")
        elif os.path.exists(path):
            linux.attach_tree(linux.clone_tree("/dev/null"), path)


def uncover_settings() -> None:
    """Let the calling process, alone in its guest, write the settings that its rights reach.

    With NET_ADMIN those are the network namespace's own: what a control needs to be set up.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.unmount("/proc/sys")


# -- what a guest may do ----------------------------------------------------------


def harden(
    user_namespace: int | None,
    seccomp: bytes,
    keep: frozenset[int] = frozenset(),
    *,
    may_gain: bool = False,
) -> None:
    """Take from the calling process what a guest must not have; there is no way back.

    Args:
        user_namespace: the inner user namespace to live in; None stays in the server's, which only
            a privileged probe does, with just the capabilities it keeps.
        seccomp: the filter, as assembled by :func:`linux.seccomp_filter`.
        keep: capabilities that stay.
        may_gain: leave out no_new_privs.
    """
    if user_namespace is not None:
        linux.setns(user_namespace, linux.CLONE_NEWUSER)
    limit()
    # Capabilities last: while we hold them, no process without them can trace us.
    if not may_gain:
        linux.forbid_new_privileges()
    linux.install_filter(seccomp)
    linux.drop_capabilities(keep)


def limit() -> None:
    """Give the calling process what one command of a guest may use."""
    os.umask(0o022)
    for kind, most in _LIMITS.items():
        soft, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (min(most, soft) if soft > 0 else most, most))


def close_all_but(keep: Iterable[int]) -> None:
    """Close every open file of the process except ``keep``."""
    start = 0
    for fd in sorted(set(keep)):
        if start < fd:  # CPython 3.11 closes every file there is for closerange(0, 0)
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1 << 16)
