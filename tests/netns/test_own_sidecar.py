"""A sidecar of the user's own in place of the reference one: how it is run, and judged."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import requests

from pytest_bottle.backends.contract import DenialForm, Feature, Vantage
from pytest_bottle.backends.engines.netns.engine import FEATURES
from pytest_bottle.backends.engines.netns.subnets import PREFIX6
from pytest_bottle.bottle import Bottle
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import (
    BringUpError,
    ConfigurationError,
    Inconclusive,
    NotSupported,
    Violation,
)
from pytest_bottle.spec import BottleSpec, EgressRoute, PublishedPort, SidecarSpec
from pytest_bottle.verdict import Verdict
from pytest_bottle.waiting import AllOf, AnyOf, Condition, Exec, File, Http, Log, Port
from tests.judging import named
from tests.sidecars import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("netns_works")

PYTHON = os.path.realpath(sys.executable)
#: Tinyproxy with the bottle's routes as its filter, each an exact host.
TINYPROXY = """#!/bin/sh
for route in $BOTTLE_ROUTES; do
    echo "^$(echo "${route%:*}" | sed 's/\\./\\\\./g')$"
done | sort -u >/run/proxy/filter
cat >/run/proxy/conf <<END
Port $BOTTLE_PORT
Listen $BOTTLE_ADDRESS
FilterDefaultDeny Yes
FilterExtended On
Filter "/run/proxy/filter"
ConnectPort 443
LogLevel Info
END
exec tinyproxy -d -c /run/proxy/conf
"""
#: The checks that tinyproxy fails, and why: what it has no setting for.
WEAKNESSES = {
    "PXY-06": "it passes on what has two lengths",
    "PXY-07": "it looks into no tunnel",
    "PXY-09": "ConnectPort is for CONNECT: a plain request may name any port of an allowed host",
    "PXY-10": "it dials whatever address an allowed name has, its own loopback too",
    "PXY-20": "this bottle publishes the proxy itself, which serves whoever is at the host",
}


def tinyproxy(*egress: str) -> BottleSpec:
    """A bottle with tinyproxy as its sidecar, its port published too."""
    sidecar = SidecarSpec(
        command=("/run/proxy/start",),
        files={"/run/proxy/start": TINYPROXY},
        port=8888,
        denial=DenialForm(403, "server"),
    )
    routes = tuple(map(EgressRoute.parse, egress or ("allowed.test",)))
    return BottleSpec(egress=routes, sidecar=sidecar, publish=PublishedPort(target=8888))


@pytest.fixture(scope="module")
def proxied(netns: NetnsBackend) -> Iterator[Bottle]:
    """A bottle behind tinyproxy; names that it lets through have inward addresses as well."""
    if shutil.which("tinyproxy") is None:
        pytest.skip("NOT RUN: tinyproxy is not installed (Debian package tinyproxy-bin)")
    with Bottle(netns, tinyproxy("allowed.test", "metadata.test")) as bottle:
        yield bottle


def sidecar(program: str, **more: object) -> BottleSpec:
    """A bottle whose sidecar is a Python program, which finds ``sys``, ``os``, ``time`` and more.

    ``timeout`` and ``publish`` are the bottle's, all else is the sidecar's.
    """
    of_bottle = {name: more.pop(name) for name in ("timeout", "publish") if name in more}
    text = f"import os, socket, sys, time\nenv = os.environ\n{program}\n"
    own = SidecarSpec(command=(PYTHON, "-u", "-I", "-c", text), **more)  # type: ignore[arg-type]
    return BottleSpec(sidecar=own, **of_bottle)  # type: ignore[arg-type]


LISTEN = (
    "s = socket.create_server((env['BOTTLE_ADDRESS'], int(env['BOTTLE_PORT']))); print('up');"
    "time.sleep(1000)"
)


# -- tinyproxy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tinyproxy_serves_the_agent(proxied: Bottle, scheme: str) -> None:
    """By its variables the agent fetches an allowed page through tinyproxy; another gets a 403."""
    port = proxied.topology.proxy
    assert port == (proxied.topology.sidecar_address, 8888)
    assert proxied.agent.run("printenv", "https_proxy").out == f"http://{port}"

    page = proxied.agent.fetch(f"{scheme}://allowed.test/hello").json()
    denied = proxied.agent.fetch(f"{scheme}://denied.test/hello")

    assert (page["client"], page["path"]) == (proxied.topology.sidecar_outer_address, "/hello")
    assert (denied.status, denied.headers["server"][:9]) == (403, "tinyproxy")


@pytest.mark.parametrize(
    ("name", "path", "port"),
    [("allowed.test", ":8080/", 8080), ("metadata.test", "/latest/meta-data/", 80)],
)
def test_tinyproxy_s_weaknesses_are_real(
    netns: NetnsBackend, proxied: Bottle, name: str, path: str, port: int
) -> None:
    """The witness hears tinyproxy dial a port that no route names, and a metadata service."""
    own = (proxied.topology.sidecar_outer_address, PREFIX6)
    mark = netns.internet.mark()

    proxied.agent.fetch(f"http://{name}{path}")

    heard = netns.internet.heard(mark, netns.internet.addresses_of(name)).records
    assert [r for r in heard if r.src.startswith(own) and r.dport == port], heard


def test_the_suite_finds_tinyproxy_s_weaknesses() -> None:
    """The same checks judge tinyproxy: it fails just those that it is too weak for."""
    if shutil.which("tinyproxy") is None:
        pytest.skip("NOT RUN: tinyproxy is not installed (Debian package tinyproxy-bin)")
    backend = NetnsBackend()
    verdicts, expected = {}, {}
    try:
        bench = Bench(backend, tinyproxy())
        for check in (check for check in all_checks() if not check.apart):
            unsupported = bool(
                {Feature.AUDIT, Feature.RELOAD, *frozenset(Feature) - FEATURES} & check.needs
            )
            weak = Verdict.VIOLATED if check.id in WEAKNESSES else Verdict.PASSED
            expected[check.id] = Verdict.NOT_SUPPORTED if unsupported else weak
            try:
                bench.run(check)
                verdicts[check.id] = Verdict.PASSED
            except NotSupported:
                verdicts[check.id] = Verdict.NOT_SUPPORTED
            except Violation:
                verdicts[check.id] = Verdict.VIOLATED
            except Inconclusive:
                verdicts[check.id] = Verdict.INCONCLUSIVE
        bench.close()
    finally:
        backend.close()

    assert verdicts == expected
    assert verdicts["HST-03"] is Verdict.PASSED


@pytest.mark.parametrize("identity", ["PXY-10", "PXY-11", "PXY-14"])
def test_a_list_of_its_own_proves_nothing_about_literals(identity: str) -> None:
    """Who refuses inward literals because no route counts at all has not been asked: no pass."""
    if shutil.which("tinyproxy") is None:
        pytest.skip("NOT RUN: tinyproxy is not installed (Debian package tinyproxy-bin)")
    spec = tinyproxy()
    fixed = TINYPROXY.replace("in $BOTTLE_ROUTES", "in allowed.test:80")
    spec = replace(spec, sidecar=replace(spec.sidecar, files={"/run/proxy/start": fixed}))
    check = named(identity)
    backend = NetnsBackend()
    try:
        bench = Bench(backend, spec)
        with pytest.raises(Inconclusive, match="does it read BOTTLE_ROUTES"):
            bench.run(check)
        bench.close()
    finally:
        backend.close()


# -- how it is run -----------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "uid"), [("agent", 1000), ("root", 0)])
def test_it_is_told_what_it_needs(netns: NetnsBackend, user: str, uid: int) -> None:
    """Its variables name port, address, routes and a resolver; it runs as asked, unprivileged."""
    program = (
        "print({n: env[n] for n in env if n.startswith(('BOTTLE', 'MINE'))}, os.getuid(),"
        "[l for l in open('/proc/self/status') if l.startswith('CapEff')]);"
        "print(socket.gethostbyname('allowed.test').rpartition('.')[0]);" + LISTEN
    )
    spec = replace(
        sidecar(program, user=user, environment={"MINE": "x"}, port=1234),
        egress=(EgressRoute("allowed.test"), EgressRoute("2001:db8::1", (8443,))),
    )

    with Bottle(netns, spec) as bottle:
        said = netns.logs(bottle.topology)["sidecar output"].decode().splitlines()

    variables = {
        "BOTTLE_ADDRESS": bottle.topology.sidecar_address,
        "BOTTLE_PORT": "1234",
        "BOTTLE_ROUTES": "allowed.test:80 allowed.test:443 [2001:db8::1]:8443",
        "BOTTLE_RESOLVER": "192.88.99.53",
        "MINE": "x",
    }
    shown, _, rest = said[0].partition("} ")
    assert eval(shown + "}") == variables
    assert rest == f"{uid} ['CapEff:\\t0000000000000000\\n']"
    assert said[1] == "192.88.99"


def test_its_files_are_there_before_it_starts(netns: NetnsBackend) -> None:
    """Files are written whole, a script among them can be run, and any writable folder will do."""
    files = {
        "/run/a/b/text": "two\nlines é\n",
        "/tmp/run": "#!/bin/sh\necho ran\n",
        "/var/lib/x": "",
        "/home/agent/y": "y",
    }
    program = (
        "print(repr(open('/run/a/b/text').read()), os.popen('/tmp/run').read());"
        "print([os.path.getsize(p) for p in ('/var/lib/x', '/home/agent/y')]);" + LISTEN
    )
    with Bottle(netns, sidecar(program, files=files)) as bottle:
        said = netns.logs(bottle.topology)["sidecar output"].decode()

    assert said.startswith("'two\\nlines é\\n' ran\n\n[0, 1]\n")


@pytest.mark.parametrize("path", ["/etc/proxy.conf", "/usr/share/x"])
def test_a_file_that_cannot_be_written(netns: NetnsBackend, path: str) -> None:
    """A read-only path is refused with the folders that are not, and nothing is left."""
    before = netns.inventory()

    with pytest.raises(BringUpError, match="cannot be written") as caught:
        netns.up(sidecar(LISTEN, files={path: "x"}))

    assert path in caught.value.seen
    assert "/run, /tmp, /var, /home" in caught.value.expected
    assert netns.inventory() == before


@pytest.mark.parametrize(
    "spec",
    [
        BottleSpec(image="alpine"),
        BottleSpec(sidecar=SidecarSpec(image="squid")),
        sidecar(LISTEN, files={"proxy.conf": ""}),
        sidecar(LISTEN, wait=AllOf((Port(), Log("(")))),
    ],
)
def test_what_cannot_be_is_refused_at_once(netns: NetnsBackend, spec: BottleSpec) -> None:
    """An image, a relative path and a broken pattern: refused with nothing made."""
    before = netns.inventory()
    with pytest.raises(ConfigurationError):
        netns.up(spec)
    assert netns.inventory() == before


# -- when it is ready --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "seen"),
    [
        ("print(*range(60), sep='\\n'); sys.exit(7)", "exit 7"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("print(*range(60), sep='\\n'); time.sleep(0.4); sys.exit(3)", "exit 3"),
    ],
)
def test_one_that_ends(netns: NetnsBackend, program: str, seen: str) -> None:
    """A sidecar that ends is waited for no longer: its end and its last 50 lines are told."""
    before, started = netns.inventory(), time.monotonic()

    with pytest.raises(BringUpError, match="ended before it was ready") as caught:
        netns.up(sidecar(program, timeout=300.0))

    assert time.monotonic() - started < 100
    lines = caught.value.seen.splitlines()
    assert lines[0].startswith(f"{seen}, after ")
    if "range" in program:
        assert lines[1:] == [str(number) for number in range(10, 60)]
    assert netns.inventory() == before


def test_one_that_does_not_exist(netns: NetnsBackend) -> None:
    """A sidecar whose program is not there says so."""
    with pytest.raises(BringUpError, match="ended before") as caught:
        netns.up(BottleSpec(sidecar=SidecarSpec(command=("no-such-proxy", "-x"))))
    assert "no-such-proxy: No such file or directory" in caught.value.seen


@pytest.mark.parametrize("address", ["127.0.0.1", "socket.gethostbyname(socket.gethostname())"])
def test_one_that_never_listens_for_the_agent(netns: NetnsBackend, address: str) -> None:
    """Listening where the agent cannot come is not ready: what was awaited and seen is told."""
    host = repr(address) if address[0] == "1" else "env['BOTTLE_ADDRESS']"
    port = 9099 if address[0] == "1" else 9100
    program = f"s = socket.create_server(({host}, {port})); print('up'); time.sleep(1000)"
    before, started = netns.inventory(), time.monotonic()

    with pytest.raises(BringUpError, match="was not ready in time") as caught:
        netns.up(sidecar(program, timeout=5.0))

    assert 5.0 <= time.monotonic() - started < 60
    assert ":" not in caught.value.expected.partition("accepts")[0]
    assert "port 9099 of 10.86." in caught.value.expected
    found = re.match(r"Connection refused, after ([\d.]+) s", caught.value.seen)
    assert found is not None, caught.value.seen
    assert 5.0 <= float(found[1]) < 60
    assert caught.value.seen.endswith("its last words:\nup")
    assert netns.inventory() == before


#: Half a second after its start: a file, a line, and an HTTP server with one page.
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == '/health' else 404)
        self.end_headers()
time.sleep(0.3)
open('/run/ready', 'w').close()
print('listening soon')
http.server.ThreadingHTTPServer((env['BOTTLE_ADDRESS'], 9099), Handler).serve_forever()
"""
MET = [
    Port(),
    Port(9099),
    Http("/health"),
    Http("/none", 404, 9099),
    Log("listening .oon$"),
    Exec(("sh", "-c", 'test "$BOTTLE_PORT" = 9099 && test -e /run/ready')),
    File("/run/ready"),
    AllOf((File("/run/ready"), Log("soon"), Http("/health"))),
    AnyOf((Port(1), File("/none"), Http("/health"))),
]
UNMET = [
    (Port(1), "port 1 of 10.86.", "Connection refused"),
    (Http("/none"), ":9099/none answers 200", "404"),
    (Log("never"), "matches 'never'", "1 lines, none of them"),
    (Exec(("sh", "-c", "echo why >&2; exit 4")), "ends with 0", "exit 4 why"),
    (Exec(("no-such",)), "'no-such' ends with 0", "No such file"),
    (File("/none"), "/none exists", "not there"),
    (AllOf((Port(), File("/none"))), " and /none exists", "not there"),
    (AnyOf((Port(1), File("/none"))), " or /none exists", "Connection refused; not there"),
]


