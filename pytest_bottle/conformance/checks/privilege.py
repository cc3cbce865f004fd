"""PRV: what the agent's processes may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import again
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.verdict import Verdict, combine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.ruling import Judged

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
    if not held(granted) >= {"CapEff NET_ADMIN", "CapEff NET_RAW"}:
        raise bench.inconclusive(
            f"the privileged probe's own mask does not read as such: {granted}"
        )
    for user in User:
        for pid, status in _read(bench, Vantage.AGENT, user, "self", 1, "*").items():
            if None in (status.get(name) for name in _SETS):
                raise bench.inconclusive(f"process {pid} as {user.value}: {status}")
            if held(status):
                raise bench.violation(
                    f"process {pid} in a session of {user.value} holds "
                    f"{', '.join(sorted(held(status)))}"
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


def held(status: dict[str, str]) -> set[str]:
    """Name the sets of a process and which forbidden capability each has."""
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


#: What the kernel says to whom may not; anything else comes after it has looked at who asks.
_DENIALS = frozenset({"EPERM", "EACCES"})
#: What it says to everybody when it was built without.
_MISSING = frozenset(
    {"EAFNOSUPPORT", "EPROTONOSUPPORT", "ENOPROTOOPT", "EOPNOTSUPP", "ENOSYS", "ENOENT"}
)


def _refused(
    bench: Bench, user: User, may: Mapping[str, str], answers: Mapping[str, str]
) -> list[str]:
    """Require that an agent is refused all that the privileged probe is not.

    Args:
        bench: the suite's bottle.
        user: whom the agent acted as.
        may: the kernel's answers to the privileged probe.
        answers: its answers to the agent.

    Returns:
        what was refused by permission; the rest does not exist on this kernel.
    """
    if answers.keys() != may.keys():
        raise bench.inconclusive(f"as {user.value} the agent's record is {dict(answers)}")
    absent = {n for n, a in answers.items() if a in _MISSING and may[n] in (a, *_DENIALS)}
    allowed = {n: a for n, a in answers.items() if n not in absent and a not in _DENIALS}
    unclear = {n: a for n, a in allowed.items() if a in _MISSING or a == "timeout"}
    passed = {name: answer for name, answer in allowed.items() if name not in unclear}
    if passed:
        raise bench.violation(
            f"as {user.value} the agent got past the kernel's permission check: {passed}"
        )
    if unclear:
        theirs = {name: may[name] for name in unclear}
        raise bench.inconclusive(
            f"as {user.value}, neither refused nor done: {unclear}; the privileged probe: {theirs}"
        )
    return sorted(name for name in answers if name not in absent and may[name] not in _DENIALS)


def _answers(
    bench: Bench, vantage: Vantage, user: User, what: Mapping[str, object]
) -> dict[str, str]:
    record = bench.probe(vantage, what, user=user)
    if "answers" not in record:
        raise bench.inconclusive(f"the probe failed at {vantage.value}: {record}")
    answers: dict[str, str] = record["answers"]
    return answers


@check(
    "PRV-03",
    "The agent cannot touch packet filters",
    severity=Severity.CRITICAL,
    witness=Witness.NO,
    needs=_NEEDS | {Feature.LAB, Feature.OPEN_GUEST},
    evidence=(
        "https://github.com/agentcage/agentcage/pull/217",
        "https://github.com/github/gh-aw-firewall network-security.test.ts",
    ),
)
def no_filter_changes(bench: Bench) -> str:
    """nftables, iptables, ebtables, tc and eBPF calls fail with EPERM, asked for without a tool
    that might be missing; and NET-01, repeated after them, is still blocked.
    """
    place = bench.backend, bench.topology
    before = bench.judged("NET-01") if bench.surveyed else again.net_01(*place)
    refused = filters_are_refused(bench)
    return f"{refused}; {_still_blocked(bench, before, again.net_01(*place))}"


def filters_are_refused(bench: Bench) -> str:
    """Require that the agent's calls for changes of packet filters fail."""
    what = {"kind": "filters"}
    may = _answers(bench, Vantage.PRIVILEGED, User.ROOT, what)
    proven = {
        user: _refused(bench, user, may, _answers(bench, Vantage.AGENT, user, what))
        for user in User
    }
    if not all(proven.values()):
        raise bench.inconclusive(f"the privileged probe could do nothing either: {may}")
    rest = ", ".join(f"{n}: {may[n]}" for n in sorted(may) if n not in proven[User.AGENT])
    return (
        f"{', '.join(proven[User.AGENT])} refused, as the agent's user and as root"
        f"{f'; the privileged probe could not either: {rest}' if rest else ''}"
    )


def _still_blocked(bench: Bench, before: list[Judged], after: list[Judged]) -> str:
    verdicts = [
        combine((one.finding for one in judged), two_way=True) for judged in (before, after)
    ]
    told = again.told(after)
    if verdicts == [Verdict.PASSED, Verdict.VIOLATED]:
        raise bench.violation(f"NET-01 held before the attempts, and does no longer: {told}")
    if verdicts[0] is Verdict.VIOLATED:
        return "NET-01 did not hold before either"
    if verdicts != [Verdict.PASSED, Verdict.PASSED]:
        raise bench.inconclusive(f"NET-01 {verdicts[0].value} before, then: {told}")
    return "NET-01 still blocked"


_DEVICES = ("/dev/net/tun", "/dev/vhost-net", "/dev/vsock", "/dev/kvm")
#: What else means a refusal: the device is not in the guest, a filter hides the family.
_LACKING = {"AF_XDP": "EAFNOSUPPORT"} | dict.fromkeys(_DEVICES, "ENOENT")


@check(
    "PRV-04",
    "No raw or packet sockets",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=_NEEDS,
    evidence=("https://github.com/agentcage/agentcage/pull/290",),
)
def no_raw_sockets(bench: Bench) -> str:
    """SOCK_RAW, AF_PACKET and AF_XDP sockets are refused to the agent, and it can open none of
    /dev/net/tun, /dev/vhost-net, /dev/vsock and /dev/kvm.
    """
    what = {"kind": "raw", "devices": _DEVICES}
    may = _answers(bench, Vantage.PRIVILEGED, User.ROOT, what)
    control = {name: may.get(name) for name in ("SOCK_RAW IPv4", "AF_PACKET")}
    if set(control.values()) != {"done"}:
        raise bench.inconclusive(f"even the privileged probe was refused: {control}")
    for user in User:
        answers = _answers(bench, Vantage.AGENT, user, what)
        # What only the agent lacks is as good as refused.
        plain = {n: "EACCES" if a == _LACKING.get(n) else a for n, a in answers.items()}
        _refused(bench, user, may, plain)
    return f"{len(may) - len(_DEVICES)} kinds of socket refused, {len(_DEVICES)} devices closed"
