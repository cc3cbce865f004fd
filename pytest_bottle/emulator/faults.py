"""The faults of the emulator that can be switched on, and how they are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The variable that names them, with commas between: the daemon's from its start on, and a call's.
VARIABLE: Final = "BOTTLE_EMULATOR_FAULTS"
HOST_FORWARDING: Final = "host-forwarding"
GATEWAY_DNS: Final = "gateway-dns"
HOST_ON_GATEWAY: Final = "host-on-gateway"
LOCAL_NETWORK_PRIVACY: Final = "local-network-privacy"
APISERVER_HANG: Final = "apiserver-hang"
APISERVER_DOWN: Final = "apiserver-down"
SLOW_DELETE: Final = "slow-delete"
TRUNCATED_JSON: Final = "truncated-json"
OLD_VERSION: Final = "old-version"

#: What each of them does, with the number in apple/container where there is one.
FAULTS: Final[Mapping[str, str]] = {
    HOST_FORWARDING: "TCP by address leaves a hostOnly network; ping and names do not (#2062)",
    GATEWAY_DNS: "the gateway of every network resolves any name (agentcage #213)",
    HOST_ON_GATEWAY: "services of the host answer at the gateways of hostOnly networks (#1320)",
    LOCAL_NETWORK_PRIVACY: "a published port accepts, then resets (#2029)",
    APISERVER_HANG: "the API server takes requests and never answers (#2275)",
    APISERVER_DOWN: "there is no API server, and it does not start",
    SLOW_DELETE: "a network stays in use for a while after its last container (#1318)",
    TRUNCATED_JSON: "JSON ends in the middle, with status 0",
    OLD_VERSION: "the version is 0.12.3, and so are the shapes of its JSON",
}


class UnknownFaultError(Exception):
    """A name that is no fault's; the message names the nearest."""


def parse(text: str) -> frozenset[str]:
    """Read the variable's value.

    Raises:
        UnknownFaultError: a name in it is no fault's.
    """
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    for name in sorted(names - FAULTS.keys()):
        from difflib import get_close_matches  # rarely needed, and slow to import

        (nearest, *_) = [*get_close_matches(name, FAULTS, 1, 0.0), ""]
        raise UnknownFaultError(f"{VARIABLE} names no fault {name!r}; did you mean {nearest!r}?")
    return names