@pytest.mark.parametrize("condition", MET, ids=repr)
def test_a_condition_that_is_met(netns: NetnsBackend, condition: Condition) -> None:
    """Each kind of condition is waited for, not taken for granted, and then the bottle is up."""
    started = time.monotonic()
    with Bottle(netns, sidecar(SERVER, wait=condition)):
        assert time.monotonic() - started > 0.3


@pytest.mark.parametrize(("condition", "awaited", "seen"), UNMET, ids=repr)
def test_a_condition_that_is_not_met(
    netns: NetnsBackend, condition: Condition, awaited: str, seen: str
) -> None:
    """Each kind of condition says what was awaited and what was seen last."""
    with pytest.raises(BringUpError, match="was not ready in time") as caught:
        netns.up(sidecar(SERVER, wait=condition, timeout=4.0))
    assert awaited in caught.value.expected
    assert seen in caught.value.seen.partition(", after 4.")[0]


def test_nobody_waits_for_a_slow_one(netns: NetnsBackend) -> None:
    """While a sidecar gets ready, other bottles come up and are used."""
    slow = sidecar("time.sleep(6);" + LISTEN)
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(netns.up, slow)
        time.sleep(0.3)
        with Bottle(netns, BottleSpec()) as bottle:
            assert bottle.agent.fetch("http://allowed.test/").status == 200
        assert not coming.done()
        netns.down(coming.result())


