"""The fork-server: first process of the session's PID namespace, parent of every guest.

It was exec'd clean, so that no guest inherits pytest's memory, environment or open files, and it
imports nothing but the standard library. Single-threaded: it forks.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
from functools import partial

from pytest_bottle import _wire
from pytest_bottle.backends.engines.netns import (
    confine,
    linux,
    nursery,
    refusal,
    residue,
)
from pytest_bottle.backends.engines.netns.answers import (
    Lost,
    Refused,
    failure,
    nursery_is_gone,
    words,
)
from pytest_bottle.backends.engines.netns.children import Children
from pytest_bottle.backends.engines.netns.fabric import Fabric
from pytest_bottle.backends.engines.netns.guests import HOST, Guests, Users, Wishes
from pytest_bottle.backends.engines.netns.lab import Lab
from pytest_bottle.backends.engines.netns.ready import Ready
from pytest_bottle.backends.engines.netns.rights import Rights
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.backends.engines.netns.undertakers import Undertakers

_Reply = tuple[_wire.Message, tuple[int, ...]]
_OK: _wire.Message = {"ok": True}
#: Requests that need not wait until the lab is there.
_ON_THE_WAY_UP = ("hello", "lab", "network_add", "guest_add", "sidecar", "forward")
#: Requests that must not fail because something else did.
_ON_THE_WAY_DOWN = ("guest_remove", "network_remove", "keep", "kill")


def main(
    control: socket.socket,
    minters: tuple[socket.socket, ...],
    settings: _wire.Message,
    keeper: int,
) -> None:
    """Run the server on its control socket until the owner closes it.

    Args:
        control: the owner's requests come by it.
        minters: the lines to the minter, ours and the origins'.
        settings: the owner's.
        keeper: an open file whose other end only the keeper holds. We ask to be killed with it, but
            it may die before we have asked, and while a change of ids has cancelled that.
    """
    try:
        _start(control, minters, settings).run(keeper)
    except OSError as error:
        _wire.send(control, {"error": refusal.explain(error)})
    except Refused as refused:
        _wire.send(control, {"error": refused.fields, "lost": True})


def _start(
    control: socket.socket, minters: tuple[socket.socket, ...], settings: _wire.Message
) -> Server:
    # Above what guests get: files in flight are counted by user, theirs and ours together.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    children = Children()
    # The nursery is forked first: it imports h11 from the user's packages, which we leave behind.
    nursery_line, theirs = socket.socketpair()
    serve = partial(nursery.serve, theirs, _become_root, linux.seccomp_filter())
    children.fork((theirs.fileno(),), serve)
    theirs.close()
    linux.unshare(linux.CLONE_NEWNS)  # our root is about to change, the nursery's must not
    sources = confine.collect(settings["prefixes"])
    _become_root()
    linux.set_name("bottle-server")
    confine.build_template(sources)
    confine.find_package_again()
    return Server(control, minters, nursery_line, children, list(sources.trees))


def _become_root() -> None:
    """Become the namespace's root, which on the machine is an id that owns nothing."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.set_dumpable(True)
    linux.die_with_parent()  # again: a change of ids has cancelled it (prctl(2))


