"""A network namespace of the engine: held by an open file, quiet, with a netlink socket inside."""

from __future__ import annotations

import contextlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends.engines.netns import linux
from pytest_bottle.backends.engines.netns.children import go_home
from pytest_bottle.backends.engines.netns.rtnetlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Settings that a new namespace may inherit from the machine and that would decide verdicts.
_QUIET: Final = {
    "net/ipv4/ip_forward": "0",
    **{
        f"net/ipv4/conf/{scope}/{name}": "0"
        for scope in ("all", "default")
        for name in (
            "rp_filter",
            "proxy_arp",
            "route_localnet",
            "accept_redirects",
            "send_redirects",
            "accept_source_route",
        )
    },
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv4/ping_group_range": "0 0",
    # As in Docker's containers: who may send from port 53 shows whether that opens anything.
    "net/ipv4/ip_unprivileged_port_start": "0",
    # A closed port must say so each time it is asked, or it reads like a silent one.
    "net/ipv4/icmp_ratelimit": "0",
}


class Namespace:
    """A network namespace held by an open file, with a netlink socket inside."""

    def __init__(self, home: int) -> None:
        self._home = home
        linux.unshare(linux.CLONE_NEWNET)
        with contextlib.ExitStack() as undo:
            try:
                self.fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, self.fd)
                self.netlink = Netlink()
                undo.callback(self.netlink.close)
                for name, value in _QUIET.items():
                    sysctl(name, value)
            finally:
                go_home(home, linux.CLONE_NEWNET)
            undo.pop_all()
        self._next_index = 10
        self.netlink.up("lo")

    def index(self) -> int:
        """Hand out a free interface number of this namespace."""
        self._next_index += 1
        return self._next_index

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for a moment."""
        linux.setns(self.fd, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            go_home(self._home, linux.CLONE_NEWNET)

    def sysctls(self, values: dict[str, str]) -> None:
        """Write kernel settings of this namespace, after what is queued has been done."""
        self.netlink.flush()
        with self.entered():
            for name, value in values.items():
                sysctl(name, value)

    def close(self) -> None:
        """Let go of the namespace; the kernel frees it with its last process."""
        self.netlink.close()
        os.close(self.fd)


def sysctl(name: str, value: str) -> None:
    """Write one kernel setting of the current namespace."""
    # Not open(): a text stream for each of the many settings costs more than the setting.
    fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
