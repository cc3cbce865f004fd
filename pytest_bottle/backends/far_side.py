"""The far side as one more guest of the engine, for where the lab cannot be had.

It stands on an egress network of its own that all bottles of the session share, 192.88.99.0/24:
addresses that guards take for public (RFC 7526) and packets to which stay on the machine, whether a
sidecar sends them or a host that forwards what it must not. Everything here is made of the methods
of :class:`~pytest_bottle.backends.engines.contract.Engine`; nothing knows which engine it is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends.engines import carried
from pytest_bottle.backends.engines.contract import GuestRequest
from pytest_bottle.errors import (
    BottleError,
    BringUpError,
    ConfigurationError,
    NotSupported,
    TransportError,
)
from pytest_bottle.internet.lab import OriginClient, WitnessClient, refused
from pytest_bottle.internet.minter import Minter
from pytest_bottle.internet.station import CLIENT, DOOR
from pytest_bottle.internet.zone import IPV4_PREFIX
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bottle import _wire
    from pytest_bottle.backends.contract import GuestInfo, NetworkInfo
    from pytest_bottle.backends.engines.contract import Engine
    from pytest_bottle.internet.lab import Hearing, Mark

#: The guest, and the network that it is on; no bottle is named so.
NAME: Final = "far-side"
SUBNET: Final = f"{IPV4_PREFIX}0/24"
#: Engines give addresses from the low end on; from here on they are the far side's. Its resolver
#: has 53, names have those up to 127, and 128 to 254 are for stimuli.
_OWN: Final = tuple(f"{IPV4_PREFIX}{part}" for part in ("48/28", "64/26", "128/25"))
FIRST_OWN: Final = 48
NAMES: Final = range(64, 128)
#: Addresses that are handed out for one stimulus alone, and those that several share, each at a
#: protocol and a port of its own.
_ALONE: Final = (*range(54, 64), *range(128, 171))
_SHARED: Final = range(171, 255)
_ANSWER: Final = 10.0
_START: Final = 30.0


class _Door:
    """One of the guest's servers, asked by a short exec.

    Args:
        engine: runs the guest.
        python: the interpreter in it.
        whom: ``witness``, ``origin``, ``clerk`` or ``station``.
        timeout: seconds for a question.
    """

    def __init__(self, engine: Engine, python: str, whom: str, timeout: float = _ANSWER) -> None:
        self._engine, self._python = engine, python
        self._whom, self._timeout = whom, timeout

    def ask(self, request: _wire.Message) -> _wire.Message:
        """Ask one question, in time.

        Raises:
            TransportError: the guest does not answer, or says why it cannot.
        """
        where = f"{self._whom} in guest {NAME}"
        argv = [self._python, "-I", "-S", "-c", CLIENT, DOOR, f"{self._timeout:g}"]
        asked = json.dumps({**request, "whom": self._whom}).encode()
        result = self._engine.exec(
            NAME, argv, stdin=asked, user="privileged", timeout=self._timeout + _ANSWER
        )
        try:
            answer = dict(json.loads(result.stdout))
        except ValueError:
            raise TransportError(
                "the far side does not answer",
                where=where,
                expected=f"an answer within {self._timeout:g} s",
                seen=result.err[-500:] or f"exit status {result.exit_status}, {result.out[:200]!r}",
                next_step="nothing can be concluded about the network; start pytest again",
            ) from None
        if "error" in answer:
            raise refused(where, {"op": self._whom, **request}, answer)
        return answer


class GuestInternet:
    """An :class:`~pytest_bottle.internet.contract.Internet` that is a guest of an engine.

    Args:
        engine: makes it, when it is first needed.
        literals: public addresses that nobody here owns, ``1.1.1.1``, may be sent to as well:
            ``--bottle-internet=guest,live``.
    """

    def __init__(self, engine: Engine, *, literals: bool = False) -> None:
        self.literals = literals
        self._engine = engine
        self._python = engine.python(BottleSpec())
        self._lock = threading.RLock()
        self._network: NetworkInfo | None = None
        self._names: dict[str, tuple[str, ...]] = {}
        self._alone = itertools.cycle(_ALONE)
        self._each: dict[tuple[str, int], Iterator[int]] = {}
        self._authority = ""
        self._minter = Minter(())
        self._closed, self._paused, self._signing = (
            threading.Event(),
            threading.Event(),
            threading.Lock(),
        )
        self._paused.set()
        self.witness = WitnessClient(_Door(engine, self._python, "witness"))
        self.origin = OriginClient(_Door(engine, self._python, "origin"))

    @property
    def name(self) -> str:
        """``guest``, or ``guest,live``."""
        return "guest,live" if self.literals else "guest"

    # -- the guest -------------------------------------------------------------------

    @property
    def network(self) -> NetworkInfo:
        """The egress network of every bottle."""
        assert self._network is not None, "make() comes first"
        return self._network

    def make(self) -> None:
        """Make the network and the guest, and start it.

        Raises:
            BottleError: the engine could not; nothing is left.
        """
        try:
            self._create_network()
            (network,) = self._engine.networks((NAME,))
            self._network = network
            if network.subnet != SUBNET:
                raise BringUpError(
                    "the far side's network has another subnet than it was asked for",
                    where=f"network {NAME}",
                    expected=SUBNET,
                    seen=network.subnet,
                )
            self._start()
        except BaseException:
            with contextlib.suppress(TransportError):
                self._remove()
            raise

    def _create_network(self) -> None:
        try:
            self._engine.create_network(NAME, internal=False, subnet=SUBNET)
        except BottleError as error:
            if "overlap" not in f"{error.what} {error.seen}":
                raise
            raise BringUpError(
                "the far side's network is somebody else's",
                where=error.where,
                expected=f"nobody with {SUBNET}",
                seen=error.seen,
                next_step="let the other session end; with -n give each worker a host of its own",
            ) from error

    def _start(self) -> None:
        request = GuestRequest(NAME, (NAME,), NAME, timeout=_START, privileged=True)
        self.require_apart(self._engine.run_guest(request))
        self._engine.settle((NAME,))
        settings = {"own": _OWN, "first": NAMES[0], "last": NAMES[-1], "door": DOOR}
        argv = [json.dumps(settings)]
        carried.start(self._engine, NAME, self._python, carried.far_side(), argv, user="privileged")
        carried.wait(self._engine, NAME, _START)
        self.origin.ping()
        self.witness.ping()

    def check(self, spec: BottleSpec) -> None:
        """Refuse a bottle that wants an egress network of its own.

        Raises:
            ConfigurationError: it names a subnet.
        """
        if spec.egress_subnet:
            raise ConfigurationError(
                "the egress network is the far side's",
                where="networks.egress",
                expected=f"none: with --bottle-internet=guest it is {SUBNET}",
                seen=repr(spec.egress_subnet),
            )

    def require_apart(self, guest: GuestInfo) -> None:
        """Require that a guest's address on the network is none of the far side's own.

        Raises:
            BringUpError: it is: what is sent there could not be told from what leaked.
        """
        address = guest.addresses.get(NAME, "")
        if address.startswith(IPV4_PREFIX) and int(address.rpartition(".")[2]) >= FIRST_OWN:
            raise BringUpError(
                "a guest has an address that is the far side's",
                where=f"network {NAME}",
                expected=f"one below {IPV4_PREFIX}{FIRST_OWN}",
                seen=address,
                next_step="take bottles down, or start pytest anew: the engine has none left there",
            )

    def _remove(self) -> None:
        self._engine.remove_guests((NAME,))
        self._engine.delete_networks((NAME,))

    def trust(self) -> str:
        """Mint an authority, let all guests trust it, and sign what greetings ask for.

        Returns:
            the file in a guest that it is in.
        """
        with self._lock:
            if not self._authority:
                self._authority = str(self._minter.handle({"op": "ca"})["pem"])
                threading.Thread(target=self._sign, name="bottle-clerk", daemon=True).start()
            return self._engine.trust(self._authority)

    def _sign(self) -> None:
        """Sign certificates for the names in greetings, until there is nobody to ask any more."""
        clerk, leaves = _Door(self._engine, self._python, "clerk", 30.0), dict[str, str]()
        while not self._closed.is_set():
            with self._signing:
                try:
                    wanted = clerk.ask({"op": "exchange", "leaves": leaves})["wanted"]
                except TransportError:
                    wanted = []
                    self._closed.wait(1.0)  # it may only have been slow
            leaves = {str(name): self._leaf(str(name)) for name in wanted}
            self._paused.wait()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Run nothing in the guest meanwhile, so that its processes are the same each time."""
        self._paused.clear()
        try:
            if self._authority:
                _Door(self._engine, self._python, "clerk").ask({"op": "dismiss"})
            with self._signing:
                yield
        finally:
            self._paused.set()

    def _leaf(self, name: str) -> str:
        try:
            return str(self._minter.handle({"op": "leaf", "name": name})["key_and_chain"])
        except ValueError:  # no name that a certificate could have
            return ""

    def close(self) -> None:
        """Sign nothing any more; the engine takes guest and network with it."""
        self._closed.set()

    # -- the contract ----------------------------------------------------------------

    def mark(self) -> Mark:
        """Take the witness's place in time."""
        return self.witness.mark()

    def heard(self, since: Mark, destinations: Sequence[str] | None = None) -> Hearing:
        """Tell what the witness heard since a mark."""
        return self.witness.heard(since, destinations)

    def listen(self, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Make the far side answer on these ports, at every address of its own."""
        self.origin.listen(tcp=tcp, udp=udp)

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Tell a name's addresses; its IPv6 one is of documentation, and no answer holds it."""
        with self._lock:
            if name not in self._names:
                self._names[name] = self.origin.addresses(name)
            return self._names[name]

    def adopt(self, name: str) -> tuple[str, ...]:
        """Own a name for the rest of the session, and tell its addresses, IPv4 first."""
        with self._lock:
            self._names[name] = self.origin.adopt(name)
            return self._names[name]

    def fresh_address(self, family: int = 4, at: tuple[str, int] | None = None) -> str:
        """Hand out an address that nobody has been sent to lately, at that port at least.

        Raises:
            NotSupported: the far side speaks IPv4 only.
        """
        if family != 4:
            raise NotSupported(
                "the far side has no IPv6", where=f"internet {self.name}", expected="IPv4"
            )
        with self._lock:
            if at is None:
                return f"{IPV4_PREFIX}{next(self._alone)}"
            numbers = self._each.setdefault(at, itertools.cycle(_SHARED))
            return f"{IPV4_PREFIX}{next(numbers)}"
