"""The running bottle, as a test sees it: guests, networks, fetches and probes. No pytest here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pytest_bottle.backends.contract import FEATURE_OF, ExecResult, User, Vantage
from pytest_bottle.errors import BottleError, ConfigurationError, NotSupported
from pytest_bottle.firing import DEADLINE, run_one

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from testinfra.host import Host

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.inquiry import ProbeResult
    from pytest_bottle.spec import BottleSpec
    from pytest_bottle.stimulus import Stimulus


class FetchError(BottleError):
    """No HTTP answer came; ``cause`` says why: refused, unreachable, timeout, dns-failure, …."""

    def __init__(self, url: str, cause: str, detail: str) -> None:
        self.cause = cause
        super().__init__(
            "a fetch got no answer",
            where=url,
            expected="an HTTP response, if only a refusal",
            seen=f"{cause}: {detail}" if detail else cause,
        )


class Response(NamedTuple):
    """An HTTP response, whoever gave it: the origin, or the sidecar that denied the request.

    Header names are in lower case.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode(errors="replace")

    @property
    def denied(self) -> str | None:
        """The policy's reason, when the reference sidecar denied the request."""
        return self.headers.get("x-bottle-denied")

    def json(self) -> Any:
        """Read the body as JSON."""
        return json.loads(self.body)


class Network(NamedTuple):
    """One of the bottle's two networks: subnet (CIDR) and the gateway's address in it."""

    name: str
    internal: bool
    subnet: str
    gateway: str


class Guest:
    """A guest of the bottle: run commands in it, fetch from it, probe from it."""

    def __init__(self, backend: Backend, topology: Topology, vantage: Vantage) -> None:
        self._backend = backend
        self._topology = topology
        self._vantage = vantage

    def __repr__(self) -> str:
        return f"<{self._vantage.value} of bottle {self._topology.id}>"

    @property
    def address(self) -> str:
        """The guest's IPv4 address; the sidecar's is the one on the internal network."""
        return self._backend.address(self._topology, self._vantage)

    @property
    def host(self) -> Host:
        """The guest as a testinfra host, for files, processes, packages and the like.

        Its booleans carry no verdict about the network: a broken tool reads like a block.
        """
        from pytest_bottle._testinfra import host_for

        return host_for(self)

    def run(
        self,
        *argv: str,
        user: str = "agent",
        stdin: bytes | str = b"",
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a command and return how it ended, whatever its exit status.

        Args:
            argv: the program and its arguments; no shell is involved.
            user: ``agent`` or ``root``.
            stdin: what it reads.
            timeout: seconds; it is killed when they are over.
            environment: variables on top of the guest's own.

        Raises:
            ConfigurationError: it is not given as texts, or not at all.
            DeadlineError: it was killed; the error holds its output so far.
            TransportError: it could not be run, because it does not exist for example.
        """
        if not argv or not all(isinstance(word, str) for word in argv):
            raise ConfigurationError(
                "a command cannot be read",
                where="run",
                expected='texts, each an argument of its own, such as run("id", "-u")',
                seen=f"run({', '.join(map(repr, argv))})",
            )
        self._backend.trust()  # the command may speak TLS to the lab
        return self._backend.exec(
            self._topology,
            self._vantage,
            argv,
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            user=User(user),
            timeout=timeout,
            environment=environment,
        )

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = "environment",
        timeout: float = 10.0,
    ) -> Response:
        """Make one HTTP request from inside the guest.

        Args:
            url: ``http://`` or ``https://``.
            method: the HTTP method.
            body: the request's body, as Latin-1 text.
            headers: further request headers.
            proxy: a proxy's URL; ``environment`` takes what the guest's variables say; None goes
                direct.
            timeout: seconds for each step.

        Raises:
            ConfigurationError: the URL is none of these.
            FetchError: no HTTP answer came; its ``cause`` says why.
            TransportError: the fetch could not be run.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                "a URL cannot be read",
                where="fetch",
                expected="http:// or https://, such as https://allowed.test/",
                seen=repr(url),
            )
        if url.startswith("https:"):
            self._backend.trust()
        what = {"kind": "http", "url": url, "method": method, "proxy": proxy}
        if headers:
            what["headers"] = dict(headers)  # type: ignore[assignment]
        if body is not None:
            what["body"] = body
        record = run_one(self._backend, self._topology, self._vantage, what, deadline=timeout)
        if "status" not in record:
            raise FetchError(url, record["outcome"], record.get("detail", ""))
        return Response(
            url, record["status"], dict(record["headers"]), record["body"].encode("latin-1")
        )

    def probe(self, stimulus: Stimulus, *, deadline: float = DEADLINE) -> ProbeResult:
        """Send one stimulus, and let the far end say what became of it.

        The same bytes are sent from an open guest, which must get out, and the sidecar speaks
        before and after: so silence counts only while the witness could hear.

        Args:
            stimulus: :class:`~pytest_bottle.stimulus.Tcp`, ``Udp`` or ``Icmp``.
            deadline: seconds to wait for an answer.

        Raises:
            ConfigurationError: it is no stimulus.
            NotSupported: the far side is a guest, and the address is not its own, so the bytes
                would go to the real one: 1.1.1.1 takes ``--bottle-internet=lab``.
        """
        from pytest_bottle.inquiry import inquire
        from pytest_bottle.stimulus import Stimulus

        if not isinstance(stimulus, Stimulus):
            raise ConfigurationError(
                "a stimulus cannot be read",
                where="probe",
                expected='a Tcp, Udp or Icmp, such as Tcp("203.0.113.7", 443)',
                seen=repr(stimulus),
            )

        return inquire(self._backend, self._topology, self._vantage, stimulus, deadline)


