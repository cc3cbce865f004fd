"""What is said inside tunnels: on sidecars that open TLS, that say they do not look, or boast."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import trustme

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend, open_mutant
from pytest_bottle.errors import NotSupported, Violation
from pytest_bottle.spec import BottleSpec, SidecarSpec
from tests.judging import named, run_check

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import BackendInfo, Topology

pytestmark = pytest.mark.usefixtures("netns_works")

#: A proxy for allowed.test alone, which opens its TLS; it speaks HTTP/1.1 inside, and closes.
_OPENER = """
import os, socket, ssl, threading, urllib.request
CHECKS = {checks}
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/leaf.pem")
DENIED = b"HTTP/1.1 403 Forbidden\\r\\nX-Bottle-Denied: host\\r\\nContent-Length: 0\\r\\n\\r\\n"

def head(sock):
    data = b""
    while b"\\r\\n\\r\\n" not in data:
        part = sock.recv(4096)
        if not part:
            return [b""], b""
        data += part
    first, _, rest = data.partition(b"\\r\\n\\r\\n")
    return first.split(b"\\r\\n"), rest

def host_of(lines):
    return next((l[5:].strip() for l in lines[1:] if l.lower().startswith(b"host:")), b"")

def pass_on(sock, port, lines, rest, path):
    size = next((int(l[15:]) for l in lines if l.lower().startswith(b"content-length:")), 0)
    while len(rest) < size:
        rest += sock.recv(65536)
    up = socket.create_connection(("allowed.test", port))
    if port == 443:
        up = ssl._create_unverified_context().wrap_socket(up, server_hostname="allowed.test")
    method = lines[0].split()[0]
    kept = [l for l in lines[1:] if not l.lower().startswith((b"connection", b"host"))]
    kept += [b"Host: " + host_of(lines), b"Connection: close"]
    up.sendall(b"\\r\\n".join([method + b" " + path + b" HTTP/1.1", *kept, b"", rest]))
    while data := up.recv(65536):
        sock.sendall(data)

def serve(sock):
    lines, rest = head(sock)
    method, target, *_ = (*lines[0].split(), b"", b"")
    if method == b"CONNECT" and target == b"allowed.test:443":
        sock.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        sock = context.wrap_socket(sock, server_side=True)
        lines, rest = head(sock)
        if CHECKS and host_of(lines).partition(b":")[0] != b"allowed.test":
            return sock.sendall(DENIED)
        return pass_on(sock, 443, lines, rest, lines[0].split()[1])
    prefix = b"http://allowed.test/"
    if method == b"CONNECT" or not target.startswith(prefix) or host_of(lines) != b"allowed.test":
        return sock.sendall(DENIED)
    pass_on(sock, 80, lines, rest, b"/" + target[len(prefix):])

def guarded(sock):
    with sock:
        try:
            serve(sock)
        except (OSError, ValueError):
            pass

door = socket.create_server(("", int(os.environ["BOTTLE_PORT"])), backlog=64)
while True:
    threading.Thread(target=guarded, args=door.accept()[:1], daemon=True).start()
"""


class Opening(NetnsBackend):
    """A backend that says of itself that it opens TLS."""

    def describe(self) -> BackendInfo:
        """Declare one feature more."""
        info = super().describe()
        return info._replace(features=info.features | {Feature.TLS_INTERCEPT})


def opener(*, checks: bool) -> BottleSpec:
    """A bottle whose sidecar opens the TLS of the allowed host, and looks inside, or does not."""
    backend = NetnsBackend()
    python = backend.netns.python(BottleSpec())
    backend.close()
    leaf = trustme.CA().issue_cert("allowed.test").private_key_and_cert_chain_pem
    program = _OPENER.replace("{checks}", str(checks))
    sidecar = SidecarSpec(
        command=(python, "-c", program), files={"/run/leaf.pem": leaf.bytes().decode()}
    )
    return BottleSpec(sidecar=sidecar, publish=None)


def inner_host(backend: NetnsBackend, spec: BottleSpec) -> str:
    """Run PXY-08 on a bottle."""
    try:
        return Bench(backend, spec).run(named("PXY-08"))
    finally:
        backend.close()


def test_a_sidecar_that_looks_at_the_inner_host_passes() -> None:
    """It serves the allowed host inside the TLS that it opens, and refuses another one there."""
    note = inner_host(Opening(), opener(checks=True))
    assert note.startswith("another Host by HTTP/1.1: 403; HTTP/2: a second :authority: ")


def test_a_sidecar_that_opens_tls_and_does_not_look_is_found_out() -> None:
    """PXY-08 is violated, by the far side's own answer."""
    with pytest.raises(Violation, match=r"served another Host by HTTP/1.1"):
        inner_host(Opening(), opener(checks=False))


def test_a_backend_that_only_says_that_it_opens_tls_is_found_out() -> None:
    """The opaque tunnel of the reference sidecar lets another host through."""
    with pytest.raises(Violation, match=r"served another Host by HTTP/1.1"):
        inner_host(Opening(), BottleSpec())


class Opaque(NetnsBackend):
    """A backend whose bottles declare that nobody looks into their tunnels."""

    def up(self, spec: BottleSpec) -> Topology:
        """Declare it."""
        return super().up(spec)._replace(tls_opaque=True)


def test_what_is_declared_is_a_residual_and_no_finding() -> None:
    """PXY-07 is NOT_SUPPORTED then, in words that say what got through; PXY-04 passes."""
    with pytest.raises(NotSupported, match=r"documented residual.*tls_opaque"):
        run_check(Opaque(), "PXY-07")
    assert run_check(Opaque(), "PXY-04").endswith("tunnels are declared to be opaque")


def test_a_sidecar_of_ones_own_can_declare_it() -> None:
    """The word in the file ends up in the topology."""
    spec = opener(checks=True)
    backend = NetnsBackend()
    try:
        for opaque in (True, False):
            sidecar = dataclasses.replace(spec.sidecar, tls_opaque=opaque)
            topology = backend.up(dataclasses.replace(spec, sidecar=sidecar))
            assert topology.tls_opaque is opaque
    finally:
        backend.close()


def test_each_foreign_greeting_is_found_one_by_one() -> None:
    """Without the look at TLS each form of another name gets through, and counts."""
    backend = open_mutant("PXY-07")
    with pytest.raises(Violation) as caught:
        run_check(backend, "PXY-07")
    assert caught.value.seen.startswith("10 conversations led to fronted.test")
