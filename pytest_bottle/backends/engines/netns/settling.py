"""The standing user namespaces that commands of guests live in."""

from __future__ import annotations

import os

from pytest_bottle.backends.engines.netns import linux


def make_user_namespaces(*uids: int, group: int | None = None) -> list[int]:
    """Make standing user namespaces, each with one user of its own; returns open files.

    The user's group has the same number, unless ``group`` is another.

    ``max_user_namespaces=0`` is written inside before anyone lives there: an empty bounding set
    and no_new_privs do not keep a process from nesting into a namespace where it has everything.
    """
    settlers = [_Settler() for _ in uids]  # all at work before the first is waited for
    try:
        for settler, uid in zip(settlers, uids, strict=True):
            settler.expect(b"u", "a user namespace could not be nested")
            map_ids(settler.pid, uid, 0, 0, deny_setgroups=True, group=group)
            settler.go()
        return [settler.open() for settler in settlers]
    finally:
        for settler in settlers:
            settler.let_go()
        for settler in settlers:  # a later one holds copies of an earlier one's files
            os.waitpid(settler.pid, 0)


class _Settler:
    """A child that makes a user namespace, closes it to nesting, and ends when it is open."""

    def __init__(self) -> None:
        self._said, say = os.pipe()
        heard, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._said)
                os.close(self._go)
                self._settle(heard, say)
            finally:
                os._exit(0)
        os.close(say)
        os.close(heard)

    def _settle(self, heard: int, say: int) -> None:
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(say, b"u")
        os.read(heard, 1)
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        os.write(say, b"r")
        os.read(heard, 1)  # until it is open, or we are gone

    def expect(self, byte: bytes, otherwise: str) -> None:
        if os.read(self._said, 1) != byte:
            raise OSError(1, otherwise)

    def go(self) -> None:
        os.write(self._go, b"g")

    def open(self) -> int:
        self.expect(b"r", "max_user_namespaces could not be written")
        return os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)

    def let_go(self) -> None:
        os.close(self._said)
        os.close(self._go)


def map_ids(
    pid: int, inside: int, uid: int, gid: int, *, deny_setgroups: bool, group: int | None = None
) -> None:
    """Write the one-line id maps of the user namespace that process ``pid`` lives in.

    Inside, the group has the user's number unless ``group`` is another.
    """
    if deny_setgroups:
        _write(f"/proc/{pid}/setgroups", b"deny")
    _write(f"/proc/{pid}/uid_map", f"{inside} {uid} 1".encode())
    _write(f"/proc/{pid}/gid_map", f"{inside if group is None else group} {gid} 1".encode())


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
