"""The guests: their namespaces, their first processes, and what is forked into them."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.engines.netns import canary, confine, harm, linux, settling
from pytest_bottle.backends.engines.netns.answers import Refused, words
from pytest_bottle.backends.engines.netns.children import go_home
from pytest_bottle.backends.engines.netns.namespace import Namespace
from pytest_bottle.backends.engines.netns.ready import STARTUP, Ready
from pytest_bottle.backends.engines.netns.rights import Rights, grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_bottle.backends.engines.netns.children import Children
    from pytest_bottle.backends.engines.netns.fabric import Attachment, Fabric

#: Users a command may run as, and the user namespace each lives in.
AGENT, ROOT, PRIVILEGED = "agent", "root", "privileged"
HOST = "host"
PLACES = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
_PRIVILEGES = frozenset({linux.CAP_NET_ADMIN, linux.CAP_NET_RAW})
#: Seconds in which a process whose pipe is closed has a new name, or is a zombie.
_MOMENT = 1.0
_SLEEPS = ("/usr/bin/sleep", "/bin/sleep")


class Guest(NamedTuple):
    """A running guest: its first process and its cables."""

    name: str
    pidfd: int
    pid: int
    space: Namespace
    cables: list[Attachment]

    @property
    def folder(self) -> str:
        """Where the server keeps the guest's own files."""
        return f"{confine.STATE}/guests/{self.name}"

    def open_log(self, *, output: bool = False) -> int:
        """Open the record of the guest's service, to read it or to append to it.

        Args:
            output: what a command of the user's wrote instead; that lies elsewhere, for it may fill
                the file system that it lies in.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        path = f"{confine.OUTPUT}/{self.name}" if output else f"{self.folder}/log"
        return os.open(path, flags, 0o600)


class Wishes(NamedTuple):
    """What a guest is to have that is otherwise chosen for it.

    Attributes:
        numbers: its host number on each of its networks, in their order.
        hosts: the text of ``/etc/hosts``, which its root may change, as all of ``/etc``.
        resolv_conf: the text of ``/etc/resolv.conf``.

    Whoever wishes has a machine of its own in mind, so its first process may gain privileges.
    """

    numbers: Sequence[int]
    hosts: str
    resolv_conf: str


class Users:
    """The standing user namespaces in which commands of guests live."""

    def __init__(self) -> None:
        self.seccomp = linux.seccomp_filter()
        agent, root = settling.make_user_namespaces(confine.AGENT_UID, 0)
        self._namespaces = {AGENT: agent, ROOT: root, PRIVILEGED: None}
        self.files = (agent, root)
        self._others: dict[tuple[int, int], int] = {}

    def prepare(self, rights: Rights) -> int | None:
        """Find the user namespace that a user of these rights lives in; the first makes it."""
        own = (rights.uid, rights.gid)
        if rights.uid == 0:
            return None
        if own not in self._others:
            (self._others[own],) = settling.make_user_namespaces(rights.uid, group=rights.gid)
        return self._others[own]

    def become(self, user: str | Rights, *, may_gain: bool = False) -> None:
        """Turn the calling process into a user's; there is no way back.

        ``may_gain`` is for one of the three; who has rights of its own may in any case.
        """
        if isinstance(user, Rights):
            grant(self.prepare(user), self.seccomp, user)
            return
        keep = _PRIVILEGES if user == PRIVILEGED else frozenset()
        confine.harden(self._namespaces[user], self.seccomp, keep, may_gain=may_gain)


class Guests:
    """All guests of a session.

    Args:
        children: forks and reaps.
        fabric: the networks they hang on.
        users: whom their commands run as.
        paths: the trees of the template, for a guest's root to show.
    """

    def __init__(
        self, children: Children, fabric: Fabric, users: Users, paths: Sequence[str]
    ) -> None:
        self._children = children
        self._fabric = fabric
        self._users = users
        self._paths = paths
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._home_pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._guests: dict[str, Guest] = {}
        self._running: dict[str, int] = {}
        #: Guests that nobody has found idle yet.
        self._starting: set[str] = set()

    def all(self) -> list[Guest]:
        """Every guest that runs."""
        return list(self._guests.values())

    def get(self, name: str) -> Guest:
        """Find a guest; H gets its processes only when somebody asks for it.

        What entered a guest before its first process is confined would not be confined either.

        Raises:
            Refused: there is none, or its first process did not come to be idle.
        """
        if name == HOST and HOST not in self._guests:
            self._start_host()
        if name not in self._guests:
            raise Refused(
                what="there is no such guest",
                where=name,
                expected=", ".join(self._guests) or "a running guest",
                seen="none of this name",
            )
        guest = self._guests[name]
        if name in self._starting:
            if not (self._children.has(guest.pid) and _is_idle(guest.pid)):
                raise Refused(what=f"guest {name} did not start", seen="it ended at once")
            self._starting.discard(name)
        return guest

    def _start_host(self) -> None:
        identity = _identity("bottle-host", [], None)
        started = self._start(HOST, identity, self._fabric.host, [])
        try:
            started.wait_for_exec("guest host")
            self._start_canaries(self.get(HOST))
        except BaseException:
            self.remove([HOST])
            raise
        finally:
            started.close()

    def _start_canaries(self, host: Guest) -> None:
        log = host.open_log()
        ready = Ready()

        def run() -> None:
            linux.set_name("bottle-canary")
            sockets = canary.listen()
            self._users.become(AGENT)
            os.write(ready.write, b"ready")
            canary.serve(sockets, log)

        try:
            self.run_in(host, (ready.write, log), run)
            ready.wait("the host's canaries")
        finally:
            ready.close()
            os.close(log)

    def add(
        self,
        name: str,
        networks: Iterable[str],
        hostname: str,
        resolver: str | None,
        rootfs: int | None = None,
        wishes: Wishes | None = None,
    ) -> tuple[Guest, Ready]:
        """Start a guest: a network namespace, cables, a file system, an idle first process.

        The file system is the template's, or the mount tree ``rootfs``, which stays open here.

        Returns:
            the guest and its first process's word; :meth:`get` finds it when that has exec'd.
        """
        if name in self._guests:
            raise Refused(what="a guest of this name exists", where=name)
        space = Namespace(self._home)
        cables: list[Attachment] = []
        try:
            cables = self._fabric.attach(name, space, networks, numbers=wishes and wishes.numbers)
            identity = _identity(hostname, cables, resolver)
            if wishes is not None:
                identity = confine.Identity(
                    hostname, wishes.hosts, wishes.resolv_conf, open_etc=True, may_gain=True
                )
            ready = self._start(name, identity, space, cables, rootfs)
        except BaseException:
            self._fabric.release(name, cables)
            space.close()
            raise
        return self._guests[name], ready

    def _start(
        self,
        name: str,
        identity: confine.Identity,
        space: Namespace,
        cables: list[Attachment],
        rootfs: int | None = None,
    ) -> Ready:
        ready, pid = Ready(), 0
        try:
            pid = self._fork_first(name, identity, space, ready.write, rootfs)
            self._guests[name] = Guest(name, os.pidfd_open(pid), pid, space, cables)
        except BaseException:
            ready.close()
            if pid:
                os.kill(pid, signal.SIGKILL)
                self._children.wait_for(pid)
            _remove_folder(f"{confine.STATE}/guests/{name}")
            raise
        self._starting.add(name)
        return ready

    def _fork_first(
        self,
        name: str,
        identity: confine.Identity,
        space: Namespace,
        ready: int,
        rootfs: int | None,
    ) -> int:
        trees = () if rootfs is None else (rootfs,)
        linux.unshare(linux.CLONE_NEWPID)
        try:
            return self._children.fork(
                (ready, space.fd, *self._users.files, *trees),
                lambda: self._be_first(name, identity, space, ready, rootfs),
            )
        finally:
            go_home(self._home_pid, linux.CLONE_NEWPID)

    def _be_first(
        self,
        name: str,
        identity: confine.Identity,
        space: Namespace,
        ready: int,
        rootfs: int | None,
    ) -> None:
        try:
            linux.setns(space.fd, linux.CLONE_NEWNET)
            linux.unshare(linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)
            confine.enter_root(name, identity, self._paths, rootfs)
            self._users.become(AGENT, may_gain=identity.may_gain)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # survives the exec: the kernel reaps
            # An exec sheds this server's memory, which others in the guest could read.
            sleep = next(filter(os.path.exists, _SLEEPS), _SLEEPS[0])
            os.execve(sleep, ["sleep", "2147483647"], {})
        except OSError as error:
            os.write(ready, words(error).encode())

    def remove(self, names: Iterable[str]) -> None:
        """Stop guests, all of them at once, and remove every trace of them."""
        gone = [self._guests.pop(name) for name in names if name in self._guests]
        for guest in gone:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(guest.pidfd, signal.SIGKILL)
        self._starting.difference_update(guest.name for guest in gone)
        for guest in gone:
            self._children.wait_for(guest.pid)
            os.close(guest.pidfd)
            self._fabric.release(guest.name, guest.cables)
            if guest.space is not self._fabric.host:
                guest.space.close()
            _remove_folder(guest.folder)
            with suppress(FileNotFoundError):
                os.unlink(f"{confine.OUTPUT}/{guest.name}")

    def run_in(
        self,
        guest: Guest,
        keep: Iterable[int],
        run: Callable[[], None],
        at_end: Callable[[int], None] | None = None,
    ) -> int:
        """Fork a child into a guest's namespaces; it still has every privilege there."""

        def inside() -> None:
            linux.setns(guest.pidfd, PLACES)
            run()

        linux.setns(guest.pidfd, linux.CLONE_NEWPID)
        try:
            files = (guest.pidfd, *self._users.files, *keep)
            return self._children.fork(files, inside, at_end)
        finally:
            go_home(self._home_pid, linux.CLONE_NEWPID)

    def execute(
        self,
        identity: str,
        guest: Guest,
        user: str | Rights,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        files: Sequence[int],
    ) -> int:
        """Run a program in a guest.

        Args:
            identity: names the command, for :meth:`kill`.
            guest: where.
            user: whom it runs as, one of the three or somebody with rights of its own.
            argv: the program and its arguments.
            environment: its variables, all of them.
            folder: where it starts.
            files: its standard input, output and error, and the status pipe. That gets one JSON
                line: ``{"exit": code}``, ``{"signal": number}``, or first ``{"error": text,
                "errno": n}`` when the program could not be run at all.
        """
        status = os.dup(files[3])
        space = self._users.prepare(user) if isinstance(user, Rights) else None

        def run() -> None:
            try:
                for number, fd in enumerate(files[:3]):
                    os.dup2(fd, number)
                if user == PRIVILEGED or (isinstance(user, Rights) and user.settings):
                    confine.uncover_settings()
                if isinstance(user, Rights):
                    with suppress(OSError):  # chdir tells
                        os.makedirs(folder, exist_ok=True)
                self._users.become(user)
                os.chdir(folder)
                os.execvpe(argv[0], list(argv), dict(environment))
            except OSError as error:
                _report(files[3], error=f"{argv[0]}: {error.strerror}", errno=error.errno)
                os._exit(127)

        def ended(wait_status: int) -> None:
            self._running.pop(identity, None)
            code = os.waitstatus_to_exitcode(wait_status)
            with suppress(BrokenPipeError):
                _report(status, **({"exit": code} if code >= 0 else {"signal": -code}))
            os.close(status)

        try:
            kept = [*files, *([] if space is None else [space])]
            pid = self.run_in(guest, kept, run, ended)
        except OSError:
            os.close(status)
            raise
        self._running[identity] = pid
        return pid

    def strike(self, guest: Guest, kind: str) -> None:
        """Kill or freeze every process of a guest but its first; it is done on return."""
        done = Ready()

        def run() -> None:
            os.write(done.write, harm.strike(kind).encode() or b"ready")

        try:
            self.run_in(guest, (done.write,), run)
        finally:
            done.wait(f"the harm ({kind}) to {guest.name}", harm.DEADLINE + STARTUP)

    def cut(self, guest: Guest, network: str) -> None:
        """Take a guest's cable to a network down, at the guest's end: its routes go with it."""
        cables = [cable for cable in guest.cables if cable.network == network]
        if not cables:
            raise Refused(what=f"{guest.name} is not on this network", where=network)
        for cable in cables:
            guest.space.netlink.up(cable.device, up=False)
        guest.space.netlink.flush()

    def connect(self, guest: Guest, network: str) -> None:
        """Run one more cable to a running guest, with its address and the routes by it."""
        first = len(guest.cables)
        guest.cables.extend(self._fabric.attach(guest.name, guest.space, [network], first))

    def kill(self, identity: str, number: int = signal.SIGKILL) -> bool:
        """Kill a command that still runs, and its session; other signals are for itself only."""
        pid = self._running.get(identity)
        if pid is not None:
            for target in (-pid, pid) if number == signal.SIGKILL else (pid,):
                with suppress(ProcessLookupError):
                    os.kill(target, number)
        return pid is not None


