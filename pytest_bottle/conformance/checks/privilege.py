"""PRV: what the agent's processes may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.registry import Severity, Witness, check

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench

_NEEDS = frozenset({Feature.EXEC_ROOT, Feature.PRIVILEGED_PROBE})
#: capabilities(7): the ones that reach the network, the kernel or other processes.
_FORBIDDEN = {
    "DAC_READ_SEARCH": 2,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_MODULE": 16,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "PERFMON": 38,
    "BPF": 39,
}
_SETS = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")


@check(
    "PRV-01",
    "No network or system capabilities",
    witness=Witness.NO,
    needs=_NEEDS,
    evidence=(
        "bot-bottle spike S36, S39",
        "https://github.com/agentcage/agentcage/issues/196",
    ),
)
def no_capabilities(bench: Bench) -> str:
    """Effective, permitted, inheritable, bounding and ambient sets of every agent process lack
    NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_MODULE, SYS_PTRACE, BPF, PERFMON, DAC_READ_SEARCH; in a
    session of the agent's user as in one of root's.
    """
    granted = _read(bench, Vantage.PRIVILEGED, User.ROOT, "self")["self"]
    if not _held(granted) >= {"CapEff NET_ADMIN", "CapEff NET_RAW"}:
        raise bench.inconclusive(
            f"the privileged probe's own mask does not read as such: {granted}"
        )
    for user in User:
        for pid, status in _read(bench, Vantage.AGENT, user, "self", 1, "*").items():
            if None in (status.get(name) for name in _SETS):
                raise bench.inconclusive(f"process {pid} as {user.value}: {status}")
            if _held(status):
                raise bench.violation(
                    f"process {pid} in a session of {user.value} holds "
                    f"{', '.join(sorted(_held(status)))}"
                )
    return "all five sets clear, as the agent's user and as root"


def _read(
    bench: Bench, vantage: Vantage, user: User, *pids: str | int
) -> dict[str, dict[str, str]]:
    record = bench.probe(vantage, {"kind": "status", "pids": [*pids]}, user=user)
    if "processes" not in record:
        raise bench.inconclusive(f"/proc of {vantage.value} cannot be read: {record}")
    processes: dict[str, dict[str, str]] = record["processes"]
    return processes


def _held(status: dict[str, str]) -> set[str]:
    return {
        f"{name} {capability}"
        for name in _SETS
        for capability, bit in _FORBIDDEN.items()
        if int(status[name], 16) >> bit & 1
    }


@check(
    "PRV-02",
    "The agent cannot change its routes",
    severity=Severity.CRITICAL,
    witness=Witness.NO,
    needs=_NEEDS,
    evidence=(
        "bot-bottle spike S29",
        "https://github.com/agentcage/agentcage/issues/314",
    ),
)
def no_route_changes(bench: Bench) -> str:
    """Route, rule, address, link and neighbour changes fail with EPERM, asked for by rtnetlink and
    not by a tool that might be missing.
    """
    may = _ask(bench, Vantage.PRIVILEGED, User.ROOT)
    # A second run of the suite finds its own changes there already: the kernel did not say no.
    refused = {name: answer for name, answer in may.items() if answer not in ("done", "EEXIST")}
    if refused:
        raise bench.inconclusive(f"even the privileged probe was refused: {refused}")
    for user in User:
        answers = _ask(bench, Vantage.AGENT, user)
        unknown = {name: a for name, a in answers.items() if a not in ("EPERM", "done", "EEXIST")}
        done = [name for name, answer in answers.items() if answer in ("done", "EEXIST")]
        if done:
            raise bench.violation(f"as {user.value} the agent can {', '.join(done)}")
        if unknown:
            raise bench.inconclusive(f"as {user.value}, neither done nor EPERM: {unknown}")
    return f"{len(may)} kinds of change refused with EPERM, as the agent's user and as root"


def _ask(bench: Bench, vantage: Vantage, user: User) -> dict[str, str]:
    what = {"kind": "netlink", "gateway": bench.topology.sidecar_address, "device": "eth0"}
    record = bench.probe(vantage, what, user=user)
    if "answers" not in record:
        raise bench.inconclusive(f"rtnetlink does not work at {vantage.value}: {record}")
    answers: dict[str, str] = record["answers"]
    return answers
