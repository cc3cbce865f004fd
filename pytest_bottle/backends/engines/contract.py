"""The contract of an engine, which is shaped like a container runtime.

:class:`~pytest_bottle.backends.engine_backend.EngineBackend` makes a backend of any engine.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_bottle.errors import BringUpError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.backends.contract import (
        BackendInfo,
        Endpoint,
        ExecResult,
        Fault,
        GuestInfo,
        NetworkInfo,
        Resource,
    )
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.spec import BottleSpec


class SidecarRequest(NamedTuple):
    """The reference sidecar, as an engine is to run it in a guest.

    Attributes:
        config: the proxy's configuration, JSON-able (see :mod:`pytest_bottle.guest.proxy`).
        listen: the address and port towards the agent.
        publish: where the status service is published at the bottle's host; None: nowhere.
        machine_port: the port on the machine's 127.0.0.1; 0 lets the kernel choose.
        timeout: seconds that it may take to start.
    """

    config: Mapping[str, object]
    listen: Endpoint
    publish: Endpoint | None
    machine_port: int = 0
    timeout: float = 30.0


class ForwardRequest(NamedTuple):
    """A published port that leads to a service in a guest.

    Attributes:
        targets: where the service may listen, as seen in the guest; the first that answers is it.
        publish: where it is published at the bottle's host.
        machine_port: as for :class:`SidecarRequest`.
        timeout: seconds that the publishing may take.
    """

    targets: tuple[Endpoint, ...]
    publish: Endpoint
    machine_port: int = 0
    timeout: float = 30.0


class PortTakenError(BringUpError):
    """Where a guest was going to publish somebody listens."""


class Publishing(NamedTuple):
    """A port that a guest is going to publish: most engines have to know when they make it.

    Attributes:
        at: where at the bottle's host.
        machine_port: as for :class:`SidecarRequest`.
    """

    at: Endpoint
    machine_port: int = 0


class GuestRequest(NamedTuple):
    """An idle guest, as an engine is to run it, on these networks in this order (S11).

    ``resolver`` is the DNS server that its own programs ask; an isolated guest has none.
    ``timeout`` is how many seconds it may take to start.
    ``rootfs`` is the folder of this machine that its file system is made of, where an engine can do
    that; empty for the engine's own. All guests of a bottle are made of the same, the reference
    sidecar's too: one interpreter serves at every vantage point (:attr:`Topology.python`).
    ``image`` is likewise the image that it is made of, where an engine has images; empty for ours.
    ``privileged`` says that commands in it may be run with NET_ADMIN and NET_RAW.
    ``serves`` says that :meth:`Engine.run_sidecar` is going to be asked to run the reference
    sidecar in it: an engine may begin before it hears the addresses.
    ``publishes`` is the port that :meth:`Engine.run_sidecar` or :meth:`Engine.forward` will be
    asked to publish.
    """

    name: str
    networks: tuple[str, ...]
    hostname: str
    environment: Mapping[str, str] = MappingProxyType({})
    resolver: str | None = None
    timeout: float = 30.0
    rootfs: str = ""
    image: str = ""
    privileged: bool = False
    publishes: Publishing | None = None
    serves: bool = False


class Engine(Protocol):
    """Container-shaped: networks and guests, each made and removed by name."""

    def info(self) -> BackendInfo:
        """Name the engine, its version and the features it makes possible."""

    @property
    def internet(self) -> Internet | None:
        """The far side that its egress networks lead to.

        None where it has none of its own, as on a Mac: there the far side is one more guest, and
        :class:`~pytest_bottle.backends.engine_backend.EngineBackend` makes it
        (:mod:`pytest_bottle.backends.far_side`) of the methods below: a network with the subnet
        192.88.99.0/24, not internal, a guest on it, and ``start`` and ``exec`` in that as
        ``privileged`` (NET_ADMIN and NET_RAW).
        """

    @property
    def authorities(self) -> str:
        """The file in a guest that holds the authorities its programs trust."""

    def check(self, spec: BottleSpec) -> None:
        """Refuse a bottle that this engine cannot make, before anything of it exists.

        Raises:
            ConfigurationError: the specification asks for what the engine or the machine lacks.
        """

    def python(self, spec: BottleSpec) -> str:
        """Tell the interpreter in every guest of such a bottle, one that :meth:`check` let pass."""

    def together(self, *calls: Callable[[], object]) -> None:
        """Make independent calls, beside each other where that saves time.

        Raises:
            BottleError: what the first of those that failed says; all have ended by then.
        """

    def loopback(self, candidates: Sequence[str], port: int) -> str:
        """Choose the first of these loopback addresses at which the host can publish a port.

        Empty if there is none: the host has not the address, or somebody listens there.
        """

    def create_network(self, name: str, *, internal: bool, subnet: str = "") -> None:
        """Make a network; without a subnet (IPv4, CIDR form) the engine chooses a free one.

        A guest can be run on it on return; what it came to be, :meth:`networks` tells.

        Raises:
            BringUpError: the subnet overlaps another network's, or none is left.
        """

    def networks(self, names: Sequence[str]) -> Sequence[NetworkInfo]:
        """Read back what networks came to be, in the order of the names.

        Raises:
            BottleError: one is not there, or not as it was asked for.
        """

    def delete_networks(self, names: Sequence[str]) -> None:
        """Delete networks that no guest is attached to."""

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start an idle guest; nothing may run there until :meth:`settle` has said that it is up.

        Its addresses are known at once.

        Raises:
            PortTakenError: somebody listens where it was to publish.
        """

    def settle(self, guests: Sequence[str]) -> None:
        """Wait until guests are up, and what was run or published in them is.

        Threads bring bottles up at once; each settles the guests of its own.

        Raises:
            BringUpError: one is not, or not within its request's time.
        """

    def remove_guests(self, names: Sequence[str]) -> None:
        """Stop and remove guests; unknown names are no error."""

    def start(
        self,
        guest: str,
        argv: Sequence[str],
        *,
        user: str = "agent",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a guest's own long-running command, one a guest; its output is kept.

        A program that does not exist is no error yet: :meth:`ended` tells.
        """

    def ended(self, guest: str, timeout: float = 0.0) -> str | None:
        """Tell how a guest's own command ended, such as ``exit 3``; None while it runs.

        Waits so many seconds for its end, if need be.
        """

    def output(self, guest: str) -> bytes:
        """Read what the guest's own command wrote, both streams."""

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        """Run the reference sidecar in a guest; tell its published port on the machine, if any.

        :meth:`settle` waits until it serves.
        """

    def forward(self, guest: str, request: ForwardRequest) -> Endpoint:
        """Publish a guest's port; tell the published port on the machine.

        Each visitor is a record ``{"event": "status", "client": "address:port"}`` in the guest's
        log, as at the reference sidecar.
        """

    def exec(
        self,
        guest: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: str = "agent",
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> ExecResult:
        """Run a command in a guest; ``user`` is agent, root or privileged."""

    def logs(self, guest: str) -> bytes:
        """Read what the engine's own services in the guest wrote: the sidecar, a published port."""

    def fault(self, guest: str, fault: Fault, network: str) -> None:
        """Do harm to a guest (:class:`Fault`), or to its leg on a network; it is done on return.

        ``guest`` is ``host`` for what happens to the bottles' host.

        Raises:
            TransportError: there is no such guest, or the harm could not be done.
        """

    def trust(self, authority: str = "") -> str:
        """Make the far side's certificates valid in every guest; tell the file they are in.

        It holds for guests that run now, and for those that come later. It is called before the
        first use of TLS, perhaps more than once with the same text.

        Args:
            authority: a certificate (PEM) to trust; empty for the engine's own far side's.
        """

    def inventory(self) -> frozenset[Resource]:
        """List what exists on the host."""

    @property
    def session(self) -> str:
        """What everything of this session can be told by (:attr:`Backend.session`)."""

    def residue(self, session: str) -> frozenset[Resource]:
        """List what there is on this machine of a session, dead or alive."""

    def sweep(self, session: str) -> None:
        """Remove what there is of a session that is dead, by exact identity; idempotent.

        Raises:
            ConfigurationError: the session is alive, or is not one of this engine's.
        """

    def close(self, *, keep: bool = False) -> str:
        """End the engine's session."""