class Server:
    """What the owner can ask for, one method an operation."""

    def __init__(
        self,
        control: socket.socket,
        minters: tuple[socket.socket, ...],
        nursery_line: socket.socket,
        children: Children,
        paths: list[str],
    ) -> None:
        self._control = control
        self._nursery = nursery_line
        self._children = children
        self._users = Users()
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._fabric = Fabric(home)
        self._guests = Guests(children, self._fabric, self._users, paths)
        self._undertakers = Undertakers(children, self._fabric)
        self._kept = False
        self._lab = Lab(children, self._users, self._fabric.lab.fd, nursery_line, minters)

    # -- the loop ------------------------------------------------------------------------

    def run(self, keeper: int) -> None:
        """Answer requests and reap children until the owner is gone, or for ever if it says so.

        Without the keeper nobody would end us if we hung: then we end as well.
        """
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(keeper, selectors.EVENT_READ)
        self._children.reap()
        while True:
            for key, _ in selector.select():
                if key.fileobj == keeper:
                    return
                if key.fileobj is not self._control:
                    os.read(wake_read, 4096)
                    self._children.reap()
                    continue
                try:
                    self._answer()
                except _wire.Closed:
                    if not self._kept:
                        return
                    selector.unregister(self._control)

    def _answer(self) -> None:
        try:
            request, fds = _wire.receive(self._control)
        except OSError as error:
            raise Lost(
                what="the netns engine's server cannot hear pytest any more", seen=words(error)
            ) from error
        reply: _wire.Message = {}
        reply_fds: tuple[int, ...] = ()
        name = request.pop("op")
        try:
            if name not in (*_ON_THE_WAY_UP, *_ON_THE_WAY_DOWN):
                self._lab.require()
            operation = getattr(self, f"op_{name}")
            reply, reply_fds = operation(request, fds)
        except Lost:
            raise
        except Refused as refused:
            reply = {"error": refused.fields}
        except OSError as error:
            reply = {"error": failure(name, request, error)}
        except Exception as error:  # noqa: BLE001 - one request fails, the session goes on
            reply = {"error": {"what": "the netns engine has a defect", "seen": repr(error)}}
        finally:
            if "error" in reply:
                self._fabric.discard()
            for fd in fds:
                os.close(fd)
        try:
            _wire.send(self._control, reply, reply_fds)
        except OSError as error:  # files cannot be sent: too many are in flight
            _wire.send(self._control, {"error": failure(name, request, error)})
        finally:
            for fd in reply_fds:
                os.close(fd)

    def op_hello(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Say that the server is there."""
        return _OK, ()

    def op_keep(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Outlive the owner."""
        self._kept = True
        return _OK, ()

    # -- the lab ---------------------------------------------------------------------------

    def op_lab(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Hand out the control ends of the witness and the origins.

        The origins answer on theirs once the nursery has imported what they need.
        """
        return _OK, self._lab.ends()

    def op_trust(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Let every guest trust an authority: the one that is named, or the lab's own."""
        self._lab.trust(request["authority"])
        return {"file": confine.TRUST_FILE}, ()

    # -- networks and guests -----------------------------------------------------------------

    def op_network_add(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Make a network."""
        if request["name"] in self._fabric.networks:
            raise Refused(what="a network of this name exists", where=request["name"])
        subnet, internal = request["subnet"], request["internal"]
        if self._fabric.is_full(internal=internal):
            self._undertakers.wait()  # what belongs to bridges that still go comes back
        network = self._fabric.add_network(request["name"], internal=internal, subnet=subnet)
        fields = ("name", "internal", "subnet", "gateway", "bridge")
        return {field: getattr(network, field) for field in fields}, ()

    def op_network_remove(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Delete networks: at once for their users, a little later in the kernel."""
        # Whoever never heard that a network was made may name it: what there is goes.
        names = [name for name in request["names"] if name in self._fabric.networks]
        self._undertakers.bury([self._fabric.retire_network(name) for name in names])
        return _OK, ()

    def op_guest_add(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Start a guest: namespaces, cables, file system, an idle first process.

        The owner gets the pipe of that process, which closes when it has exec'd; then ``settled``
        tells whether it is there.
        """
        rootfs = self._open_rootfs(request["rootfs"]) if request["rootfs"] else None
        try:
            guest, ready = self._guests.add(
                request["name"],
                request["networks"],
                request["hostname"],
                request["resolver"],
                rootfs,
                Wishes(**request["wishes"]) if "wishes" in request else None,
            )
        finally:
            if rootfs is not None:
                os.close(rootfs)
        return {"cables": [cable._asdict() for cable in guest.cables]}, (ready.hand_over(),)

    def op_settled(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Say that guests are there, whose words the owner has heard, and the lab with them."""
        for name in request["names"]:
            self._guests.get(name)
        return _OK, ()

    def _open_rootfs(self, path: str) -> int:
        """Take the mount tree of a folder of the machine, which only the nursery still sees."""
        confine.make_skeleton()
        try:
            return nursery.order_tree(self._nursery, path)
        except _wire.Closed:
            raise nursery_is_gone() from None
        except OSError as error:
            raise Refused(
                what="a rootfs cannot be opened",
                where=path,
                expected="a folder that the guests' user may read; as root that is a user of the "
                "machine who owns nothing",
                seen=str(error),
                next_step="let everybody read it, and search the folders above it: chmod o+rx",
            ) from None

    def op_guest_remove(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Stop guests and remove every trace of them."""
        self._guests.remove(request["names"])
        return _OK, ()

    def op_exec(self, request: _wire.Message, fds: list[int]) -> _Reply:
        """Run a command in a guest, on three files of the owner's and a status pipe."""
        user = request["user"]
        if isinstance(user, list):  # one who has rights of its own
            uid, gid, capabilities, settings = user
            user = Rights(uid, gid, frozenset(capabilities), settings)
        pid = self._guests.execute(
            request["id"],
            self._guests.get(request["guest"]),
            user,
            request["argv"],
            request["environment"],
            request["folder"],
            fds,
        )
        return {"pid": pid}, ()

    def op_kill(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Kill a command that is still running, or send it another signal."""
        number = request.get("signal", signal.SIGKILL)
        return {"killed": self._guests.kill(request["id"], number)}, ()

    def op_logs(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Hand out the record of a guest's service, or its command's output, open."""
        guest = self._guests.get(request["guest"])
        return _OK, (guest.open_log(output=request["output"]),)

    def op_pids(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """Hand out a pidfd of every guest's first process: its number depends on who asks."""
        guests = self._guests.all()[: _wire.MAX_FDS]
        return {"names": [g.name for g in guests]}, tuple(os.dup(g.pidfd) for g in guests)

    # -- services ---------------------------------------------------------------------------------

    def op_sidecar(self, request: _wire.Message, fds: list[int]) -> _Reply:
        """Run the reference sidecar in a guest, on its internal address and published sockets.

        The owner gets the pipe on which it says that it is there, or why not: the nursery may still
        be importing, and others want to be served.
        """
        more = {"config": request["config"], "listen": request["listen"]}
        return self._order("sidecar", more, request, fds)

    def op_forward(self, request: _wire.Message, fds: list[int]) -> _Reply:
        """Let published sockets lead to a service in a guest; likewise."""
        return self._order("forwarder", {"targets": request["targets"]}, request, fds)

    def _order(
        self, part: str, more: _wire.Message, request: _wire.Message, fds: list[int]
    ) -> _Reply:
        guest = self._guests.get(request["guest"])
        with contextlib.ExitStack() as stack:
            listeners = (self._listen_at_host(*address) for address in request["publish"])
            published = [stack.enter_context(sock) for sock in listeners]
            log = guest.open_log()
            stack.callback(os.close, log)
            ready = Ready()
            stack.callback(ready.close)
            try:
                nursery.order(
                    self._nursery,
                    {"be": part, **more},
                    guest=guest.pidfd,
                    user_namespace=self._users.files[0],
                    ready=ready.write,
                    log=log,
                    published=[*fds, *(sock.fileno() for sock in published)],
                )
            except _wire.Closed:
                raise nursery_is_gone() from None
            return _OK, (ready.hand_over(),)

    def _listen_at_host(self, address: str, port: int) -> socket.socket:
        with self._fabric.host.entered():
            try:
                return nursery.listening_socket(address, port)
            except OSError as error:
                raise Refused(
                    what="a port cannot be published",
                    where=f"{address}:{port} of the bottle's host",
                    expected="a free port on a loopback address",
                    seen=str(error.strerror),
                    next_step="another bottle may publish it; leave the address out and a free "
                    "one is chosen",
                ) from error

    def op_fault(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Do harm to a guest, or let happen to it or to H what bottles have to survive."""
        kind = request["kind"]
        if kind == "reload":
            self._fabric.reload_rules()
            return _OK, ()
        guest = self._guests.get(request["guest"])
        if kind == "cut":
            self._guests.cut(guest, request["network"])
        elif kind == "connect":
            self._guests.connect(guest, request["network"])
        elif kind == "remove":
            self._guests.remove([guest.name])
        else:
            self._guests.strike(guest, kind)
        return _OK, ()

    # -- administration ---------------------------------------------------------------------------

    def op_configure(self, request: _wire.Message, _fds: list[int]) -> _Reply:
        """Change links, addresses, routes, rules or settings of H, the lab or a guest."""
        fabric, where = self._fabric, request["where"]
        space = {"lab": fabric.lab, HOST: fabric.host}.get(where)
        space = space or self._guests.get(where).space
        for verb, subject, *rest in request["changes"]:
            if verb == "sysctl":
                space.sysctls({subject: rest[0]})
            elif verb in ("rule", "delete_rule"):
                getattr(space.netlink, verb)(Rule(**subject))
            elif verb in ("route", "delete_route", "up", "shape", "delete_link", "address"):
                getattr(space.netlink, verb)(subject, **(rest[0] if rest else {}))
            else:
                raise ValueError(f"unknown change {verb!r}")
        space.netlink.flush()
        return _OK, ()

    def op_inventory(self, _request: _wire.Message, _fds: list[int]) -> _Reply:
        """List what is there, as the kernel tells it and not as this server remembers it."""
        self._undertakers.settle()
        with self._fabric.host.entered():
            listeners = residue.listeners()
        return {
            "link": self._fabric.host.netlink.links(),
            "process": residue.processes(),
            "namespace": residue.network_namespaces(),
            "listener": listeners,
            "file": residue.files(f"{confine.STATE}/guests"),
        }, ()
