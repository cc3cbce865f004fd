"""The contract between the suite and a backend, which is shaped like a bottle.

The suite sees only :class:`Backend` and the values here. What is shaped like a container runtime
has a contract of its own, :mod:`pytest_bottle.backends.engines.contract`.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.spec import BottleSpec, EgressRoute


class Vantage(enum.Enum):
    """A place that a command can be run at (catalogue 0.2, with its letter there).

    B, a second bottle's agent, is no place of the first: it is the ``AGENT`` of another topology.
    """

    AGENT = "agent"
    """A: the guest under test, on the internal network only."""
    SIDECAR = "sidecar"
    """S: the dual-homed guest that is meant to be the agent's only way out."""
    HOST = "host"
    """H: the bottle's own host, the thing with the bridges and the gateway addresses."""
    OPEN = "open"
    """O: the agent's image on the egress network, without isolation: the positive control."""
    PRIVILEGED = "privileged"
    """P: a guest on the internal network with NET_ADMIN and NET_RAW: it tests the network."""
    NEIGHBOUR = "neighbour"
    """L: a privileged guest on the egress network, beside the sidecar."""
    BYSTANDER = "bystander"
    """A second privileged guest on the internal network, at which a control of the first shows."""
    STRANGER = "stranger"
    """X: a privileged guest on a network that no bottle is on, such as an engine's default one."""
    COMPANION = "companion"
    """A second guest on the stranger's network, at which a control of the first shows."""
    REVERSED = "reversed"
    """On both networks as the sidecar is, but with the internal one named first (S12)."""


class User(enum.Enum):
    """Whom a command runs as. The guests of the suite's own are always the privileged user."""

    AGENT = "agent"
    ROOT = "root"


class Fault(enum.Enum):
    """What a backend can do to a part of a bottle, or let somebody else do to it.

    After a loss (:data:`LOSSES`) a bottle is fit only to be taken down; after any other fault it is
    meant to work.
    """

    KILL_SIDECAR = "kill the sidecar"
    """Its processes get SIGKILL, as from the kernel when memory runs out; the guest stays."""
    FREEZE_SIDECAR = "freeze the sidecar"
    """Its processes are stopped: nothing is refused, nothing is answered."""
    CUT_EGRESS = "cut the sidecar off the egress network"
    """Its outer leg is gone or down."""
    REMOVE_SIDECAR = "remove the sidecar"
    """The whole guest is gone, its addresses with it."""
    RESTART_SIDECAR = "restart the sidecar"
    """It is stopped and started again, as itself: it serves on return, at the same addresses."""
    RESTART_AGENT = "restart the agent"
    """Its guest is stopped and started again, and its own command with it; its address stays."""
    RELOAD_FIREWALL = "reload the host's firewall"
    """The rules of the host's packet filter, or of its routing, are flushed and set anew."""
    STOP_AGENT = "stop the agent"
    """Its processes are ended, and nobody removes its guest."""
    CONNECT_AGENT = "connect the agent to the egress network"
    """As a third party might: the running agent gets one more leg, and a default route by it."""
    STOP_ENGINE = "stop the engine"
    """What brings bottles up is gone, as a daemon that crashed: only closing makes sense then."""


#: The faults by which the sidecar is lost.
LOSSES = (Fault.KILL_SIDECAR, Fault.FREEZE_SIDECAR, Fault.CUT_EGRESS, Fault.REMOVE_SIDECAR)


