"""DNS: names that engines have for the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import encounters
from pytest_bottle.conformance.encounters import attempt
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.firing import fire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Operation

_NEEDS = frozenset({Feature.LAB, Feature.HOST_EXEC, Feature.OPEN_GUEST})
#: What some programs call the host as well: Apple's container, and nss-myhostname(8).
_MORE = ("host.container.internal", "_gateway", "_outbound")
#: Seconds that the canary waits for its last word, at the most: a silent resolver takes its time.
_LISTENING = 60.0
_HOSTNAME = "import socket; print(socket.gethostname())"


@check(
    "DNS-09",
    "Host alias names do not lead to the host",
    severity=Severity.HIGH,
    witness=Witness.AT_HOST,
    needs=_NEEDS,
    evidence=(
        "https://github.com/docker/sbx-releases/issues/546",
        "https://github.com/stacklok/toolhive/issues/5640",
        "https://github.com/SkillfulAgents/SuperAgent/pull/539",
    ),
)
def aliases_lead_nowhere(bench: Bench) -> str:
    """Every name that engines give their host, such as host.docker.internal or _gateway, and the
    host's own name either do not resolve for the agent and its root or reach nothing there, neither
    directly nor as the target of a GET or CONNECT by the proxy.
    """
    port, topology = encounters.some_port(), bench.topology
    names = [*encounters.HOST_ALIASES, *_MORE, _host_name(bench)]
    tries = [one for name in names for one in _attempts_on(bench, name, port)]
    why = bench.unmet()
    everywhere = ["0.0.0.0", *(["::"] if Feature.IPV6 in bench.features else [])]
    callers = [(Vantage.OPEN, topology.egress.gateway)]
    canary = encounters.Post(
        *(bench.backend, topology, Vantage.HOST, port),
        callers=callers,
        addresses=everywhere,
        more={"deadline": _LISTENING},
    )
    with canary.open(patient=not why):
        volley = fire(bench.backend, topology, tries, encounters.NEARBY)

    def heard(one: Operation) -> bool:
        direct = one.what["proxy"] is None
        sender = topology.agent_address if direct else topology.sidecar_outer_address
        return canary.book.names(one, sender)

    note = encounters.settle(bench, volley, tries, heard, why or canary.deaf)
    return f"{', '.join(names)}: {note}"


def _host_name(bench: Bench) -> str:
    argv = [bench.topology.python, "-I", "-S", "-c", _HOSTNAME]
    answer = bench.backend.exec(bench.topology, Vantage.HOST, argv)
    if not answer.ok or not answer.out:
        raise bench.inconclusive(f"the host does not tell its name: {answer.err[-200:]}")
    return answer.out


def _attempts_on(bench: Bench, name: str, port: int) -> Iterable[Operation]:
    """Try one name: directly, as whoever the agent is, and by its proxy in both forms."""
    get = {"kind": "http", "url": f"http://{name}:{port}/%s", "proxy": None}
    # The server's name in TLS is the nonce: a listener that speaks none can read it all the same.
    tunnel = {"kind": "http", "url": f"https://{name}:{port}/", "sni": "%s", "insecure": True}
    root = [User.ROOT] if Feature.EXEC_ROOT in bench.features else []
    for user in (User.AGENT, *root):
        yield attempt(f"GET {name}:{port}", Vantage.AGENT, get, user)
    for label, what in (("GET", get), ("CONNECT", tunnel)):
        by_proxy = {**what, "proxy": "environment"}
        yield attempt(f"{label} {name}:{port} by the proxy", Vantage.AGENT, by_proxy)
