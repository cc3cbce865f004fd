"""TRN: a sidecar that takes the agent's direct traffic, so that programs need no proxy variables.

These are written against the contract: what a backend promises by ``Feature.TRANSPARENT`` is that
the agent's default route, and its resolver if it has one, are the sidecar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance.conditions import ALLOWED, DENIED
from pytest_bottle.conformance.direct import (
    SCHEMES,
    TRANSPARENT,
    ask,
    both,
    broken,
    fire_direct,
    host_of,
    is_heard,
    lost,
    open_control,
)
from pytest_bottle.conformance.encounters import settle
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.stimulus import Icmp, Tcp, Udp

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan


@check(
    "TRN-01",
    "Direct HTTP and HTTPS land on the proxy",
    level=Level.TRANSPARENT,
    needs=TRANSPARENT | {Feature.AUDIT},
    evidence=("bot-bottle spike: mitmproxy in transparent mode logged the agent's requests",),
)
def direct_requests_land_on_the_proxy(bench: Bench) -> str:
    """With no proxy variables, TCP 80 and 443 to any name are handled by the sidecar under the same
    policy as with them: what is allowed is answered by way of it, what is denied reaches nobody,
    and both are in its record.
    """
    allowed, denied = both(ALLOWED), both(DENIED)
    volley, hearing = fire_direct(bench, [*allowed, *denied])
    why = broken(volley, allowed, bench.topology)
    if why:
        raise bench.violation(why)
    known = bench.backend.internet.addresses_of(DENIED)
    note = settle(bench, volley, denied, lambda one: is_heard(hearing, one, known), lost(hearing))
    record = [(r.get("host"), r.get("decision")) for r in bench.backend.audit(bench.topology)]
    for host, decision in ((ALLOWED, "allow"), (DENIED, "deny")):
        if record.count((host, decision)) < len(SCHEMES):
            raise bench.violation(f"the audit record has not both requests for {host}: {record}")
    return note


@check(
    "TRN-02",
    "TLS fails closed until the bottle's CA is trusted, and works after",
    level=Level.TRANSPARENT,
    severity=Severity.HIGH,
    needs=TRANSPARENT | {Feature.HOST_EXEC},
    evidence=("bot-bottle spike: pypi failed until the CA was trusted",),
)
def interception_fails_closed(bench: Bench) -> str:
    """Interception is never silently skipped: a client that does not trust the bottle's authority
    fails verification and nothing of its request leaves; one that does is served; and the host's
    own trust store is what it was. The client stacks are the probe's, and curl where it is there.
    """
    before = _trust_of_the_host(bench)
    bench.backend.trust()
    doubting = ask(f"https://{ALLOWED}/%s", "without the authority", untrusting=True)
    trusting = ask(f"https://{ALLOWED}/%s", "with the authority")
    volley, hearing = fire_direct(bench, [doubting])
    more, _ = fire_direct(bench, [trusting])
    why = broken(more, [trusting], bench.topology)
    if why or lost(hearing):
        raise bench.inconclusive(why or lost(hearing))
    if volley.outcome(doubting.name) != "tls-untrusted" or is_heard(hearing, doubting):
        raise bench.violation(f"{doubting.name}: {volley.records.get(doubting.name)}")
    if _trust_of_the_host(bench) != before:
        raise bench.violation("the host's own trust store has changed")
    return f"verification fails without, 200 with; {_curl(bench)}"


def _trust_of_the_host(bench: Bench) -> bytes:
    argv = ["sh", "-c", "cat /etc/ssl/certs/*.crt /etc/ssl/cert.pem 2>/dev/null | cksum"]
    return bench.backend.exec(bench.topology, Vantage.HOST, argv).stdout


def _curl(bench: Bench) -> str:
    """Let curl do the same, if it is there: with the authority, and without any."""
    script = (
        "command -v curl >/dev/null || exit 127; unset http_proxy https_proxy all_proxy;"
        f"unset HTTP_PROXY HTTPS_PROXY ALL_PROXY; curl -sS -o /dev/null https://{ALLOWED}/ || "
        f"exit 1; curl -sS -o /dev/null --cacert /dev/null https://{ALLOWED}/; test $? -ne 0"
    )
    result = bench.backend.exec(bench.topology, Vantage.AGENT, ["sh", "-c", script])
    if result.exit_status == 127:
        return "no curl there"
    if not result.ok:
        raise bench.violation(f"curl: exit status {result.exit_status}, {result.err[-300:]!r}")
    return "curl likewise"


def _not_redirected(plan: Plan) -> None:
    for port in (22, 25, 853, 3128, 8080, 8443):
        plan.block("TRN-03", Vantage.AGENT, Tcp(plan.target(), port))
    for port in (123, 443, 4789):
        plan.block("TRN-03", Vantage.AGENT, Udp(plan.target(), port))
    plan.block("TRN-03", Vantage.AGENT, Icmp(plan.target()))


@check(
    "TRN-03",
    "Everything that is not redirected is dropped, not forwarded",
    level=Level.TRANSPARENT,
    needs=TRANSPARENT,
    evidence=(
        "https://github.com/agentcage/agentcage/pull/91",
        "https://github.com/agentcage/agentcage/pull/290",
    ),
    stimuli=_not_redirected,
)
def the_rest_is_dropped(bench: Bench) -> str:
    """Other TCP ports, UDP and ICMP that the agent sends to the sidecar as its gateway go nowhere,
    while a direct request for an allowed name is served.
    """
    allowed = both(ALLOWED)
    why = broken(fire_direct(bench, allowed)[0], allowed, bench.topology)
    if why:
        raise bench.inconclusive(why)
    return bench.require_blocked()


@check(
    "TRN-04",
    "The original destination is judged, not only the claimed name",
    level=Level.TRANSPARENT,
    needs=TRANSPARENT,
    evidence=(
        "https://github.com/superradcompany/microsandbox/pull/694",
        "httpjail issue 57",
    ),
)
def the_destination_is_judged(bench: Bench) -> str:
    """Connecting to an address with the server name or Host of an allowed name does not reach that
    address unless the name resolves to it: either the proxy dials its own answer, or it refuses.
    """
    tries = []
    for scheme in SCHEMES:
        host = bench.backend.internet.fresh_address()
        name = f"{scheme} to {host} that claims {ALLOWED}"
        claim = {"Host": ALLOWED}
        url = f"{scheme}://{host}/%s"
        tries.append(ask(url, name, sni=ALLOWED, headers=claim, insecure=True))
    allowed = both(ALLOWED, "allowed")
    volley, hearing = fire_direct(bench, [*tries, *allowed])
    why = broken(volley, allowed, bench.topology) or lost(hearing) or open_control(bench, tries)
    arrived = {r.dst for r in hearing.records}
    leaks = [one.name for one in tries if host_of(one) in arrived]
    if leaks:
        raise bench.violation(f"the address itself was reached: {', '.join(leaks)}")
    if why:
        raise bench.inconclusive(why)
    return ", ".join(f"{one.name}: {volley.outcome(one.name)}" for one in tries)