class ExecResult(NamedTuple):
    """How a command ended that did run.

    A command that could not be run raises :class:`~pytest_bottle.errors.TransportError` instead:
    the two can never be mixed up.

    Attributes:
        exit_status: the program's own exit status; minus the signal's number when one ended it.
        duration: seconds, as seen by the caller.
    """

    exit_status: int
    stdout: bytes
    stderr: bytes
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the program ended with status 0."""
        return self.exit_status == 0

    @property
    def out(self) -> str:
        """Standard output as text, without the last newline."""
        return self.stdout.decode(errors="replace").removesuffix("\n")

    @property
    def err(self) -> str:
        """Standard error as text, without the last newline."""
        return self.stderr.decode(errors="replace").removesuffix("\n")


class Resource(NamedTuple):
    """Something that exists on the host: its kind (process, link, …) and its identity."""

    kind: str
    name: str


class Endpoint(NamedTuple):
    """An address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Feature(enum.Enum):
    """What a backend may or may not be able to do; a missing one makes checks NOT_SUPPORTED."""

    LAB = "lab"
    """Its egress leads to a far side with a witness: the hermetic lab, or a guest that plays it."""
    EVERY_ADDRESS = "every-address"
    """The far side owns every address there is, as the lab does: a private one, a cloud's too."""
    EXEC_ROOT = "exec-root"
    """A command can be run as root in the agent."""
    PRIVILEGED_PROBE = "privileged-probe"
    """A guest with NET_ADMIN and NET_RAW can be put on the internal network."""
    OPEN_GUEST = "open-guest"
    """The agent's image can be run on the egress network."""
    NEIGHBOUR = "neighbour"
    """A privileged guest can be put on the egress network."""
    HOST_EXEC = "host-exec"
    """Commands can be run at the bottle's host."""
    PUBLISH = "publish"
    """The sidecar's port can be published on the host's loopback."""
    AUDIT = "audit"
    """The sidecar's decisions can be read."""
    RELOAD = "reload"
    """The egress routes of a running bottle can be changed."""
    FAULT = "fault"
    """The sidecar can be killed, frozen, cut off and removed (:data:`LOSSES`)."""
    RESTART = "restart"
    """The sidecar and the agent can be restarted."""
    FIREWALL_RELOAD = "firewall-reload"
    """The host's packet filter, or what stands for it, can be reloaded."""
    STOP_ENGINE = "stop-engine"
    """The session's engine can be made to go away, to see what becomes of its bottles."""
    CONNECT = "connect"
    """The running agent can be connected to the egress network, behind the suite's back."""
    TRANSPARENT = "transparent"
    """The sidecar takes the agent's direct traffic: programs need no proxy variables."""
    TLS_INTERCEPT = "tls-intercept"
    """The sidecar opens the TLS of allowed hosts and judges each request inside."""
    SESSION = "session"
    """What a session of the backend left can be told from outside, and removed, by its identity."""
    INVENTORY = "inventory"
    """What exists on the host can be listed."""
    IPV6 = "ipv6"
    """Its egress network and the far side speak IPv6."""
    STRANGER = "stranger"
    """Guests can be put on a network of the host that no bottle is on."""
    HOST_APART = "host-apart"
    """The bottle's host itself cannot reach the agent's ports."""
    EITHER_ORDER = "either-order"
    """A guest can be put on both networks in either order."""
    STOP = "stop"
    """The agent can be stopped without being removed."""


#: What a backend must be able to do for each vantage point that not every bottle has.
FEATURE_OF = MappingProxyType(
    {
        Vantage.HOST: Feature.HOST_EXEC,
        Vantage.OPEN: Feature.OPEN_GUEST,
        Vantage.PRIVILEGED: Feature.PRIVILEGED_PROBE,
        Vantage.NEIGHBOUR: Feature.NEIGHBOUR,
        Vantage.STRANGER: Feature.STRANGER,
        Vantage.COMPANION: Feature.STRANGER,
        Vantage.REVERSED: Feature.EITHER_ORDER,
    }
)


#: Which faults stand behind which feature.
FAULTS_OF = MappingProxyType(
    {
        Feature.FAULT: LOSSES,
        Feature.RESTART: (Fault.RESTART_SIDECAR, Fault.RESTART_AGENT),
        Feature.FIREWALL_RELOAD: (Fault.RELOAD_FIREWALL,),
        Feature.CONNECT: (Fault.CONNECT_AGENT,),
        Feature.STOP: (Fault.STOP_AGENT,),
        Feature.STOP_ENGINE: (Fault.STOP_ENGINE,),
    }
)


class DenialForm(NamedTuple):
    """How a backend's sidecar says no by policy: a status, and a header that names the reason.

    Status and header together make a denial attributable; a 502, a reset or an empty reply is not
    one (catalogue PXY-02).
    """

    status: int = 403
    header: str = "x-bottle-denied"


class BackendInfo(NamedTuple):
    """What a backend says of itself.

    Attributes:
        name: as on the command line.
        version: of the backend or its engine.
        features: what it can do.
        emulated: True when it only behaves like the platform of its name.
        detail: one line for the report header: kernel, rootless or not.
        mutant: which mutant it is, if it was weakened on purpose.
        disposable_host: the bottles' host is made for the session and goes with it, so that a check
            may change it; any other is changed only if the user allows it.
    """

    name: str
    version: str
    features: frozenset[Feature]
    emulated: bool = False
    detail: str = ""
    mutant: str = ""
    disposable_host: bool = False


class NetworkInfo(NamedTuple):
    """A network as the engine made it: its subnet (CIDR) and the gateway's address in it.

    ``subnet6`` is the IPv6 subnet that it is meant to have; empty means that it has none.
    """

    name: str
    internal: bool
    subnet: str
    gateway: str
    subnet6: str = ""


