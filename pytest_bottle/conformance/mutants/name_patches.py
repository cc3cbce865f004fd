"""What tampered sidecars do with names and addresses instead; run like those of :mod:`.patches`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_bottle.guest import policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h11

    from pytest_bottle.guest import proxy


def matches_from_behind() -> None:
    """Let a name through that ends with a listed one, wherever that begins."""
    strict = policy.Policy.decide

    def decide(self: policy.Policy, host: str, port: int) -> policy.Decision:
        decision = strict(self, host, port)
        listed = [name for name in self._ports if decision.host.endswith(name)]
        if decision.reason != "not-allowed" or not listed:
            return decision
        return strict(self, listed[0], port)._replace(host=decision.host)

    policy.Policy.decide = decide  # type: ignore[method-assign]


def looks_at_version4_only() -> None:
    """Look at the class of an address where it is an IPv4 one."""
    from pytest_bottle.guest import resolver

    strict = policy.address_allowed

    def allowed(address: str, exceptions: Sequence[str] = ()) -> bool:
        return ":" in address or strict(address, exceptions)

    resolver.address_allowed = allowed  # type: ignore[attr-defined]  # it is imported there


def resolves_first() -> None:
    """Look up what is asked for, and then look at the list."""
    from pytest_bottle.guest import proxy

    strict = proxy._Client._judge  # noqa: SLF001 - nobody else may have a way in

    def judge(client: proxy._Client, request: h11.Request) -> policy.Verdict:
        authority = request.target.decode().partition("://")[2] or request.target.decode()
        with suppress(ValueError, policy.Stop):
            host, _ = policy.split_authority(authority.partition("/")[0], 0)
            client.sidecar.dialer.checked(policy.canonical_host(host))
        return strict(client, request)

    proxy._Client._judge = judge  # type: ignore[method-assign,assignment]  # noqa: SLF001 - likewise


def resolves_again() -> None:
    """Resolve a name to judge its addresses, and again to dial one."""
    from pytest_bottle.guest import resolver

    strict = resolver.Dialer.checked

    def checked(self: resolver.Dialer, host: str) -> list[str]:
        judged = strict(self, host)
        return judged if policy.is_literal(host) else self._resolver.resolve(host)

    resolver.Dialer.checked = checked  # type: ignore[method-assign]


def compares_texts() -> None:
    """Refuse addresses that begin with two texts, and leave all else to the library's reading."""
    from pytest_bottle.guest import resolver

    strict = policy.canonical_host

    def lenient(text: str) -> str:
        try:
            return strict(text)
        except ValueError:
            return text.strip("[]")

    def allowed(address: str, exceptions: Sequence[str] = ()) -> bool:  # noqa: ARG001
        return not address.startswith(("127.", "169.254."))

    policy.canonical_host = lenient
    resolver.address_allowed = allowed  # type: ignore[attr-defined]
