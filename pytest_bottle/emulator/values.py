"""What the values of options mean, and which are refused; as in Apple's parser, in its words."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_NETWORK_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_LABEL_KEY: Final = re.compile(
    r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
    r"(?:/[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*)*"
)
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_NAMES: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER
SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
CHECKPOINT_RESTORE
"""
#: The names of capabilities by their numbers (capabilities(7)).
CAPABILITIES: Final = tuple(_NAMES.split())
_DEFAULT: Final = 0x00000000A80425FB
_LEAST_MEMORY: Final = 200 << 20
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
DEFAULT_MTU: Final = 1280


class RefusedError(Exception):
    """What ``container`` says on stderr behind ``Error:``, and its exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def check_name(name: str, version: str) -> None:
    """Refuse what is no container's name; 1.2.0 made the rule stricter, and the words others."""
    good = _NAME.fullmatch(name) is not None
    if version < "1.2.0":
        if not good:
            raise RefusedError(f"invalid entity name {name}")
    elif not good or len(name) > 63:
        raise RefusedError(f"container ID {name} is not a valid container ID")


def check_network_name(name: str) -> None:
    """Refuse what is no network's name."""
    if name == "none":
        raise RefusedError("network none is not a valid name")
    if not _NETWORK_NAME.fullmatch(name):
        raise RefusedError(f"invalid network name: {name}")


class Wanted(NamedTuple):
    """A network as an option of ``run`` names it."""

    network: str
    mac: str | None = None
    mtu: int = DEFAULT_MTU


def networks(texts: Sequence[str]) -> list[Wanted]:
    """Read the ``--network`` options; ``none`` alone gives none, no option ``default``."""
    if not texts:
        return [Wanted("default")]
    wanted = [_network(text) for text in texts]
    if any(one.network == "none" for one in wanted):
        if len(wanted) > 1:
            raise RefusedError("no other networks may be created along with network none")
        return []
    names = [one.network for one in wanted]
    if len(set(names)) < len(names):
        # The real one hands the same address out twice; nobody can want that.
        raise RefusedError(f"a network is named twice: {', '.join(names)} (not emulated)")
    return wanted


def _network(text: str) -> Wanted:
    name, *properties = text.split(",")
    found = Wanted(name)
    for one in properties:
        key, _, value = one.partition("=")
        if key == "mac" and _MAC.fullmatch(value):
            found = found._replace(mac=value.lower())
        elif key == "mtu" and value.isdecimal() and DEFAULT_MTU <= int(value) <= 65535:
            found = found._replace(mtu=int(value))
        elif key in ("mac", "mtu"):
            raise RefusedError(f"invalid {key} value '{value}' in network specification '{text}'")
        else:
            known = "Available properties: mac, mtu"
            raise RefusedError(f"unknown network property '{key}'. {known}")
    return found


