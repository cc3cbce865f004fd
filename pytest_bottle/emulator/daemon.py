"""The emulator's API server: it holds the namespaces, and answers clients on a UNIX socket.

It ends with ``system stop``, with SIGTERM, or with the other end of its life pipe; however it ends,
the engine's keeper takes the namespaces with it, and the janitor what lies in the file system.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns.client import Client
from pytest_bottle.emulator import faults, grammar
from pytest_bottle.emulator.fast import SOCKET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.emulator.world import World

#: Commands that change what outlives a daemon.
_CHANGES: Final = (
    *("run", "create", "delete", "prune"),
    *("network create", "network delete", "network prune"),
    *("image load", "image tag", "image delete"),
)
#: What the client hears that has to answer by itself.
OFFLINE: Final = -1


class Options(NamedTuple):
    """How a daemon was started.

    Attributes:
        root: the folder of its state.
        version: which it emulates.
        ready: an open file to say ``ready`` on, or why not.
        life: an open file whose other end somebody holds for as long as it is to live; -1: none.
        own: whether the folder goes with it.
    """

    root: str
    version: str
    ready: int
    life: int
    own: bool


def main(argv: Sequence[str]) -> None:
    """Be the daemon until it is told to end."""
    options = _read(argv)
    _hire_janitor(options)
    # Whoever started us may have been a worker's child: its parent's end is not ours.
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    client = Client()  # the engine starts while we import what talks to it
    from pytest_bottle.emulator.world import World

    switched_on = faults.parse(os.environ.get(faults.VARIABLE, ""))
    world = World(options.root, options.version, switched_on, client)
    with _bind(options.root) as door:
        server = Server(world, door, switched_on)
        os.write(options.ready, b"ready")
        os.close(options.ready)
        server.serve(options.life)
    world.close()


def _read(argv: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="apple-container-emulator")
    parser.add_argument("--root", required=True)
    parser.add_argument("--version", default="1.2.2", choices=grammar.VERSIONS)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--life", type=int, default=-1)
    parser.add_argument("--own", action="store_true")
    return Options(**vars(parser.parse_args(argv)))


def _hire_janitor(options: Options) -> None:
    """Fork a child that outlives us just to remove the socket, or the whole folder.

    It learns of our end by the end of a pipe, which nobody else holds.
    """
    gone, ours = os.pipe()
    if os.fork():
        os.close(gone)
        return
    try:
        os.setsid()
        for fd in filter(lambda fd: fd >= 0, (ours, options.ready, options.life)):
            os.close(fd)
        os.read(gone, 1)
        if options.own:
            shutil.rmtree(options.root, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(options.root, SOCKET))
    finally:
        os._exit(0)


def _bind(folder: str) -> socket.socket:
    """Be the daemon of a folder; a dead one's socket is replaced."""
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = f"/proc/self/fd/{at}/{SOCKET}"
        if os.path.lexists(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(at)
    return sock


class Server:
    """Answers clients, each in a thread of its own.

    Args:
        world: what it is about.
        door: the listening socket.
        switched_on: the faults of its start.
    """

    def __init__(self, world: World, door: socket.socket, switched_on: frozenset[str]) -> None:
        self._world = world
        self._door = door
        self._faults = switched_on
        self._end, self._stop = os.pipe()

    def serve(self, life: int) -> None:
        """Answer until the life pipe ends, SIGTERM comes, or a client says stop."""
        signal.signal(signal.SIGTERM, lambda *_: os.write(self._stop, b"t"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        watched = [self._door.fileno(), self._end, *([life] if life >= 0 else [])]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if ready != [self._door.fileno()]:
                return
            visitor, _ = self._door.accept()
            threading.Thread(target=self._visit, args=(visitor,), daemon=True).start()

    def _visit(self, visitor: socket.socket) -> None:
        files: list[int] = []
        with visitor, contextlib.suppress(_wire.Closed, OSError):
            try:
                request, files = _wire.receive(visitor)
                status = self._answer(request, files)
                if status is None:  # it never answers
                    visitor.recv(1)
                    return
                _wire.send(visitor, {"exit": status})
            finally:
                for fd in files:
                    os.close(fd)

    def _answer(self, request: dict[str, Any], files: Sequence[int]) -> int | None:
        from pytest_bottle.emulator import commands, values
        from pytest_bottle.emulator.caller import Caller
        from pytest_bottle.errors import BottleError

        if request["argv"] == ["system", "stop"]:
            os.write(self._stop, b"s")
            return 0
        environment = request["environment"]
        at_mac = request.get("at") == "mac"
        if not at_mac and not _is_ours(request):
            return OFFLINE
        try:
            switched_on = self._faults | faults.parse(environment.get(faults.VARIABLE, ""))
        except faults.UnknownFaultError:
            return OFFLINE
        if faults.APISERVER_HANG in switched_on:
            return None
        if at_mac:
            return self._at_mac(request, files)
        parsed = grammar.validate(request["version"], request["argv"])
        caller = Caller(
            parsed, request["version"], files, request["folder"], environment, switched_on
        )
        try:
            return commands.answer(self._world, caller)
        except values.RefusedError as error:
            caller.log(f"Error: {error}")
            return error.status
        except BottleError as error:
            caller.log(f"Error: {error}")
            return 1
        except Exception as error:  # noqa: BLE001 - one call fails, the daemon goes on
            caller.log(f"Error: the emulator has a defect: {error!r}")
            return 1
        finally:
            if parsed.command in _CHANGES:
                self._world.save()

    def _at_mac(self, request: dict[str, Any], files: Sequence[int]) -> int:
        """Run a command at the emulated Mac, as its ordinary user."""
        process = self._world.machine.run(
            "host",
            request["argv"],
            user="agent",
            files=files,
            environment={"HOME": "/home/agent", "LANG": "C.UTF-8"},
        )
        end = process.wait()
        if end.missing:
            os.write(files[2], f"{end.missing}\n".encode())
        return 127 if end.missing else end.status


def _is_ours(request: dict[str, Any]) -> bool:
    """Whether the daemon answers it: usage, help and versions are the client's own matter."""
    try:
        parsed = grammar.validate(request["version"], request["argv"])
    except (grammar.UsageError, ValueError):
        return False
    return parsed.command in grammar.commands(request["version"]) and not (
        parsed.has("--help") or parsed.has("--version")
    )


if __name__ == "__main__":
    main(sys.argv[1:])
