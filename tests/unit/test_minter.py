"""The minter: one authority, a certificate for every name, and nothing imported too early."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle import _wire
from pytest_bottle.errors import TransportError
from pytest_bottle.internet import minter
from pytest_bottle.internet.lab import MinterClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(clients: int = 1) -> Iterator[list[socket.socket]]:
    """Run a minter in a thread; it must end by itself when its clients are gone."""
    pairs = [socket.socketpair() for _ in range(clients)]
    thread = threading.Thread(target=minter.serve, args=([theirs for _, theirs in pairs], []))
    thread.start()
    try:
        yield [ours for ours, _ in pairs]
    finally:
        for ours, _ in pairs:
            ours.close()
        thread.join(30)
        for _, theirs in pairs:
            theirs.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def mint() -> Iterator[MinterClient]:
    """One authority for the tests that only read."""
    with running() as (sock,):
        yield MinterClient(sock)


def server_context(pem: str) -> ssl.SSLContext:
    """Be the server that a leaf is for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def shake_hands(ca_pem: str, leaf_pem: str, name: str) -> None:
    """Let a strict client meet a server, in memory; raises what the client objects to."""
    strict = ssl.create_default_context(cadata=ca_pem)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = strict.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context(leaf_pem).wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)


@pytest.mark.parametrize(
    "name", ["allowed.test", "deep.down.denied.test", "192.88.99.33", "2620:4f:8000::21"]
)
def test_a_strict_client_accepts_a_leaf(mint: MinterClient, name: str) -> None:
    """A client that trusts the authority finds nothing to object to, for names and addresses."""
    shake_hands(mint.ca_pem(), mint.leaf_pem(name), name)


def test_a_leaf_is_good_for_its_own_name_only(mint: MinterClient) -> None:
    """Else a client could not tell one origin from another."""
    with pytest.raises(ssl.SSLCertVerificationError, match=r"denied\.test"):
        shake_hands(mint.ca_pem(), mint.leaf_pem("allowed.test"), "denied.test")


def test_every_client_sees_the_same_authority_and_leaves() -> None:
    """What one part of a session trusts, another part may present."""
    with running(clients=2) as (first, second):
        assert MinterClient(first).ca_pem() == MinterClient(second).ca_pem()
        leaf = MinterClient(first).leaf_pem("allowed.test")
        assert MinterClient(second).leaf_pem("ALLOWED.test") == leaf


def test_two_sessions_have_two_authorities(mint: MinterClient) -> None:
    """A session's key is of no use to the next one."""
    with running() as (sock,):
        assert MinterClient(sock).ca_pem() != mint.ca_pem()


def test_it_outlives_all_clients_but_the_last() -> None:
    """One client's end is not the end of the others."""
    with running(clients=2) as (first, second):
        first.close()
        assert MinterClient(second).ca_pem().startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize("name", ["", "under_score.test", "a" * 64 + ".test", "..."])
def test_a_name_without_a_certificate_is_an_error(mint: MinterClient, name: str) -> None:
    """Names come from strangers; the minter says no and goes on."""
    with pytest.raises(TransportError, match="could not do what it was asked"):
        mint.leaf_pem(name)
    assert mint.leaf_pem("allowed.test")


def test_a_bad_request_is_answered(mint: MinterClient) -> None:
    """A request that makes no sense is told so."""
    with pytest.raises(TransportError, match="unknown request 'sing'"):
        mint._line.ask({"op": "sing"})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trustme is not installed, the answer says so instead of ending the minter."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    with running() as (sock,):
        answer, _ = _wire.call(sock, {"op": "ca"}, timeout=30)
        assert "trustme cannot be imported" in answer["error"]


def test_trustme_is_imported_from_the_given_paths_on_the_first_request(tmp_path: Path) -> None:
    """A clean process, without site-packages, finds it where the owner says, and not before."""
    (tmp_path / "trustme.py").write_text("raise ImportError('found on the given path')")
    code = f"""if True:
        import socket, sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from pytest_bottle import _wire
        from pytest_bottle.internet import minter
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=minter.serve, args=([theirs], [{os.fspath(tmp_path)!r}]))
        thread.start()
        _wire.call(ours, {{"op": "hello"}})
        assert "trustme" not in sys.modules and {os.fspath(tmp_path)!r} not in sys.path
        print(_wire.call(ours, {{"op": "ca"}})[0]["error"])
        ours.close()
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert "found on the given path" in done.stdout