def _is_idle(pid: int) -> bool:
    """Tell whether a guest's first process has exec'd, as its silence says, and still runs.

    Its pipe closes a moment before its name changes, and just so when it ends, a moment before
    anybody can wait for it: which of the two it is shows soon.
    """
    end = time.monotonic() + _MOMENT
    while time.monotonic() < end:
        with open(f"/proc/{pid}/comm") as file:
            has_execed = file.read().strip() == os.path.basename(_SLEEPS[0])
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        if has_execed:
            return True
        time.sleep(0.000_2)
    return False


def _identity(
    hostname: str, cables: Sequence[Attachment], resolver: str | None
) -> confine.Identity:
    own = "".join(f"{cable.ipv4} {hostname}\n" for cable in cables[-1:])
    hosts = f"127.0.0.1 localhost\n::1 localhost\n{own}"
    if resolver is None:
        return confine.Identity(hostname, hosts)
    return confine.Identity(hostname, hosts, f"nameserver {resolver}\n")


def _remove_folder(path: str) -> None:
    with suppress(FileNotFoundError):
        for entry in os.listdir(path):
            os.unlink(f"{path}/{entry}")
        os.rmdir(path)


def _report(fd: int, **status: object) -> None:
    os.write(fd, json.dumps(status).encode() + b"\n")
