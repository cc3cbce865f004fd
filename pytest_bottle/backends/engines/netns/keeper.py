"""The keeper: the one process of ours outside the namespaces that lives as long as the owner.

It makes the namespaces, starts the server as their first process, and waits. When the owner goes,
however it dies, the keeper kills that first process and the kernel takes everything else with it:
processes by the PID namespace, and namespaces, links, mounts and files because only processes held
them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns import confine, linux, refusal, server, settling
from pytest_bottle.backends.engines.netns.answers import words
from pytest_bottle.internet import minter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Words of the owner on the life pipe; end of file means that the owner is gone.
KEEP, QUIT = b"k", b"q"
#: Where the guests' ids on the machine begin, when root makes the namespaces: far from anybody's.
_GUEST_IDS = 1_000_000_000


class Ids(NamedTuple):
    """Which user and group of the machine the guests are."""

    uid: int
    gid: int
    foreign: bool


def main(control_fd: int, life_fd: int, *owners: int) -> NoReturn:
    """Run the keeper on the files it inherited; never returns.

    Args:
        control_fd: the server's connection to the owner.
        life_fd: the end to read from of a pipe that the owner holds.
        owners: processes; the end of any of them is the end of everything.
    """
    control = socket.socket(fileno=control_fd)
    try:
        linux.set_name("bottle-keeper")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # for all of us: no crash leaves a file
        owner_pidfds = [os.pidfd_open(owner) for owner in owners]
        settings, _ = _wire.receive(control, 10)
        child = _start(control, settings)
    except OSError as error:
        with contextlib.suppress(OSError, _wire.Closed):  # whoever is gone need not hear it
            _wire.send(control, {"error": refusal.explain(error)})
        os._exit(1)
    except (_wire.Closed, TimeoutError):
        os._exit(1)
    control.close()
    try:
        _watch(child, owner_pidfds, life_fd)
    except OSError as error:  # we end, and with us all that we started
        os.write(2, f"the keeper cannot watch: {words(error)}\n".encode())
        os._exit(1)
    os._exit(0)


def _start(control: socket.socket, settings: _wire.Message) -> int:
    ids = _choose_ids()
    server_minter, minter_server = socket.socketpair()
    origin_minter, minter_origin = socket.socketpair()
    keeper_end, helper_end = socket.socketpair()
    # Nobody writes; the end of file tells the server that we are gone. Ours is never closed.
    alive, _ = os.pipe()
    helper = os.fork()
    if helper == 0:
        keep = (helper_end, minter_server, minter_origin)
        _child(lambda: _help(keep, ids, settings["import_paths"]), (s.fileno() for s in keep))
    for ours in (helper_end, minter_server, minter_origin):
        ours.close()
    if ids.foreign:
        os.setgroups([])
    linux.unshare(
        linux.CLONE_NEWUSER
        | linux.CLONE_NEWNS
        | linux.CLONE_NEWPID
        | linux.CLONE_NEWIPC
        | linux.CLONE_NEWUTS
        | linux.CLONE_NEWNET
    )
    answer, _ = _wire.call(keeper_end, {"pid": os.getpid()}, timeout=10)
    keeper_end.close()
    if answer["errno"]:
        raise OSError(answer["errno"], answer["text"])
    child = os.fork()
    if child == 0:
        minters = (server_minter, origin_minter)
        keep_fds = (1, 2, control.fileno(), alive, *(s.fileno() for s in minters))
        _child(lambda: server.main(control, minters, settings, alive), keep_fds)
    os.close(alive)
    server_minter.close()
    origin_minter.close()
    return child


def _choose_ids() -> Ids:
    """Pick the guests' ids: root lends ones that own nothing, anyone else has only their own."""
    with open("/proc/self/uid_map") as file:
        extents = [tuple(map(int, line.split())) for line in file]
    start, _, count = max(extents, key=lambda extent: extent[2])
    if os.geteuid() != 0 or count < 2:
        return Ids(os.geteuid(), os.getegid(), foreign=False)
    wanted = _GUEST_IDS + os.getpid()  # two sessions share no per-user limits
    chosen = wanted if start <= wanted < start + count else start + count - 1
    return Ids(chosen, chosen, foreign=True)


def _child(run: Callable[[], None], keep: Iterable[int]) -> NoReturn:
    """Be a child of the keeper: gone when it goes, with no files but ``keep``."""
    try:
        linux.die_with_parent()
        confine.close_all_but((0, 1, 2, *keep))
        run()
    except OSError as error:
        os.write(2, f"a child of the keeper's ended: {words(error)}\n".encode())
    except Exception:  # noqa: BLE001 - last words, for the owner to read
        import traceback  # costs 10 ms: only when needed

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


def _help(ends: tuple[socket.socket, ...], ids: Ids, import_paths: list[str]) -> None:
    """Write the id maps from outside, then mint certificates for the lab.

    Both need the user's own view of the machine: the maps a capability in the parent namespace, the
    minter the packages that the user has installed.
    """
    keeper, *clients = ends
    request, _ = _wire.receive(keeper)
    answer = {"errno": 0, "text": ""}
    try:
        settling.map_ids(request["pid"], 0, ids.uid, ids.gid, deny_setgroups=not ids.foreign)
    except OSError as error:
        answer = {"errno": error.errno or 1, "text": f"writing the id maps: {error.strerror}"}
    _wire.send(keeper, answer)
    keeper.close()
    minter.serve(clients, import_paths)


def _watch(child: int, owner_pidfds: list[int], life_fd: int) -> None:
    """Wait for the server to end by itself or for an owner to go; then end the server."""
    child_pidfd = os.pidfd_open(child)
    poll = select.poll()
    for fd in (child_pidfd, *owner_pidfds, life_fd):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if child_pidfd in ready:
            break
        if life_fd in ready and os.read(life_fd, 1) == KEEP:
            for fd in (*owner_pidfds, life_fd):
                poll.unregister(fd)
            continue
        os.kill(child, signal.SIGKILL)
        break
    os.waitpid(child, 0)  # returns when the whole PID namespace is gone
