"""TLS for the origins: for every name a certificate, minted when it is first asked for."""

from __future__ import annotations

import os
import ssl
import threading
from typing import TYPE_CHECKING

from pytest_bottle import _wire
from pytest_bottle.internet.sockets import plain

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_MINT_PATIENCE = 10.0
_MOST_CONTEXTS = 2048
_OPEN_FILES = "/proc/self/fd"


class Leaves:
    """TLS contexts by name, made of the minter's certificates.

    Args:
        minter: the control connection to the minter.
        greeted: called with (connection, name, error) for every ClientHello that could be read.
    """

    def __init__(
        self, minter: socket.socket, greeted: Callable[[socket.socket, str, str], None]
    ) -> None:
        self._minter = minter
        self._greeted = greeted
        self._lock = threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._entrance = _context()
        self._entrance.sni_callback = self._choose

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Shake hands as the server of whatever name the client asks for.

        Raises:
            OSError: the handshake failed; ``connection`` is closed.
        """
        wrapped = self._entrance.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        try:
            wrapped.do_handshake()
        except OSError:
            wrapped.close()
            raise
        return wrapped

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> int | None:
        assert isinstance(connection, ssl.SSLSocket)
        error = ""
        try:
            connection.context = self._leaf(name or _local_address(connection))
        except (OSError, ValueError, _wire.Closed) as problem:
            error = str(problem) or type(problem).__name__
        self._greeted(connection, name or "", error)
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR if error else None

    def _leaf(self, name: str) -> ssl.SSLContext:
        name = covering(name)
        with self._lock:  # the minter answers one question at a time
            if name not in self._contexts:
                if len(self._contexts) >= _MOST_CONTEXTS:
                    self._contexts.clear()
                self._contexts[name] = self._mint(name)
            return self._contexts[name]

    def _mint(self, name: str) -> ssl.SSLContext:
        request = {"op": "leaf", "name": name}
        answer, _ = _wire.call(self._minter, request, timeout=_MINT_PATIENCE)
        if "error" in answer:
            raise ValueError(answer["error"])
        context = _context()
        _load(context, answer["key_and_chain"].encode())
        return context


def covering(name: str) -> str:
    """Name the certificate that a host gets: one for all of a domain below the second level.

    A nonce is a label of its own, and a minter may be far away (RFC 6125, section 6.4.3).
    """
    first, _, parent = name.partition(".")
    *labels, last = parent.split(".")
    is_address = last.isdigit() or ":" in name
    return f"*.{parent}" if first and all((*labels, last)) and labels and not is_address else name


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _local_address(connection: ssl.SSLSocket) -> str:
    return plain(str(connection.getsockname()[0]))


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    # OpenSSL wants a path; a file without a name leaves nothing behind, however we die.
    fd = os.memfd_create("bottle-leaf")
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"{_OPEN_FILES}/{fd}")
    except (FileNotFoundError, PermissionError):  # no /proc, or that of other processes
        _load_by_name(context, pem, f"/tmp/bottle-leaf-{os.getpid()}-{fd}.pem")  # noqa: S108
    finally:
        os.close(fd)


def _load_by_name(context: ssl.SSLContext, pem: bytes, path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, pem)
        context.load_cert_chain(path)
    finally:
        os.close(fd)
        os.unlink(path)
