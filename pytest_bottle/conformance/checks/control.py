"""HST: ways to what controls the host: its engine's sockets, its agents', and the hypervisor's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.direct import is_heard, lost, open_control
from pytest_bottle.conformance.encounters import NEARBY, Post, attempt, settle
from pytest_bottle.conformance.registry import Witness, check
from pytest_bottle.firing import fire

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Operation, Record

#: Where engines and agents of a desktop listen; a variable may name one.
_KNOWN = (
    *("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock", "/run/buildkit.sock"),
    *("/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd.sock"),
    *("/run/dbus/system_bus_socket", "/run/user/1000/bus", "/run/user/0/bus"),
    *("/run/systemd/private", "/run/systemd/notify", "/run/snapd.socket"),
    *("/run/libvirt/libvirt-sock", "/run/host-services/ssh-auth.sock"),
    "/tmp/.X11-unix/X0",  # noqa: S108 - in the guest
    *(f"/{folder}/S.gpg-agent" for folder in ("run/user/1000/gnupg", "root/.gnupg")),
    *("$SSH_AUTH_SOCK", "$DOCKER_SOCK", "$GPG_AGENT_INFO"),
)
#: Below these any program may have put one; mount points are looked at wherever they are.
_FOLDERS = ("/run", "/var", "/tmp", "/home", "/root", "/mnt", "/opt", "/srv")  # noqa: S108 - there
#: The ports of engines' own interfaces, without TLS and with it, and what is often beside them.
_PORTS = (2375, 2376, 4243, 8080, 9090)
#: Where Docker Desktop, Apple's vmnet and gvisor-tap-vsock have their host or its proxy.
_ELSEWHERE = ("192.168.65.7", "192.168.64.1", "192.168.127.1", "192.168.127.254")


def _agents(bench: Bench) -> list[User]:
    return [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]


@check(
    "HST-05",
    "Engine and host control sockets are absent",
    witness=Witness.AT_HOST,
    needs=frozenset({Feature.LAB, Feature.HOST_EXEC, Feature.OPEN_GUEST}),
    evidence=(
        "CVE-2025-9074 (Docker Desktop's engine API from any container)",
        "https://github.com/anthropic-experimental/sandbox-runtime: its README on docker.sock",
    ),
)
def control_sockets_are_absent(bench: Bench) -> str:
    """No socket of an engine, an agent of keys, a message bus or a display lies in the agent's
    files or can be connected to: in the folders where programs put them, at mount points and in
    those. No engine's interface answers by TCP, at the gateway or where desktop engines have it.
    The host listens on those ports itself, so that there is something to be reached. Of the network
    that gvisor-tap-vsock makes, its gateway and its host are tried: the rest of it are guests.
    """
    files = [_files(bench, user) for user in _agents(bench)]
    return "; ".join([*files, _at_the_gateway(bench), _elsewhere(bench)])


def _files(bench: Bench, user: User) -> str:
    what = {"kind": "unix-sockets", "folder": "/tmp", "folders": _FOLDERS, "known": _KNOWN}  # noqa: S108
    record: Record = bench.probe(Vantage.AGENT, {**what, "deadline": 5.0}, user=user)
    reached = [path for path, one in record.get("answers", {}).items() if one == "done"]
    if reached or record.get("found"):
        raise bench.violation(
            f"as {user.value} the agent finds {record.get('found')}, and can connect to {reached}"
        )
    if record.get("own") != "done" or not record.get("complete"):
        raise bench.inconclusive(f"as {user.value} not even a socket of its own is found: {record}")
    tried, mounts = len(record["answers"]), len(record["mounts"])
    return f"as {user.value} {mounts} mounts, no socket, {tried} known ones absent"


def _tcp(bench: Bench, hosts: tuple[str, ...]) -> list[Operation]:
    return [
        attempt(
            f"tcp/{port} to {host}",
            Vantage.AGENT,
            {"kind": "tcp", "host": host, "port": port, "deadline": NEARBY},
            user,
        )
        for host in hosts
        for port in _PORTS
        for user in _agents(bench)
    ]


def _at_the_gateway(bench: Bench) -> str:
    topology, outer = bench.topology, bench.topology.egress.gateway
    post = Post(
        *(bench.backend, topology, Vantage.HOST, _PORTS[0]),
        callers=[(Vantage.OPEN, outer)],
        more={"tcp": [*_PORTS]},
    )
    tries = _tcp(bench, (topology.internal.gateway,))
    controls = [
        attempt(f"tcp/{port}", Vantage.OPEN, {"kind": "tcp", "host": outer, "port": port})
        for port in _PORTS
    ]
    with post.open():
        volley = fire(bench.backend, topology, [*tries, *controls], NEARBY)
    unheard = [one.name for one in controls if not post.book.names(one)]
    deaf = post.deaf or (f"the host did not even hear {unheard[0]}" if unheard else "")
    source = topology.agent_address
    note = settle(bench, volley, tries, lambda one: post.book.names(one, source), deaf)
    return f"gateway: {note}"


def _elsewhere(bench: Bench) -> str:
    if Feature.EVERY_ADDRESS not in bench.features:
        return "elsewhere: not asked, for nobody can tell what is at these addresses"
    tries = _tcp(bench, _ELSEWHERE)
    mark = bench.backend.internet.mark()
    volley = fire(bench.backend, bench.topology, tries, NEARBY)
    hearing = bench.backend.internet.heard(mark)
    why = lost(hearing) or open_control(bench, tries)
    note = settle(
        bench, volley, tries, lambda one: is_heard(hearing, one, [str(one.what["host"])]), why
    )
    return f"elsewhere: {note}"


@check(
    "HST-07",
    "vsock leads nowhere",
    witness=Witness.NO,
    needs=frozenset({Feature.HOST_EXEC}),
    evidence=(
        "https://github.com/moby/moby/pull/44562",
        "https://github.com/containerd/containerd/issues/7442",
        "https://github.com/podman-container-tools/container-libs/pull/575",
        "https://github.com/kubevirt/enhancements/pull/223",
    ),
)
def vsock_leads_nowhere(bench: Bench) -> str:
    """AF_VSOCK sockets, which reach a hypervisor from any network namespace, cannot be opened by
    the agent or its root. An address is never called: whoever is behind it belongs to the machine.
    So a socket that opens is a violation already, whatever it would have reached.
    """
    notes = []
    for user in _agents(bench):
        record = bench.probe(Vantage.AGENT, {"kind": "vsock"}, user=user)
        answers: dict[str, str] = record.get("answers", {})
        opened = [name for name, one in answers.items() if one == "done"]
        if opened:
            raise bench.violation(f"as {user.value} the agent can open AF_VSOCK {opened}")
        if not answers or set(answers.values()) - {"EAFNOSUPPORT", "EPERM", "EACCES"}:
            raise bench.inconclusive(f"as {user.value}, neither refused nor opened: {record}")
        notes.append(f"{user.value}: {', '.join(sorted(set(answers.values())))}")
    host = bench.probe(Vantage.HOST, {"kind": "vsock"}).get("answers", {})
    return f"{'; '.join(notes)}; the host's own: {', '.join(sorted(set(host.values())))}"
