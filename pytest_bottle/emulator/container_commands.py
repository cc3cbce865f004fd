"""The commands about containers: what they print, and their exit status."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_bottle.emulator import creating, faults, shapes, values
from pytest_bottle.emulator.machine import wire
from pytest_bottle.emulator.values import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_bottle.emulator.caller import Caller
    from pytest_bottle.emulator.containers import Container
    from pytest_bottle.emulator.world import World


def run(world: World, caller: Caller) -> int:
    """Create and start; attached, its status is the process's."""
    container = _create(world, caller)
    asked = caller.parsed
    detached = asked.has("--detach")
    _cidfile(caller, container)
    try:
        with _files(caller) as files:
            world.containers.start(container, None if detached else files, caller.switched_on)
    except BaseException:
        world.containers.delete(container.id, force=True, switched_on=frozenset())
        raise
    if detached:
        caller.say(container.id)
        return 0
    container.ended.wait()
    return container.end.status


def create(world: World, caller: Caller) -> int:
    """Create; nothing runs yet."""
    container = _create(world, caller)
    _cidfile(caller, container)
    caller.say(container.id)
    return 0


def _create(world: World, caller: Caller) -> Container:
    if caller.parsed.has("--tty"):
        raise RefusedError("a terminal is not emulated")
    known = world.containers
    container = creating.container(
        caller, world.images, world.networks, lambda name: known.find(name) is not None
    )
    known.create(container)
    return container


def _cidfile(caller: Caller, container: Container) -> None:
    if path := caller.parsed.one("--cidfile"):
        with open(os.path.join(caller.folder, path), "w", encoding="ascii") as file:
            file.write(container.id)


@contextmanager
def _files(caller: Caller) -> Iterator[Sequence[int]]:
    """The caller's files, of which a process gets the first only with ``--interactive``."""
    if caller.parsed.has("--interactive"):
        yield caller.files
        return
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield (nothing, *caller.files[1:])
    finally:
        os.close(nothing)


def start(world: World, caller: Caller) -> int:
    """Start one; a running one is no error, unless somebody wants to be attached to it."""
    asked = caller.parsed
    container = world.containers.get(asked.words("containerId")[0])
    attached = asked.has("--attach") or asked.has("--interactive")
    if container.state == "running" and attached:
        raise RefusedError("attach is currently unsupported on already running containers")
    with _files(caller) as files:
        world.containers.start(container, files if attached else None, caller.switched_on)
    if not attached:
        caller.say(container.id)
        return 0
    container.ended.wait()
    return container.end.status


def stop(world: World, caller: Caller) -> int:
    """Stop some, side by side, or all; one that is stopped is no error."""
    asked = caller.parsed
    number = _signal(asked.one("--signal", "TERM"))
    seconds = float(asked.one("--time", "5"))
    known = world.containers

    def one(name: str) -> None:
        known.stop(_known(world, name, "stop"), number, seconds)

    names = [c.id for c in known.all()] if asked.has("--all") else asked.words("containerIds")
    return _each(caller, list(dict.fromkeys(names)), one, at_once=True)


def kill(world: World, caller: Caller) -> int:
    """Send a signal to some, one after the other, or to all that run."""
    asked = caller.parsed
    number = _signal(asked.one("--signal", "KILL"))
    names = asked.words("containerIds")
    if asked.has("--all"):
        names = [c.id for c in world.containers.all() if c.state == "running"]

    def one(name: str) -> None:
        world.containers.signal(_known(world, name, "kill"), number)

    return _each(caller, names, one)


def delete(world: World, caller: Caller) -> int:
    """Remove some, side by side; ``--all`` without ``--force`` leaves those that run."""
    asked = caller.parsed
    force = asked.has("--force")
    names = asked.words("containerIds")
    if asked.has("--all"):
        names = [c.id for c in world.containers.all() if force or c.state != "running"]

    def one(name: str) -> None:
        world.containers.delete(name, force=force, switched_on=caller.switched_on)

    return _each(caller, list(dict.fromkeys(names)), one, at_once=True)


