"""What ``run`` and ``create`` make of their options, checked in Apple's order."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator import values
from pytest_bottle.emulator.containers import Container
from pytest_bottle.emulator.shapes import now
from pytest_bottle.emulator.values import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.emulator.caller import Caller
    from pytest_bottle.emulator.images import Images
    from pytest_bottle.emulator.networks import Networks

#: Options whose effect has no counterpart here: a run that asks for one is refused, not ignored.
_NOT_EMULATED: Final = (
    *("--volume", "--mount", "--publish-socket", "--ssh", "--virtualization", "--kernel"),
    *("--init-image", "--runtime", "--rosetta", "--shm-size", "--ulimit"),
)
#: Where a guest has file systems of its own in memory.
_OPEN: Final = ("/tmp", "/run", "/var", "/home", "/root", "/dev/shm")  # noqa: S108
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def container(
    caller: Caller, images: Images, networks: Networks, exists: Callable[[str], bool]
) -> Container:
    """Make a container of a ``run`` or ``create``, not yet known to anybody.

    Raises:
        RefusedError: something that was asked for does not exist, or not here.
    """
    asked = caller.parsed
    name = asked.one("--name") or str(uuid.uuid4())
    values.check_name(name, caller.version)
    if asked.command == "run" and exists(name):
        raise RefusedError(f"container with id {name} already exists")
    image = images.get(asked.words("image")[0])
    for option in _NOT_EMULATED:
        if asked.has(option):
            raise RefusedError(f"the option {option} is not emulated")
    init = _process(caller, image["variants"][0]["config"].get("config", {}))
    memory = values.memory(asked.one("--memory", "1G"))
    mounts = [_tmpfs(path) for path in asked.all("--tmpfs")]
    attached = _attached(name, asked.all("--network"), networks)
    configuration: dict[str, Any] = {
        "capAdd": [],
        "capDrop": [],
        "creationDate": now(),
        "id": name,
        "image": {
            "descriptor": image["configuration"]["descriptor"],
            "reference": image["configuration"]["name"],
        },
        "initProcess": init,
        "mounts": mounts,
        "networks": attached,
        "platform": {
            "architecture": asked.one("--arch", "arm64"),
            "os": asked.one("--os", "linux"),
        },
        "publishedSockets": [],
        "readOnly": asked.has("--read-only"),
        "resources": {
            "cpuOverhead": 1,
            "cpus": int(asked.one("--cpus", "4")),
            "memoryInBytes": memory,
        },
        "rosetta": False,
        "runtimeHandler": "container-runtime-linux",
        "ssh": False,
        "sysctls": {},
        "useInit": asked.has("--init"),
        "virtualization": False,
    }
    if not asked.has("--no-dns"):
        configuration["dns"] = _dns(caller)
    configuration["labels"] = values.labels(asked.all("--label"))
    configuration["publishedPorts"] = values.publish(asked.all("--publish"))
    for key, option in (("capAdd", "--cap-add"), ("capDrop", "--cap-drop")):
        configuration[key] = [values.capability(one) for one in asked.all(option)]
    for key, option, known in (
        ("maskedPaths", "--masked-path", values.MASKED),
        ("readonlyPaths", "--read-only-path", values.READ_ONLY),
    ):
        if asked.has(option):
            configuration[key] = values.paths(known, asked.all(option))
    return Container(name, configuration, auto_remove=asked.has("--rm"))


def _process(caller: Caller, image: Mapping[str, Any]) -> dict[str, Any]:
    """The first process: the image's entry point and command, changed by options."""
    asked = caller.parsed
    entry: Sequence[str] = image.get("Entrypoint") or []
    words: Sequence[str] = asked.words("arguments") or image.get("Cmd") or []
    if asked.has("--entrypoint"):
        entry, words = [asked.one("--entrypoint")], asked.words("arguments")
    argv = [*entry, *words]
    if not argv or not argv[0]:
        raise RefusedError("command/entrypoint not specified for container process")
    given = values.environment(
        asked.all("--env"), asked.all("--env-file"), caller.environment, caller.folder
    )
    lines = dict(line.partition("=")[::2] for line in (*(image.get("Env") or [_PATH]), *given))
    described = values.user(
        asked.one("--user"), asked.one("--uid"), asked.one("--gid"), image.get("User")
    )
    values.ids(described)
    lone_group = asked.has("--gid") and not asked.has("--uid") and not asked.has("--user")
    return {
        "arguments": argv[1:],
        "environment": [f"{key}={value}" for key, value in lines.items()],
        "executable": argv[0],
        "rlimits": [],
        "supplementalGroups": [int(asked.one("--gid"))] if lone_group else [],
        "terminal": asked.has("--tty"),
        "user": described,
        "workingDirectory": asked.one("--workdir") or image.get("WorkingDir") or "/",
    }


def _tmpfs(path: str) -> dict[str, Any]:
    inside = os.path.normpath(path)
    if not any(f"{inside}/".startswith(f"{known}/") for known in _OPEN):
        raise RefusedError(f"a tmpfs at {path} is not emulated: only in {', '.join(_OPEN)}")
    return {"destination": path, "options": [], "source": "tmpfs", "type": {"tmpfs": {}}}


def _attached(name: str, texts: Sequence[str], networks: Networks) -> list[dict[str, Any]]:
    found = []
    for place, one in enumerate(values.networks(texts)):
        networks.get(one.network)
        # A name with a dot is a domain's, to be looked up: that of the first network only.
        hostname = f"{name}." if "." in name and place == 0 else name
        options: dict[str, Any] = {"hostname": hostname, "mtu": one.mtu}
        if one.mac:
            options["macAddress"] = one.mac
        found.append({"network": one.network, "options": options})
    return found


def _dns(caller: Caller) -> dict[str, Any]:
    asked = caller.parsed
    dns: dict[str, Any] = {
        "nameservers": values.addresses(asked.all("--dns")),
        "options": asked.all("--dns-option"),
        "searchDomains": asked.all("--dns-search"),
    }
    if asked.has("--dns-domain"):
        dns["domain"] = asked.one("--dns-domain")
    return dns