def publish(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Read the ``--publish`` options into the shape they have in JSON."""
    found = [_published(text) for text in texts]
    if len(found) > 64:
        raise RefusedError("cannot exceed more than 64 port publish descriptors")
    taken: set[tuple[str, int]] = set()
    for one in found:
        ports = {(one["proto"], one["hostPort"] + n) for n in range(one["count"])}
        if taken & ports:
            raise RefusedError("host ports for different publish port specs may not overlap")
        taken |= ports
    return found


def _published(text: str) -> dict[str, Any]:
    body, _, protocol = text.partition("/")
    parts = re.fullmatch(r"(?:(\[[^\]]*\]|[^:\[\]]*):)?([0-9-]+):([0-9-]+)", body)
    if parts is None or protocol not in ("", "tcp", "udp"):
        raise RefusedError(f"invalid publish value: {text}")
    host, outer, inner = (parts[1] or "0.0.0.0").strip("[]"), _range(parts[2]), _range(parts[3])
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise RefusedError(f"invalid publish IPv4 address: {host}") from None
    if len(outer) != len(inner):
        raise RefusedError(f"publish host and container port counts are not equal: {text}")
    return {
        "containerPort": inner[0],
        "count": len(inner),
        "hostAddress": host,
        "hostPort": outer[0],
        "proto": protocol or "tcp",
    }


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or (last and not last.isdecimal()):
        raise RefusedError(f"invalid publish port: {text}")
    ports = range(int(first), int(last or first) + 1)
    if not ports or not 1 < ports[0] <= ports[-1] <= 65535:
        raise RefusedError(f"invalid publish port: {text}")
    return ports


def labels(texts: Iterable[str]) -> dict[str, str]:
    """Read a container's labels: keys are not looked at, a second ``=`` is refused."""
    found = {}
    for text in texts:
        key, *values = text.split("=")
        if not text or len(values) > 1:
            raise RefusedError(f"invalid label format {text}")
        found[key] = values[0] if values else ""
    return found


def network_labels(texts: Iterable[str]) -> dict[str, str]:
    """Read a network's labels: keys have to look like names of domains."""
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not _LABEL_KEY.fullmatch(key) or len(key) > 128:
            raise RefusedError(f'invalidKeyFormat("{key}")')
        if len(text) > 4096:
            raise RefusedError(f'invalidLabelLength("{text}")')
        found[key] = value
    return found


def environment(
    texts: Iterable[str], files: Iterable[str], callers: Mapping[str, str], folder: str
) -> list[str]:
    """Read variables, from files and options; a bare name takes the caller's value, if any."""
    lines: list[str] = []
    for name in files:
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                lines += [line for line in file.read().splitlines() if line[:1] not in ("", "#")]
        except OSError as error:
            raise RefusedError(f"failed to read envfile at {name}: {error.strerror}") from None
    found = {}
    for text in (*lines, *texts):
        key, equals, value = text.partition("=")
        if equals or key in callers:
            found[key] = value if equals else callers[key]
    return [f"{key}={value}" for key, value in found.items()]


def capability(name: str) -> str:
    """Normalise the name of a capability: ``CAP_X``, or ``ALL``."""
    upper = name.upper().removeprefix("CAP_")
    if upper == "ALL":
        return upper
    if upper not in CAPABILITIES:
        raise RefusedError(f"invalid capability: {name}")
    return f"CAP_{upper}"


def effective(added: Sequence[str], dropped: Sequence[str]) -> list[int]:
    """Work out a container's capabilities, by number, from how it was created (S39)."""
    everything = set(range(len(CAPABILITIES)))
    have = {number for number in everything if _DEFAULT >> number & 1}
    if "ALL" in dropped:
        have = set()
    if "ALL" in added:
        have = everything
    have |= {CAPABILITIES.index(name[4:]) for name in added if name != "ALL"}
    have -= {CAPABILITIES.index(name[4:]) for name in dropped if name != "ALL"}
    return sorted(have)


#: What is masked and what is read-only in a guest from 1.2.0 on, if nobody says otherwise.
MASKED: Final = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def paths(known: Sequence[str], asked: Iterable[str]) -> list[str]:
    """Add the paths of an option to those that there are; ``NONE`` forgets all before it."""
    found = list(known)
    for one in asked:
        found = [] if one == "NONE" else [*found, one]
    return found


def memory(text: str) -> int:
    """Read an amount of memory in bytes; at least 200 MiB."""
    parts = re.fullmatch(r"([0-9]+)([kmgtp]?)(?:i?b)?", text.lower())
    if parts is None:
        raise RefusedError(f"invalid memory value: {text}", 64)
    size = int(parts[1]) << _UNITS[parts[2]]
    if size < _LEAST_MEMORY:
        said = f"minimum memory amount allowed is 200 MiB (got {size} bytes)"
        raise RefusedError(said)
    return size


def user(name: str, uid: str, gid: str, fallback: str | None) -> dict[str, Any]:
    """Read who a process is to run as, in the shape it has in JSON."""
    if name:
        return {"raw": {"userString": name}}
    if uid and gid:
        return {"id": {"gid": int(gid), "uid": int(uid)}}
    if uid:
        return {"raw": {"userString": uid}}
    if fallback is not None:
        return {"raw": {"userString": fallback}}
    return {"id": {"gid": 0, "uid": 0}}


#: The users in a guest's passwd, and their groups.
_USERS: Final = {"root": 0, "agent": 1000, "nobody": 65534}


def ids(described: Mapping[str, Any]) -> tuple[int, int]:
    """Find the numbers of a user and its group, as the guest's passwd has them."""
    if "id" in described:
        return described["id"]["uid"], described["id"]["gid"]
    text = described["raw"]["userString"]
    name, _, group = text.partition(":")
    numbers = [_USERS.get(part, int(part) if part.isdecimal() else -1) for part in (name, group)]
    uid = numbers[0] if name else 0
    if uid < 0 or (group and numbers[1] < 0):
        raise RefusedError(f"failed to find user '{text}' in passwd of the container")
    return uid, numbers[1] if group else (uid if uid in _USERS.values() else 0)


def addresses(texts: Iterable[str]) -> list[str]:
    """Read DNS servers: addresses, nothing else."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_address(text)))
        except ValueError:
            raise RefusedError(f"invalid nameserver address: {text}") from None
    return found
