"""TRN: how a transparent bottle is set up, whom it covers, and what becomes of it without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Fault, Feature, User, Vantage
from pytest_bottle.conformance import direct, drift
from pytest_bottle.conformance.boot import Boot
from pytest_bottle.conformance.checks.privilege import held
from pytest_bottle.conformance.conditions import ALLOWED, DENIED
from pytest_bottle.conformance.direct import TRANSPARENT, ask, both, broken, fire_direct, lost
from pytest_bottle.conformance.encounters import NEARBY, attempt, knocks, settle
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.firing import Operation, run_one

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record


@check(
    "TRN-05",
    "Set-up privilege is gone before the agent's first instruction",
    level=Level.TRANSPARENT,
    witness=Witness.NO,
    needs=frozenset({Feature.TRANSPARENT}),
    evidence=(
        "https://github.com/agentcage/agentcage/pull/217",
        "https://github.com/majorcontext/moat/issues/318",
    ),
)
def set_up_privilege_is_gone(bench: Bench) -> str:
    """Whatever installs route and resolver leaves no capability, no way to gain one and no open
    file in the agent: its own command, which looks at itself before it does anything, has none.
    That its default route leads to the sidecar shows that something did install it.
    """
    boot = Boot()
    with bench.another(boot.spec(bench)) as topology:
        said = boot.await_word(bench, topology, "status")
    if not said:
        raise bench.inconclusive("the agent's own command wrote nothing, or it cannot be read")
    first = said[0]
    gateways = {drift.address(row[2]) for row in first["routes"] if row[1] == "00000000"}
    if gateways != {topology.sidecar_address}:
        raise bench.inconclusive(f"nothing set the route to the sidecar: by way of {gateways}")
    status = {name: str(value).strip() for name, value in first["status"].items()}
    if held(status) or status.get("NoNewPrivs") != "1":
        raise bench.violation(f"at its first instruction the agent has {status}")
    if set(first["files"]) - {"0", "1", "2"}:
        raise bench.violation(f"at its first instruction these are open: {first['files']}")
    return "five clear sets, no_new_privs and three files at the first instruction"


@check(
    "TRN-06",
    "Interception covers every process and user",
    level=Level.TRANSPARENT,
    severity=Severity.HIGH,
    needs=TRANSPARENT | {Feature.EXEC_ROOT},
    evidence=(
        "https://github.com/agentcage/agentcage/pull/141",
        "https://github.com/rossoctl/cortex/pull/484",
    ),
)
def interception_covers_everybody(bench: Bench) -> str:
    """Redirection applies to all users and processes: a denied request reaches nobody when root,
    the agent, nobody, or the user of the sidecar's processes makes it, from an exec and from a
    daemon that was forked twice.
    """
    uids = sorted({0, 1000, 65534, *_sidecar_uids(bench)})
    tries = [ask(f"https://{DENIED}/%s", "denied", user=user) for user in User]
    tries += [
        attempt(
            f"denied as uid {uid}",
            Vantage.AGENT,
            {"kind": "as", "uid": uid, "operation": dict(ask(f"https://{DENIED}/%s").what)},
            User.ROOT,
        )
        for uid in uids
    ]
    allowed = both(ALLOWED)
    volley, hearing = fire_direct(bench, [*tries, *allowed])
    known = set(bench.backend.internet.addresses_of(DENIED))
    if any(record.dst in known for record in hearing.records):
        raise bench.violation(f"the witness heard somebody at {DENIED}: {volley.records}")
    nobody = [o.name for o in tries if "became" in volley.records.get(o.name, {})]
    done = [one for one in tries if one.name not in nobody]
    why = broken(volley, allowed, bench.topology) or lost(hearing)
    note = settle(bench, volley, done, lambda _: False, why)
    return f"{note}; not to be had there: {', '.join(nobody) or 'none'}"


def _sidecar_uids(bench: Bench) -> set[int]:
    record = bench.probe(Vantage.SIDECAR, {"kind": "status", "pids": ["*"]})
    return {int(str(one["Uid"]).split()[0]) for one in record.get("processes", {}).values()}


@check(
    "TRN-07",
    "The bottle's resolver is authoritative for what exists",
    level=Level.TRANSPARENT,
    severity=Severity.HIGH,
    needs=TRANSPARENT,
    evidence=("https://github.com/agentcage/agentcage/pull/252",),
)
def the_resolver_decides_what_exists(bench: Bench) -> str:
    """Direct names resolve only at the sidecar: a denied one has no address, or one at which the
    sidecar ends every connection, and nothing that is sent there leaves.
    """
    start = bench.backend.internet.mark()
    found = {name: _addresses(bench, name) for name in (ALLOWED, DENIED)}
    if not found[ALLOWED]:
        raise bench.inconclusive(f"even {ALLOWED} does not resolve")
    tries = [
        one
        for host in found[DENIED]
        for port in (80, 443, 22)
        for one in knocks(Vantage.AGENT, host, port)
    ]
    volley, _ = fire_direct(bench, tries)
    hearing = bench.backend.internet.heard(start)
    asked = [r for r in hearing.records if DENIED.split(".")[0].encode() in r.payload.lower()]
    if asked:
        raise bench.violation(f"{DENIED} was looked up outside, at {asked[0].dst}")
    if not tries:
        return f"{DENIED} does not exist"
    hosts = set(found[DENIED])
    why = lost(hearing) or direct.open_control(bench, tries)
    note = settle(bench, volley, tries, lambda one: direct.is_heard(hearing, one, hosts), why)
    return f"{DENIED} is {', '.join(sorted(hosts))}: {note}"


def _addresses(bench: Bench, name: str) -> list[str]:
    record = bench.probe(Vantage.AGENT, {"kind": "resolve", "raw": name, "name": name})
    library: Record = record.get("library", {})
    return list(library.get("addresses", ()))


@check(
    "TRN-08",
    "Losing the redirect closes the path",
    level=Level.TRANSPARENT,
    needs=TRANSPARENT | {Feature.FAULT, Feature.RESTART},
    evidence=("https://github.com/opensandbox-group/OpenSandbox/pull/1816",),
    apart=True,
)
def losing_the_redirect_closes_the_path(bench: Bench) -> str:
    """When the sidecar's processes are killed or frozen, proxy and resolver among them, direct
    traffic goes nowhere; after a restart what is allowed is served again. That its rules are
    flushed is a fault that no backend has yet.
    """
    return "; ".join(_lose(bench, fault) for fault in (Fault.KILL_SIDECAR, Fault.FREEZE_SIDECAR))


def _lose(bench: Bench, fault: Fault) -> str:
    backend, allowed = bench.backend, both(ALLOWED)
    with bench.another() as topology:
        before, _ = fire_direct(bench, allowed, topology)
        why = broken(before, allowed, topology)
        backend.fault(topology, fault)
        tries = [*_literals(bench), *both(ALLOWED, f"after the order to {fault.value}")]
        volley, hearing = fire_direct(bench, tries, topology)
        known = set(backend.internet.addresses_of(ALLOWED))
        why = why or lost(hearing) or direct.open_control(bench, tries[:2])
        note = settle(bench, volley, tries, lambda one: direct.is_heard(hearing, one, known), why)
        if fault is Fault.KILL_SIDECAR:
            _require_recovery(bench, topology)
    return f"{fault.value}: {note}"


def _literals(bench: Bench) -> list[Operation]:
    host = bench.backend.internet.fresh_address()
    return [one for port in (443, 8443) for one in knocks(Vantage.AGENT, host, port)]


def _require_recovery(bench: Bench, topology: Topology) -> None:
    bench.backend.fault(topology, Fault.RESTART_SIDECAR)
    what = {"kind": "http", "url": f"http://{ALLOWED}/", "proxy": None}
    record = run_one(bench.backend, topology, Vantage.AGENT, what, deadline=5 + NEARBY)
    if record.get("status") != 200:
        raise bench.violation(f"after a restart {ALLOWED} is not served: {record}")