def test_the_reference_sidecar_on_another_port(netns: NetnsBackend) -> None:
    """The port is the reference sidecar's as well: the agent's variables name it."""
    with Bottle(netns, BottleSpec(sidecar=SidecarSpec(port=3128))) as bottle:
        assert bottle.agent.run("printenv", "http_proxy").out.endswith(":3128")
        assert bottle.agent.fetch("http://allowed.test/").status == 200


@pytest.mark.parametrize(("user", "uid"), [("agent", b"1000\n"), ("root", b"0\n")])
def test_the_agent_s_command_has_a_user(netns: NetnsBackend, user: str, uid: bytes) -> None:
    """The agent's own command runs as whom the bottle says."""
    with Bottle(netns, BottleSpec(command=("sh", "-c", "id -u; sleep 99"), user=user)) as bottle:
        wait_for(lambda: netns.logs(bottle.topology) == {"agent output": uid})


# -- its published port ------------------------------------------------------------------------

ECHO = (
    """
import http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode() * 100_000)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer((%s, 8080), Handler)
threading.Thread(target=server.serve_forever).start()
"""
    + LISTEN
)


@pytest.mark.parametrize("where", ["'127.0.0.1'", "env['BOTTLE_ADDRESS']"])
def test_a_port_is_published(netns: NetnsBackend, where: str) -> None:
    """Its port answers at the host and on the machine, wherever it listens; visitors are known."""
    spec = sidecar(ECHO % where, publish=PublishedPort(target=8080))
    with Bottle(netns, spec) as bottle:
        published, machine = bottle.topology.published, bottle.topology.machine_published
        assert published is not None
        assert machine is not None
        page = requests.get(f"http://{machine}/", timeout=30).text
        assert len(page) >= 900_000
        assert bottle.guest(Vantage.HOST).run("curl", "-sS", f"http://{published}/").out == page
        visitors = [str(record["client"]) for record in netns.audit(bottle.topology)]

    assert [visitor.rpartition(":")[0] for visitor in visitors] == ["127.0.0.1", "127.0.0.1"]
    assert bottle.topology.lacks == {Feature.AUDIT, Feature.RELOAD}


