"""What the suite needs of the far side, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.internet.lab import Hearing, Mark


class Internet(Protocol):
    """The far side: it answers, and it alone can say that something got there."""

    @property
    def name(self) -> str:
        """``lab``, ``guest`` or ``live``."""

    def mark(self) -> Mark:
        """Take the witness's place in time: what it hears from here on."""

    def heard(self, since: Mark, destinations: Sequence[str] | None = None) -> Hearing:
        """Tell what the witness heard since a mark."""

    def listen(self, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Make the far side answer on these ports, at every address."""

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Tell the addresses that the far side's DNS gives a name, IPv4 first."""

    def adopt(self, name: str) -> tuple[str, ...]:
        """Give a name of any kind addresses, for the rest of the session, and tell them.

        Raises:
            BottleError: the far side has no address for it.
        """

    @property
    def literals(self) -> bool:
        """Whether public addresses that everybody knows, such as 1.1.1.1, may be sent to.

        In the lab they are its own; else they are the real ones, and nobody listens there.
        """

    def fresh_address(self, family: int = 4, at: tuple[str, int] | None = None) -> str:
        """Hand out a public-looking address that nobody has been sent to lately.

        Args:
            family: 4 or 6.
            at: a protocol and a port, if it will be sent to there and nowhere else: a far side with
                few addresses gives one to several that differ in these.

        Raises:
            NotSupported: the far side does not speak that family.
        """
