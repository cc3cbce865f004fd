"""The commands about networks, images and the system, and the table of all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator import container_commands as about_containers
from pytest_bottle.emulator import faults, grammar, identity, shapes, values
from pytest_bottle.emulator.images import no_registry
from pytest_bottle.emulator.values import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_bottle.emulator.caller import Caller
    from pytest_bottle.emulator.world import World


def network_create(world: World, caller: Caller) -> int:
    """Make a network."""
    asked = caller.parsed
    name = asked.words("name")[0]
    values.check_network_name(name)
    if asked.one("--plugin", "container-network-vmnet") != "container-network-vmnet":
        raise RefusedError(f"network plugin {asked.one('--plugin')} not found")
    if asked.has("--subnet-v6"):
        raise RefusedError("an IPv6 subnet of one's own is not emulated")
    world.networks.create(
        name,
        internal=asked.has("--internal"),
        subnet=asked.one("--subnet"),
        labels=values.network_labels(asked.all("--label")),
        options=values.labels(asked.all("--option")),
        switched_on=caller.switched_on,
    )
    caller.say(name)
    return 0


def network_delete(world: World, caller: Caller) -> int:
    """Delete networks that no container refers to."""
    asked = caller.parsed
    names = asked.words("networkNames")
    if asked.has("--all"):
        names = [network.name for network in world.networks.all() if network.name != "default"]
    gone, logged = world.networks.delete(names, world.containers.referring())
    caller.say(*gone)
    if logged:
        kept = ", ".join(f'"{name}"' for name in dict.fromkeys(names) if name not in gone)
        caller.log(*logged, f"Error: delete failed for one or more networks: [{kept}]")
    return 1 if logged else 0


def network_list(world: World, caller: Caller) -> int:
    """List all networks."""
    known = world.networks.all()
    rows = [["NETWORK", "SUBNET"], *([one.name, str(one.subnet)] for one in known)]
    caller.show(_aged(caller, [one.shape() for one in known]), rows, names=True)
    return 0


def network_inspect(world: World, caller: Caller) -> int:
    """Show some as JSON, all or none."""
    found = world.networks.inspect(caller.parsed.words("networks"))
    caller.say_json(shapes.pretty(_aged(caller, [one.shape() for one in found])))
    return 0


def network_prune(world: World, caller: Caller) -> int:
    """Delete all networks but the builtin that no container refers to."""
    referring = world.containers.referring()
    names = [
        n.name for n in world.networks.all() if n.name != "default" and n.name not in referring
    ]
    gone, _ = world.networks.delete(names, referring)
    caller.say(*gone)
    return 0


def _aged(caller: Caller, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if faults.OLD_VERSION in caller.switched_on:
        return [shapes.old_network(one) for one in shown]
    return shown


def image_list(world: World, caller: Caller) -> int:
    """List all images."""
    if caller.parsed.has("--quiet") and caller.parsed.has("--verbose"):
        raise RefusedError("cannot use --quiet and --verbose together")
    known = world.images.all()
    rows = [["NAME", "TAG", "DIGEST"]]
    for one in known:
        name, _, tag = one["configuration"]["name"].rpartition(":")
        rows.append([name, tag, one["id"][:12]])
    if caller.parsed.has("--quiet") and caller.parsed.one("--format", "table") == "table":
        caller.say(*(one["configuration"]["name"] for one in known))
    else:
        caller.show(known, rows)
    return 0


def image_inspect(world: World, caller: Caller) -> int:
    """Show some as JSON, all or none."""
    names = caller.parsed.words("images")
    found = [world.images.find(name) for name in names]
    if missing := [name for name, one in zip(names, found, strict=True) if one is None]:
        raise RefusedError(f"image not found: {', '.join(missing)}")
    caller.say_json(shapes.pretty(found))
    return 0


def image_load(world: World, caller: Caller) -> int:
    """Read an OCI archive from a file or standard input."""
    path = caller.parsed.one("--input")
    try:
        at = os.path.join(caller.folder, path) if path else caller.files[0]
        with open(at, "rb", closefd=bool(path)) as file:
            loaded = world.images.load(file)
    except OSError as error:
        raise RefusedError(f"failed to read {path}: {error.strerror}") from None
    caller.say(*loaded)
    return 0


def image_tag(world: World, caller: Caller) -> int:
    """Give an image one more name."""
    source, target = (caller.parsed.words(name)[0] for name in ("source", "target"))
    caller.say(world.images.tag(source, target))
    return 0


def image_delete(world: World, caller: Caller) -> int:
    """Forget images; those that there are go before the others are told."""
    asked = caller.parsed
    names = asked.words("images")
    if asked.has("--all"):
        names = [one["configuration"]["name"] for one in world.images.all()]
    gone, missing = world.images.delete(names)
    caller.say(*gone)
    caller.log("Reclaimed Zero KB in disk space")
    if missing and not asked.has("--force"):
        quoted = ", ".join(f'"{name}"' for name in missing)
        raise RefusedError(f"failed to delete one or more images: [{quoted}]")
    return 0


def image_pull(_world: World, caller: Caller) -> int:
    """There is no registry."""
    raise no_registry(caller.parsed.words("reference")[0])


def build(_world: World, _caller: Caller) -> int:
    """Nothing is built."""
    raise RefusedError("`container build` is not emulated: use `container image load`")


def system_status(world: World, caller: Caller) -> int:
    """Say that the API server runs."""
    about = identity.status(world.version, world.root)
    if faults.OLD_VERSION in caller.switched_on:
        about = identity.status(identity.OLD, world.root)
    caller.show(about, [["FIELD", "VALUE"], *([key, about[key]] for key in sorted(about))])
    return 0


def system_version(world: World, caller: Caller) -> int:
    """Tell both versions, the client's and the API server's."""
    old = faults.OLD_VERSION in caller.switched_on
    client, server = (identity.OLD,) * 2 if old else (caller.version, world.version)
    shown = [identity.component(client), identity.server(server)]
    caller.show(shown, identity.rows(shown))
    return 0


def system_df(world: World, caller: Caller) -> int:
    """Count what there is; nothing takes room on a disk."""
    running = sum(one.state == "running" for one in world.containers.all())
    counts = {
        "containers": (running, len(world.containers.all())),
        "images": (0, len(world.images.all())),
        "volumes": (0, 0),
    }
    shown = {
        name: {"active": active, "reclaimable": 0, "sizeInBytes": 0, "total": total}
        for name, (active, total) in counts.items()
    }
    caller.say_json(shapes.pretty(shown))
    return 0


#: Every command that is emulated, by its full name.
COMMANDS: Final[Mapping[str, Callable[[World, Caller], int]]] = {
    "run": about_containers.run,
    "create": about_containers.create,
    "start": about_containers.start,
    "stop": about_containers.stop,
    "kill": about_containers.kill,
    "delete": about_containers.delete,
    "prune": about_containers.prune,
    "exec": about_containers.execute,
    "list": about_containers.list_all,
    "inspect": about_containers.inspect,
    "logs": about_containers.logs,
    "copy": about_containers.copy,
    "network create": network_create,
    "network delete": network_delete,
    "network list": network_list,
    "network inspect": network_inspect,
    "network prune": network_prune,
    "image list": image_list,
    "image inspect": image_inspect,
    "image load": image_load,
    "image tag": image_tag,
    "image delete": image_delete,
    "image pull": image_pull,
    "build": build,
    "system status": system_status,
    "system version": system_version,
    "system df": system_df,
}


def answer(world: World, caller: Caller) -> int:
    """Do what a command line says; returns its exit status.

    Raises:
        RefusedError: it fails; the message is for stderr.
    """
    name = caller.parsed.command
    if name not in COMMANDS:
        known = name in grammar.commands(caller.version)
        raise RefusedError(f"`container {name}` is not emulated" if known else f"no {name}")
    return COMMANDS[name](world, caller)
