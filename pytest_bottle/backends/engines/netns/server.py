"""The fork-server: first process of the session's PID namespace, parent of every guest.

It was exec'd clean, so that no guest inherits pytest's memory, environment or open files, and it
imports nothing but the standard library and h11. Single-threaded: it forks.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns import canary, confine, linux, refusal, residue
from pytest_bottle.backends.engines.netns.fabric import Attachment, Fabric, Namespace
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.guest import proxy
from pytest_bottle.internet import origin, witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STARTUP = 10.0
#: Seconds for the kernel to take away what a removed guest left; usually 0.03.
_SETTLE = 2.0
_EVERYTHING = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
#: Users a command may run as, and the user namespace each lives in.
AGENT, ROOT, PRIVILEGED = "agent", "root", "privileged"
HOST = "host"
_SLEEP = "/usr/bin/sleep" if os.path.exists("/usr/bin/sleep") else "/bin/sleep"


class Guest(NamedTuple):
    """A running guest: its first process and its cables."""

    name: str
    pidfd: int
    pid: int
    space: Namespace
    cables: list[Attachment]
    log: str


def main(
    control: socket.socket, minters: tuple[socket.socket, ...], settings: _wire.Message
) -> None:
    """Run the server on its control socket until the owner closes it."""
    try:
        server = _start(control, minters, settings)
    except OSError as error:
        _wire.send(control, {"error": refusal.explain(error)})
        raise
    server.run()


def _start(
    control: socket.socket, minters: tuple[socket.socket, ...], settings: _wire.Message
) -> Server:
    sources = confine.collect(settings["prefixes"])
    # From here on the process is the namespace's root, an id of the machine that owns nothing.
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.set_dumpable(True)
    linux.die_with_parent()  # again: a change of ids has cancelled it (prctl(2))
    linux.set_name("bottle-server")
    confine.build_template(sources)
    _find_ourselves_again()
    return Server(control, *minters, paths=list(sources.trees))


def _find_ourselves_again() -> None:
    """Import the rest of this package from where the server's own root has it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pytest_bottle" and hasattr(module, "__path__"):
            module.__path__ = [f"{confine.CODE}/{name.replace('.', '/')}"]