def prune(world: World, caller: Caller) -> int:
    """Remove all that do not run."""
    for container in world.containers.all():
        if container.state != "running":
            world.containers.delete(container.id, force=False, switched_on=caller.switched_on)
            caller.say(container.id)
    caller.log("Reclaimed Zero KB in disk space")
    return 0


def _known(world: World, name: str, what: str) -> Container:
    found = world.containers.find(name)
    if found is None:
        cause = f'notFound: "container with ID {name} not found"'
        raise RefusedError(f'internalError: "failed to {what} container" (cause: "{cause}")')
    return found


def _signal(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65:
        return int(text)
    name = text.upper()
    try:
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise RefusedError(f"invalid signal: {text}") from None


def _each(
    caller: Caller, names: Iterable[str], do: Callable[[str], None], *, at_once: bool = False
) -> int:
    """Do it to all, print the names as they succeed, and tell all failures at the end."""

    def one(name: str) -> str:
        try:
            do(name)
        except RefusedError as error:
            return str(error)
        caller.say(name)
        return ""

    if at_once:
        with ThreadPoolExecutor(8) as pool:
            failures = [said for said in pool.map(one, names) if said]
    else:
        failures = [said for said in map(one, names) if said]
    if failures:
        caller.log(f"Error: {failures[0]}", *failures[1:])
    return 1 if failures else 0


def execute(world: World, caller: Caller) -> int:
    """Run one more process in a container; whose it is was settled when that was created (S39)."""
    asked = caller.parsed
    container = world.containers.get(asked.words("containerId")[0])
    if container.state != "running":
        raise RefusedError(f"container {container.id} is not running")
    if asked.has("--tty"):
        raise RefusedError("a terminal is not emulated")
    argv = asked.words("arguments")
    if argv[:1] == [""] and caller.version >= "1.1.0":
        raise RefusedError("command must not be empty")
    init = container.configuration["initProcess"]
    given = values.environment(
        asked.all("--env"), asked.all("--env-file"), caller.environment, caller.folder
    )
    # A variable that is there twice: programs find the container's own first.
    lines = dict(line.split("=", 1) for line in (*given, *init["environment"]))
    described = init["user"]
    if any(asked.has(option) for option in ("--user", "--uid")):
        described = values.user(asked.one("--user"), asked.one("--uid"), asked.one("--gid"), None)
    detached = asked.has("--detach")
    with _files(caller) as files:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            process = world.machine.run(
                wire(container.id),
                argv,
                user=world.containers.user(container, described),
                files=(nothing, nothing, nothing) if detached else files,
                environment=lines,
                folder=asked.one("--workdir") or init["workingDirectory"],
            )
        finally:
            os.close(nothing)
    if detached:
        if missing := process.wait_for_start():
            raise RefusedError(f"failed to find target executable {argv[0]}: {missing}")
        caller.say(container.id)
        return 0
    end = process.wait()
    if end.missing:
        raise RefusedError(f"failed to find target executable {argv[0]}: {end.missing}")
    return end.status


def list_all(world: World, caller: Caller) -> int:
    """List those that run, or all."""
    asked = caller.parsed
    shown = [c.shape() for c in world.containers.all()]
    if not asked.has("--all"):
        shown = [one for one in shown if one["status"]["state"] == "running"]
    head = ["ID", "IMAGE", "OS", "ARCH", "STATE", "IP", "CPUS", "MEMORY", "STARTED"]
    caller.show(_aged(caller, shown), [head, *map(_row, shown)], names=True)
    return 0


def _row(one: dict[str, Any]) -> list[str]:
    configuration, status = one["configuration"], one["status"]
    addresses = [leg["ipv4Address"] for leg in status["networks"]]
    resources = configuration["resources"]
    return [
        one["id"],
        configuration["image"]["reference"],
        configuration["platform"]["os"],
        configuration["platform"]["architecture"],
        status["state"],
        ",".join(addresses),
        str(resources["cpus"]),
        f"{resources['memoryInBytes'] >> 20} MB",
        status.get("startedDate", ""),
    ]


def _aged(caller: Caller, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if faults.OLD_VERSION in caller.switched_on:
        return [shapes.old_container(one) for one in shown]
    return shown


def inspect(world: World, caller: Caller) -> int:
    """Show some as JSON, all or none, in the server's order."""
    names = caller.parsed.words("containerIds")
    if missing := [name for name in names if world.containers.find(name) is None]:
        raise RefusedError(f"container not found: {', '.join(missing)}")
    shown = [c.shape() for c in world.containers.all() if c.id in names]
    caller.say_json(shapes.pretty(_aged(caller, shown)))
    return 0


def logs(world: World, caller: Caller) -> int:
    """Print what the first process wrote in its last run."""
    asked = caller.parsed
    name = asked.words("containerId")[0]
    failed = f"failed to get logs for container {name}"
    container = world.containers.find(name)
    if container is None:
        said = f'notFound: "container with ID {name} not found"'
        raise RefusedError(f'{failed} (cause: "{said}")')
    if asked.has("--follow"):
        raise RefusedError("following a log is not emulated")
    if asked.has("--boot"):
        return 0
    try:
        with open(world.containers.log(container), "rb") as file:
            text = file.read().decode()
    except FileNotFoundError:
        raise RefusedError(f'{failed} (cause: "notFound: "no log file"")') from None
    except UnicodeDecodeError:
        raise RefusedError("failed to convert container logs to utf8") from None
    if asked.has("-n"):
        lines = [line for line in text.splitlines() if line]
        caller.say(*lines[-int(asked.one("-n")) :])
    else:
        caller.say(text.strip("\n"))
    return 0


def copy(world: World, caller: Caller) -> int:
    """Copy a file into a running container, or out of one, by a program inside."""
    source, target = (caller.parsed.words(name)[0] for name in ("source", "destination"))
    inward, outward = ":" in target, ":" in source
    if inward and outward:
        raise RefusedError("copying between containers is not supported")
    if not inward and not outward:
        said = "one of source or destination must be a container reference"
        raise RefusedError(f"{said} (container_id:path)")
    name, _, inside = (target if inward else source).partition(":")
    container = world.containers.get(name)
    if container.state != "running":
        raise RefusedError(f"container {name} is not running")
    outside = os.path.join(caller.folder, source if inward else target)
    if inward and not os.path.isfile(outside):
        here = os.path.exists(outside)
        said = "copying a folder is not emulated" if here else "source path does not exist"
        raise RefusedError(f"{said}: {source}")
    if os.path.isdir(outside):
        outside = os.path.join(outside, os.path.basename(inside))
    _transfer(world, container, inside, outside, inward=inward)
    if caller.version >= "1.1.0":
        caller.say(target)
    return 0


def _transfer(
    world: World, container: Container, inside: str, outside: str, *, inward: bool
) -> None:
    into = 'mkdir -p "$(dirname "$1")" && { [ ! -d "$1" ] || set -- "$1/$2"; } && cat > "$1"'
    program = into if inward else 'cat "$1"'
    flags = os.O_RDONLY if inward else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    fd = os.open(outside, flags | os.O_CLOEXEC, 0o644)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        process = world.machine.run(
            wire(container.id),
            ["sh", "-c", program, "sh", inside, os.path.basename(outside)],
            user=world.containers.user(container, {"id": {"gid": 0, "uid": 0}}),
            files=(fd, nothing, nothing) if inward else (nothing, fd, nothing),
        )
        if process.wait().status:
            raise RefusedError(f"failed to copy {inside} of container {container.id}")
    finally:
        os.close(fd)
        os.close(nothing)