def test_a_port_where_nothing_listens(netns: NetnsBackend) -> None:
    """A visitor of a published port that leads nowhere is hung up on, and written down."""
    with Bottle(netns, sidecar(LISTEN, publish=PublishedPort(target=8080))) as bottle:
        assert bottle.topology.machine_published is not None
        with socket.create_connection(bottle.topology.machine_published, 30) as visitor:
            assert visitor.recv(10) == b""
        assert [record["event"] for record in netns.audit(bottle.topology)] == ["status"]


@pytest.mark.parametrize("spec", [BottleSpec(publish=None), sidecar(LISTEN)])
def test_nothing_is_published_unasked(netns: NetnsBackend, spec: BottleSpec) -> None:
    """Without a published port, or one of its own, nothing listens for it, and the bottle works."""
    before = {r for r in netns.inventory() if r.kind == "listener"}
    with Bottle(netns, spec) as bottle:
        topology = bottle.topology
        assert (topology.published, topology.machine_published) == (None, None)
        assert Feature.PUBLISH in topology.lacks
        assert (Feature.AUDIT in topology.lacks) == bool(spec.sidecar.command)
        assert {r for r in netns.inventory() if r.kind == "listener"} == before


def test_logs_are_of_those_who_wrote(netns: NetnsBackend) -> None:
    """The logs hold each part's words by its name, and no part that said nothing."""
    with Bottle(netns, BottleSpec(command=("sh", "-c", "echo hi; sleep 1000"))) as bottle:
        bottle.agent.fetch("http://denied.test/")
        wait_for(lambda: "agent output" in netns.logs(bottle.topology))
        logs = netns.logs(bottle.topology)
        assert set(logs) == {"sidecar", "agent output"}
        assert b'"deny"' in logs["sidecar"]
        assert logs["agent output"] == b"hi\n"
    with Bottle(netns, sidecar(LISTEN)) as bottle:
        wait_for(lambda: bool(netns.logs(bottle.topology)))
        assert netns.logs(bottle.topology) == {"sidecar output": b"up\n"}