class Server:
    """What the owner can ask for, one method an operation."""

    def __init__(
        self,
        control: socket.socket,
        minter: socket.socket,
        origin_minter: socket.socket,
        *,
        paths: list[str],
    ) -> None:
        self._control = control
        self._paths = paths
        self._minter = minter
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._home_pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._seccomp = linux.seccomp_filter()
        self._users: dict[str, int | None] = {
            AGENT: confine.make_user_namespace(confine.AGENT_UID),
            ROOT: confine.make_user_namespace(0),
            PRIVILEGED: None,
        }
        self._guests: dict[str, Guest] = {}
        self._exits: dict[int, Callable[[int], None]] = {}
        self._running: dict[str, int] = {}
        self._undertakers: set[int] = set()
        self._trusted = False
        self._kept = False
        self._fabric = Fabric(self._home)
        self._lab = self._start_lab(origin_minter)

    # -- the loop -------------------------------------------------------------

    def run(self) -> None:
        """Answer requests and reap children until the owner is gone, or for ever if it says so."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        self._reap()
        while True:
            for key, _ in selector.select():
                if key.fileobj is not self._control:
                    os.read(wake_read, 4096)
                    self._reap()
                    continue
                try:
                    self._answer()
                except _wire.Closed:
                    if not self._kept:
                        return
                    selector.unregister(self._control)

    def _answer(self) -> None:
        request, fds = _wire.receive(self._control)
        reply_fds: tuple[int, ...] = ()
        try:
            operation = getattr(self, f"op_{request.pop('op')}")
            reply, reply_fds = operation(request, fds)
        except Refused as refused:
            reply = {"error": refused.fields}
        except (OSError, LookupError, ValueError, TypeError) as error:
            reply = {"error": {"what": f"the netns engine failed: {error}"}}
        finally:
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)
        _wire.send(self._control, reply, reply_fds)
        for fd in reply_fds:
            os.close(fd)

    def _reap(self) -> None:
        """Take every child that has ended."""
        with suppress(ChildProcessError):
            while self._reap_one(os.WNOHANG):
                pass

    def _reap_one(self, options: int = 0) -> bool:
        pid, status = os.waitpid(-1, options)
        if pid:
            self._exits.pop(pid, _nobody_asked)(status)
        return pid != 0

    def op_hello(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Say that the server is there."""
        return {"ok": True}, ()

    def op_keep(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Outlive the owner."""
        self._kept = True
        return {"ok": True}, ()

    # -- the lab ----------------------------------------------------------------

    def _start_lab(self, minter: socket.socket) -> tuple[int, int]:
        ends = []
        lab = self._fabric.lab
        with lab.entered():
            packets = witness.open_packet_socket()
        for part in ("witness", "origin"):
            ours, theirs = socket.socketpair()
            serve = {
                "witness": partial(witness.serve, theirs, packets),
                "origin": partial(origin.serve, theirs, minter),
            }[part]
            keep = (theirs.fileno(), packets.fileno(), minter.fileno())
            self._fork(keep, partial(self._be_lab, part, serve))
            theirs.close()
            ends.append(ours.detach())
        packets.close()
        minter.close()
        return ends[0], ends[1]

    def _be_lab(self, part: str, serve: Callable[[], None]) -> None:
        linux.set_name(f"bottle-{part}")
        linux.setns(self._fabric.lab.fd, linux.CLONE_NEWNET)
        confine.harden(self._users[AGENT], self._seccomp)
        serve()

    def op_lab(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Hand out the control ends of the witness and the origins."""
        ends, self._lab = self._lab, (-1, -1)
        return {"ok": True}, ends

    def op_trust(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Mint the certificate authority, once, and let every guest trust it."""
        if not self._trusted:
            answer, _ = _wire.call(self._minter, {"op": "ca"}, timeout=_STARTUP)
            if "error" in answer:
                raise Refused(what="the lab's certificates could not be minted", **answer)
            path = f"{confine.STATE}/trust/{os.path.basename(confine.TRUST_FILE)}"
            with open(path, "w") as file:
                file.write(answer["pem"])
            self._trusted = True
        return {"file": confine.TRUST_FILE}, ()

    # -- networks and guests ------------------------------------------------------

    def op_network_add(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Make a network."""
        if request["name"] in self._fabric.networks:
            raise Refused(what="a network of this name exists", where=request["name"])
        network = self._fabric.add_network(request["name"], internal=request["internal"])
        fields = ("name", "internal", "subnet", "gateway", "bridge")
        return {field: getattr(network, field) for field in fields}, ()

    def op_network_remove(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Delete networks: at once for their users, a little later in the kernel."""
        networks = [self._fabric.retire_network(name) for name in request["names"]]
        host = (self._fabric.host.fd,)
        pid = self._fork(host, lambda: self._fabric.demolish(networks))
        self._undertakers.add(pid)

        def buried(_status: int) -> None:
            self._undertakers.discard(pid)
            self._fabric.forget(networks)

        self._exits[pid] = buried
        return {"ok": True}, ()

    def _settle(self) -> None:
        """Wait until what was removed is gone from the kernel, for a second or two at most."""
        end = time.monotonic() + _SETTLE
        while self._undertakers:
            self._reap_one()
        while self._fabric.still_dying() and time.monotonic() < end:
            time.sleep(0.002)

    def op_guest_add(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Start a guest: namespaces, cables, file system, an idle first process."""
        name = request["name"]
        if name in self._guests:
            raise Refused(what="a guest of this name exists", where=name)
        space = Namespace(self._home)
        cables: list[Attachment] = []
        try:
            cables = self._fabric.attach(name, space, request["networks"])
            identity = _identity(request["hostname"], cables, request["resolver"])
            guest = self._start_guest(name, identity, space, cables)
        except BaseException:
            self._fabric.release(name, cables)
            space.close()
            raise
        self._guests[name] = guest
        return _describe(guest), ()

    def _start_guest(
        self, name: str, identity: confine.Identity, space: Namespace, cables: list[Attachment]
    ) -> Guest:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        linux.unshare(linux.CLONE_NEWPID)
        try:
            pid = self._fork(
                (ready_write, space.fd),
                lambda: self._be_first_process(name, identity, space, ready_write),
            )
        finally:
            linux.setns(self._home_pid, linux.CLONE_NEWPID)
            os.close(ready_write)
        try:
            _await_ready(ready_read, f"guest {name}")
        finally:
            os.close(ready_read)
        self._exits[pid] = _nobody_asked
        log = f"{confine.STATE}/guests/{name}/log"
        return Guest(name, os.pidfd_open(pid), pid, space, cables, log)

    def _be_first_process(
        self, name: str, identity: confine.Identity, space: Namespace, ready: int
    ) -> None:
        try:
            linux.setns(space.fd, linux.CLONE_NEWNET)
            linux.unshare(linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)
            confine.enter_root(name, identity, self._paths)
            confine.harden(self._users[AGENT], self._seccomp)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # survives the exec: the kernel reaps
            os.write(ready, b"ready")
            # An exec sheds this server's memory, which others in the guest could read.
            os.execve(_SLEEP, ["sleep", "2147483647"], {})
        except OSError as error:
            os.write(ready, str(error).encode())

    def op_guest_remove(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Stop guests, all of them at once, and remove every trace of them."""
        guests = [self._guests.pop(name) for name in request["names"] if name in self._guests]
        for guest in guests:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(guest.pidfd, signal.SIGKILL)
        for guest in guests:
            self._bury(guest)
        return {"ok": True}, ()

    def _bury(self, guest: Guest) -> None:
        # A first process ends only when every other of its namespace has been reaped, and those
        # that came in from here are our children too: take whoever is next until it is he.
        while guest.pid in self._exits:
            self._reap_one()
        os.close(guest.pidfd)
        if guest.name != HOST:
            self._fabric.release(guest.name, guest.cables)
            guest.space.close()
        folder = f"{confine.STATE}/guests/{guest.name}"
        for entry in os.listdir(folder):
            os.unlink(f"{folder}/{entry}")
        os.rmdir(folder)

    # -- what runs in a guest -------------------------------------------------------

    def op_exec(self, request: _wire.Message, fds: list[int]) -> _Reply:
        """Run a command in a guest on three files of the owner's; the fourth gets its end.

        The status file gets one JSON line: ``{"exit": code}``, ``{"signal": number}`` or
        ``{"error": text, "errno": n}`` when the command could not be run at all.
        """
        guest, user = self._guest(request["guest"]), request["user"]
        keep = frozenset({linux.CAP_NET_ADMIN, linux.CAP_NET_RAW}) if user == PRIVILEGED else ()
        stdin, stdout, stderr, status = fds
        argv, environment, folder = request["argv"], request["environment"], request["folder"]

        def run() -> None:
            try:
                for number, fd in enumerate((stdin, stdout, stderr)):
                    os.dup2(fd, number)
                confine.harden(self._users[user], self._seccomp, frozenset(keep))
                os.chdir(folder)
                os.execvpe(argv[0], argv, environment)
            except OSError as error:
                _report(status, {"error": f"{argv[0]}: {error.strerror}", "errno": error.errno})
                os._exit(127)

        pid = self._fork_into(guest, (stdin, stdout, stderr, status), run)
        self._running[request["id"]] = pid
        mine = os.dup(status)

        def ended(exit_status: int) -> None:
            self._running.pop(request["id"], None)
            code = os.waitstatus_to_exitcode(exit_status)
            with suppress(BrokenPipeError):
                _report(mine, {"exit": code} if code >= 0 else {"signal": -code})
            os.close(mine)

        self._exits[pid] = ended
        return {"pid": pid}, ()

    def op_kill(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Kill a command that is still running, and its session."""
        pid = self._running.get(request["id"])
        if pid is not None:
            for target in (-pid, pid):
                with suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
        return {"killed": pid is not None}, ()

    def op_sidecar(self, request: _wire.Message, fds: list[int]) -> _Reply:
        """Run the reference sidecar in a guest, on its internal address and published sockets."""
        guest = self._guest(request["guest"])
        published = [socket.socket(fileno=os.dup(fd)) for fd in fds]
        published += [self._listen_at_host(*address) for address in request["publish"]]
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        log = os.open(guest.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        config = proxy.Config.from_json(request["config"])
        address, port = request["listen"]

        def run() -> None:
            linux.set_name("bottle-sidecar")
            listener = _listener(address, port)
            confine.harden(self._users[AGENT], self._seccomp)
            linux.set_dumpable(False)
            os.write(ready_write, b"ready")
            os.close(ready_write)
            proxy.serve(config, [listener], published, _Audit(log))

        keep = (ready_write, log, *(s.fileno() for s in published))
        try:
            self._fork_into(guest, keep, run)
            os.close(ready_write)
            _await_ready(ready_read, f"sidecar {guest.name}")
        finally:
            os.close(ready_read)
            os.close(log)
            for sock in published:
                sock.close()
        return {"ok": True}, ()

    def _listen_at_host(self, address: str, port: int) -> socket.socket:
        with self._fabric.host.entered():
            try:
                return _listener(address, port)
            except OSError as error:
                raise Refused(
                    what="a port cannot be published",
                    where=f"{address}:{port} of the bottle's host",
                    expected="a free port on a loopback address",
                    seen=str(error.strerror),
                    next_step="another bottle may publish it; leave the address out and a free "
                    "one is chosen",
                ) from error

    def op_canaries(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Start the canary services of H: what any host has listening."""
        host = self._guest(HOST)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        log = os.open(host.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

        def run() -> None:
            linux.set_name("bottle-canary")
            sockets = canary.listen(request["wildcard"], request["loopback"])
            confine.harden(self._users[AGENT], self._seccomp)
            os.write(ready_write, b"ready")
            canary.serve(sockets, log)

        try:
            self._fork_into(host, (ready_write, log), run)
            os.close(ready_write)
            _await_ready(ready_read, "the host's canaries")
        finally:
            os.close(ready_read)
            os.close(log)
        return {"ok": True}, ()

    def op_logs(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Hand out the log of a guest, open for reading."""
        guest = self._guest(request["guest"])
        fd = os.open(guest.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return {"ok": True}, (fd,)

    def _guest(self, name: str) -> Guest:
        if name == HOST and HOST not in self._guests:
            # H gets a first process only when somebody asks for a command there.
            identity = _identity("bottle-host", [], None)
            self._guests[HOST] = self._start_guest(HOST, identity, self._fabric.host, [])
        if name not in self._guests:
            raise Refused(
                what="there is no such guest",
                where=name,
                expected=", ".join(self._guests) or "a running guest",
                seen="none of this name",
            )
        return self._guests[name]

    def op_pids(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Hand out a pidfd of every guest's first process: its number depends on who asks."""
        guests = list(self._guests.values())[:16]
        return {"names": [g.name for g in guests]}, tuple(os.dup(g.pidfd) for g in guests)

    # -- administration and the end ---------------------------------------------------

    def op_configure(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Change links, routes, rules or settings of H, the lab or a guest."""
        where = request["where"]
        fabric = self._fabric
        space = {"lab": fabric.lab, HOST: fabric.host}.get(where) or self._guest(where).space
        for verb, *arguments in request["changes"]:
            if verb == "sysctl":
                space.sysctls({arguments[0]: arguments[1]})
            elif verb in ("rule", "delete_rule"):
                getattr(space.netlink, verb)(Rule(**arguments[0]))
            elif verb in ("route", "delete_route", "up", "delete_link"):
                getattr(space.netlink, verb)(
                    arguments[0], **(arguments[1] if arguments[1:] else {})
                )
            else:
                raise ValueError(f"unknown change {verb!r}")
        space.netlink.flush()
        return {"ok": True}, ()

    def op_inventory(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """List what is there, as the kernel tells it and not as this server remembers it."""
        self._settle()
        with self._fabric.host.entered():
            listeners = residue.listeners()
        return {
            "link": self._fabric.host.netlink.links(),
            "process": residue.processes(),
            "namespace": residue.network_namespaces(),
            "listener": listeners,
            "file": residue.files(f"{confine.STATE}/guests"),
        }, ()

    # -- forking ------------------------------------------------------------------------

    def _fork(self, keep: Iterable[int], run: Callable[[], None]) -> int:
        """Fork a child that has no files but ``keep``, runs and exits."""
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            users = (fd for fd in self._users.values() if fd is not None)
            confine.close_all_but((0, 1, 2, self._fabric_fd(), *users, *keep))
            run()
        except BaseException as error:  # noqa: BLE001 - the child's last words, then its end
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)

    def _fabric_fd(self) -> int:
        fabric = getattr(self, "_fabric", None)
        return fabric.lab.fd if fabric else 2

    def _fork_into(self, guest: Guest, keep: Iterable[int], run: Callable[[], None]) -> int:
        """Fork a child that lives in a guest's namespaces before it runs."""

        def inside() -> None:
            linux.setns(guest.pidfd, _EVERYTHING)
            run()

        linux.setns(guest.pidfd, linux.CLONE_NEWPID)
        try:
            return self._fork((guest.pidfd, *keep), inside)
        finally:
            linux.setns(self._home_pid, linux.CLONE_NEWPID)


_Reply = tuple[_wire.Message, tuple[int, ...]]


class Refused(Exception):  # noqa: N818 - an answer
    """A request that cannot be met, in the words of an error of the owner's."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields
        super().__init__(fields.get("what", ""))


class _Audit:
    """Appends audit records to a guest's log, one JSON line each, whole."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, record: dict[str, Any]) -> None:
        os.write(self._fd, json.dumps(record, separators=(",", ":")).encode() + b"\n")


def _identity(hostname: str, cables: list[Attachment], resolver: str | None) -> confine.Identity:
    own = "".join(f"{cable.ipv4} {hostname}\n" for cable in cables[-1:])
    hosts = f"127.0.0.1 localhost\n::1 localhost\n{own}"
    if resolver is None:
        return confine.Identity(hostname, hosts)
    return confine.Identity(hostname, hosts, f"nameserver {resolver}\n")


def _nobody_asked(_status: int) -> None:
    """Take note of a child's end that nobody waits for."""


def _listener(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def _await_ready(fd: int, who: str) -> None:
    end = time.monotonic() + _STARTUP
    selector = selectors.DefaultSelector()
    selector.register(fd, selectors.EVENT_READ)
    said = b""
    while said != b"ready":
        if not selector.select(max(0.0, end - time.monotonic())):
            raise Refused(what=f"{who} was not ready within {_STARTUP:g} s")
        part = os.read(fd, 4096)
        if not part:
            raise Refused(what=f"{who} did not start", seen=said.decode() or "it ended at once")
        said += part


def _report(fd: int, status: dict[str, object]) -> None:
    os.write(fd, json.dumps(status).encode() + b"\n")


def _describe(guest: Guest) -> _wire.Message:
    return {"name": guest.name, "pid": guest.pid, "cables": [c._asdict() for c in guest.cables]}
