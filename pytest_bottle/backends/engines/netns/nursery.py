"""The nursery: a child of the server that has imported h11 and forks what needs it.

Importing h11 takes longer than bringing up a bottle's networks; here it happens meanwhile, on
another core, and once for the origins and all sidecars of a session.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns import confine, linux
from pytest_bottle.backends.engines.netns.answers import words
from pytest_bottle.backends.engines.netns.children import be_quiet
from pytest_bottle.backends.engines.netns.ready import STARTUP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PLACES = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


def serve(requests: socket.socket, become_root: Callable[[], None], seccomp: bytes) -> None:
    """Fork sidecars and origins on request until the server closes the line.

    Args:
        requests: the line to the server; see :func:`order`, :func:`order_tree` and
            :func:`order_origin`.
        become_root: take the ids of the namespace's root, once the imports are done.
        seccomp: the guests' filter.
    """
    linux.set_name("bottle-nursery")
    gc.disable()
    from pytest_bottle.guest import forward, proxy  # noqa: F401 - every sidecar inherits them
    from pytest_bottle.internet import origin  # noqa: F401

    gc.freeze()
    gc.enable()
    become_root()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps for us
    # Whoever waits for a part may have given up: its closed pipe is an error here, not our end.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    home = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        try:
            request, files = _wire.receive(requests)
        except _wire.Closed as end:
            if end.args:  # not the server's end, but something that got lost on the way
                raise
            return
        if request["be"] == "tree":
            _hand_tree(requests, request["path"])
            continue
        try:
            linux.setns(files[0], linux.CLONE_NEWPID)
            if os.fork() == 0:
                _become(request, files, seccomp)
            linux.setns(home, linux.CLONE_NEWPID)
        except OSError as error:  # a guest that is gone again, for one
            linux.setns(home, linux.CLONE_NEWPID)  # or we end, and whoever asks next hears it
            _tell(files[2], words(error))
        for fd in files:
            os.close(fd)


def order(
    line: socket.socket,
    request: _wire.Message,
    *,
    guest: int,
    user_namespace: int,
    ready: int,
    log: int,
    published: list[int],
) -> None:
    """Ask for a sidecar, or for a forwarder.

    Args:
        line: to the nursery.
        request: ``be`` names which; a sidecar has a ``config`` and an address and port to
            ``listen`` on towards the agent, a forwarder ``targets``, addresses and ports.
        guest: a pidfd of the guest's first process.
        user_namespace: the one to live in.
        ready: a pipe to say ``ready`` on, or why not.
        log: takes the audit record.
        published: listening sockets of the published port.
    """
    _wire.send(line, request, (guest, user_namespace, ready, log, *published))


def order_tree(line: socket.socket, path: str) -> int:
    """Ask for the mount tree of a folder as the machine has it; returns an open file.

    Raises:
        OSError: the guests' user cannot get at it.
        _wire.Closed: the nursery is gone.
    """
    answer, files = _wire.call(line, {"be": "tree", "path": path}, timeout=STARTUP)
    if "error" in answer:
        raise OSError(answer["error"])
    return files[0]


def _hand_tree(line: socket.socket, path: str) -> None:
    try:
        os.listdir(path)  # to find it is not enough: the guests have to read it
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        tree = linux.clone_tree(path)
    except OSError as error:
        _wire.send(line, {"error": f"{error.strerror}: {error.filename or path}"})
        return
    _wire.send(line, {"ok": True}, (tree,))
    os.close(tree)


def order_origin(
    line: socket.socket,
    *,
    server: int,
    user_namespace: int,
    ready: int,
    network: int,
    control: int,
    minter: int,
) -> None:
    """Ask for the lab's origins.

    Args:
        line: to the nursery.
        server: a pidfd of the server, whose file system they share.
        user_namespace: the one to live in.
        ready: a pipe to say ``ready`` on.
        network: the lab's network namespace.
        control: their control connection.
        minter: their line to the minter.
    """
    _wire.send(line, {"be": "origin"}, (server, user_namespace, ready, network, control, minter))


def _become(request: _wire.Message, files: list[int], seccomp: bytes) -> None:
    last_words = 2
    try:
        with _telling(files[2]):
            linux.set_dumpable(False)  # no process of a guest may trace us, or read our memory
            os.setsid()
            last_words = os.dup(2)
            be_quiet()
            confine.close_all_but((0, 1, 2, last_words, *files))
            linux.set_name(f"bottle-{request['be']}")
        run = {"sidecar": _be_sidecar, "forwarder": _be_forwarder, "origin": _be_origin}[
            request["be"]
        ]
        run(request, files, seccomp)
    except (OSError, ValueError) as error:
        os.write(last_words, f"{error}\n".encode())
    finally:
        os._exit(1)


@contextmanager
def _telling(ready: int) -> Iterator[None]:
    """Say on a part's pipe why it does not get ready."""
    try:
        yield
    except (OSError, ValueError) as error:
        _tell(ready, words(error) if isinstance(error, OSError) else str(error))
        raise


def _tell(ready: int, said: str) -> None:
    with suppress(BrokenPipeError):  # nobody waits for this part any more
        os.write(ready, said.encode())


def _be_sidecar(request: _wire.Message, files: list[int], seccomp: bytes) -> None:
    from pytest_bottle.guest import proxy

    guest, user_namespace, ready, log, *published = files
    with _telling(ready):
        linux.setns(guest, _PLACES)
        listener = listening_socket(*request["listen"])
        config = proxy.Config.from_json(request["config"])
        confine.harden(user_namespace, seccomp)
    os.write(ready, b"ready")
    for fd in (guest, user_namespace, ready):
        os.close(fd)
    status = [socket.socket(fileno=fd) for fd in published]
    proxy.serve(config, [listener], status, Audit(log))


def _be_forwarder(request: _wire.Message, files: list[int], seccomp: bytes) -> None:
    from pytest_bottle.guest import forward

    guest, user_namespace, ready, log, *published = files
    with _telling(ready):
        linux.setns(guest, _PLACES)
        confine.harden(user_namespace, seccomp)
    os.write(ready, b"ready")
    for fd in (guest, user_namespace, ready):
        os.close(fd)
    doors = [socket.socket(fileno=fd) for fd in published]
    forward.serve(doors, [(host, port) for host, port in request["targets"]], Audit(log))


def _be_origin(_request: _wire.Message, files: list[int], seccomp: bytes) -> None:
    from pytest_bottle.internet import origin

    server, user_namespace, ready, network, control, minter = files
    with _telling(ready):
        linux.setns(server, linux.CLONE_NEWNS)
        confine.find_package_again()
        linux.setns(network, linux.CLONE_NEWNET)
        confine.harden(user_namespace, seccomp)
    os.write(ready, b"ready")
    for fd in (server, user_namespace, ready, network):
        os.close(fd)
    lines = socket.socket(fileno=control), socket.socket(fileno=minter)
    # The first conversation needs it, and is some time off when a bottle has come up.
    origin.serve(*lines, then=origin.preload)


class Audit:
    """Appends audit records to a guest's log, one JSON line each, whole."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, record: dict[str, Any]) -> None:
        """Append one record."""
        os.write(self._fd, json.dumps(record, separators=(",", ":")).encode() + b"\n")


def listening_socket(address: str, port: int) -> socket.socket:
    """Open a listening TCP socket in the current network namespace."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock
