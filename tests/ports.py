"""Numbers of ports for tests that must name one before it is opened."""

from __future__ import annotations

import errno
import itertools
import os
import socket

#: Below those that the kernel gives out, from 32768 on (ip(7)): to whoever asks for any port, and
#: to the near ends of connections. One of those may be somebody else's before it is used.
_FIRST, _COUNT = 10_000, 20_000
#: Each process begins elsewhere, so that workers beside each other do not name the same ones.
_places = itertools.count(os.getpid() * 97)


def free_port(address: str = "127.0.0.1") -> int:
    """Find a port that is free for TCP and UDP, and that nobody else is given meanwhile."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for place in itertools.islice(_places, _COUNT):
        port = _FIRST + place % _COUNT
        with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            try:
                for sock in (tcp, udp):
                    sock.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise OSError(errno.EADDRINUSE, "every port is taken")