class Sidecar(Guest):
    """The egress sidecar: the agent's only way out."""

    @property
    def proxy_url(self) -> str:
        """Where the agent finds the proxy: an address, never a name."""
        return f"http://{self._topology.proxy}"

    @property
    def published_url(self) -> str:
        """The sidecar's published port, as this test process reaches it.

        Raises:
            ConfigurationError: the bottle publishes none.
        """
        if self._topology.machine_published is None:
            raise _not_published(self._topology)
        return f"http://{self._topology.machine_published}/"

    @property
    def published_at_host(self) -> str:
        """The same port at the bottle's host: a loopback alias and a port (S18).

        Raises:
            ConfigurationError: the bottle publishes none.
        """
        if self._topology.published is None:
            raise _not_published(self._topology)
        return str(self._topology.published)

    def audit(self) -> Sequence[Mapping[str, Any]]:
        """Read the sidecar's record of its decisions, oldest first."""
        return self._backend.audit(self._topology)


class Bottle:
    """A running bottle; a context manager that takes it down.

    Args:
        backend: brings it up.
        spec: what it is to be.

    Raises:
        BottleError: it did not come up; nothing of it is left.
    """

    def __init__(self, backend: Backend, spec: BottleSpec) -> None:
        self._backend = backend
        self.topology = backend.up(spec)
        self.agent = Guest(backend, self.topology, Vantage.AGENT)
        self.sidecar = Sidecar(backend, self.topology, Vantage.SIDECAR)

    def __repr__(self) -> str:
        return f"<bottle {self.topology.id} on {self._backend.describe().name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def internal_network(self) -> Network:
        """The network that the agent is on."""
        return _network(self.topology.internal)

    @property
    def egress_network(self) -> Network:
        """The network that leads out, for the sidecar alone."""
        return _network(self.topology.egress)

    @property
    def open_guest(self) -> Guest:
        """The agent's like on the egress network, without isolation: the positive control."""
        return self.guest(Vantage.OPEN)

    @property
    def neighbour(self) -> Guest:
        """A guest on the egress network, beside the sidecar, with NET_ADMIN and NET_RAW."""
        return self.guest(Vantage.NEIGHBOUR)

    @property
    def privileged(self) -> Guest:
        """A guest on the internal network, beside the agent, with NET_ADMIN and NET_RAW."""
        return self.guest(Vantage.PRIVILEGED)

    @property
    def host(self) -> Guest:
        """The bottle's own host, with the bridges and the gateway addresses."""
        return self.guest(Vantage.HOST)

    def guest(self, vantage: Vantage) -> Guest:
        """Give a vantage point, attached at its first use.

        Raises:
            NotSupported: the backend has no such place, and says so by its features.
        """
        info, feature = self._backend.describe(), FEATURE_OF.get(vantage)
        if feature and feature not in info.features - self.topology.lacks:
            raise NotSupported(
                f"this bottle has no vantage point {vantage.value!r}",
                where=f"bottle {self.topology.id} on backend {info.name}",
                expected=f"the feature {feature.value!r}",
                seen=", ".join(sorted(one.value for one in info.features)) or "no feature at all",
            )
        return Guest(self._backend, self.topology, vantage)

    def close(self) -> None:
        """Take the bottle down; idempotent."""
        self._backend.down(self.topology)


def _not_published(topology: Topology) -> ConfigurationError:
    return ConfigurationError(
        "this bottle publishes no port",
        where=f"bottle {topology.id}",
        expected="ports in bottle.yaml, or publish in the marker",
        seen="none",
    )


def _network(info: Any) -> Network:
    return Network(info.name, info.internal, info.subnet, info.gateway)