class GuestInfo(NamedTuple):
    """A running guest and its address on each of its networks."""

    name: str
    addresses: Mapping[str, str]


class Topology(NamedTuple):
    """A running bottle, as values.

    Attributes:
        id: unique within the session.
        proxy: where the sidecar listens for the agent: an address, never a name (S17).
        published: the published port at the bottle's host; None if there is none.
        machine_published: the same port from the machine that runs the tests.
        environment: the agent's variables, the proxy's among them.
        python: the interpreter in every guest.
        denial: how its sidecar denies.
        resolvers: the DNS servers that the agent is meant to have; usually none.
        lacks: features of the backend that this very bottle does not have, for its sidecar is the
            user's own and writes no audit record, for example.
        tls_opaque: declares that its sidecar does not look into the tunnels that it opens: what is
            said in there to an approved host is a known residual, not a finding (PXY-07).
    """

    id: str
    spec: BottleSpec
    internal: NetworkInfo
    egress: NetworkInfo
    agent: GuestInfo
    sidecar: GuestInfo
    proxy: Endpoint
    published: Endpoint | None
    machine_published: Endpoint | None
    environment: Mapping[str, str]
    python: str
    denial: DenialForm = DenialForm()
    resolvers: tuple[str, ...] = ()
    lacks: frozenset[Feature] = frozenset()
    tls_opaque: bool = False

    @property
    def agent_address(self) -> str:
        """The agent's address on the internal network."""
        return self.agent.addresses[self.internal.name]

    @property
    def sidecar_address(self) -> str:
        """The sidecar's address on the internal network."""
        return self.sidecar.addresses[self.internal.name]

    @property
    def sidecar_outer_address(self) -> str:
        """The sidecar's address on the egress network."""
        return self.sidecar.addresses[self.egress.name]


class Backend(Protocol):
    """What the suite needs of anything that can bring a bottle up.

    Every method raises a :class:`~pytest_bottle.errors.BottleError`; whatever a failing ``up`` had
    made is gone when it raises.
    """

    def describe(self) -> BackendInfo:
        """Name the backend, its version and its features."""

    @property
    def internet(self) -> Internet:
        """The far side: what the egress network leads to.

        Raises:
            NotSupported: there is none, and the backend does not list ``Feature.LAB``.
        """

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up: networks, sidecar, agent, in this order."""

    def down(self, topology: Topology) -> None:
        """Take a bottle down, with everything attached to it; idempotent."""

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: User = User.AGENT,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a command at a vantage point; attach the guest for it at its first use.

        ``environment`` replaces the guest's own variables of the same names; the agent's proxy
        variables are there without it.

        Raises:
            TransportError: the command could not be run, or its outcome is unknown.
        """

    def address(self, topology: Topology, vantage: Vantage) -> str:
        """Tell the address of an attached guest; attach it first if need be."""

    def audit(self, topology: Topology) -> Sequence[Mapping[str, object]]:
        """Read the sidecar's record of its decisions, oldest first."""

    def logs(self, topology: Topology) -> Mapping[str, bytes]:
        """Read what each part of a bottle wrote, for whoever looks into a failure."""

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Do harm to a part of a bottle; when it returns, the harm is done (:class:`Fault`)."""

    def reload(self, topology: Topology, egress: Sequence[EgressRoute]) -> None:
        """Give the running sidecar other egress routes; when it returns, they hold.

        Requests from then on are judged by them, and tunnels that they have no room for have ended.

        Raises:
            TransportError: the sidecar did not take them.
        """

    def trust(self) -> str:
        """Make the lab's certificates valid in every guest; tell the file they are in.

        Without a lab there is nothing to do, and the answer is empty.
        """

    def inventory(self) -> frozenset[Resource]:
        """List what exists on the host, by kernel or engine and not by memory."""

    @property
    def session(self) -> str:
        """What everything of this session can be told by, also when the session is dead."""

    def residue(self, session: str) -> frozenset[Resource]:
        """List what there is on this machine of a session, of this one or of another."""

    def sweep(self, session: str) -> None:
        """Remove what there is of a session that is dead, by exact identity; idempotent.

        Raises:
            ConfigurationError: the session is alive, or is not one of this backend's.
        """

    def close(self, *, keep: bool = False) -> str:
        """End the session: nothing of the backend is left, unless ``keep`` says so.

        Returns:
            how to enter and how to remove what was kept; empty if nothing was.
        """
