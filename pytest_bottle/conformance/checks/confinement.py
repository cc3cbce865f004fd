"""PRV: ways out of the confinement itself: new namespaces, kernel settings, another entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import again
from pytest_bottle.conformance.checks import privilege
from pytest_bottle.conformance.direct import has_arrived, lost, open_control
from pytest_bottle.conformance.encounters import attempt, settle
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.firing import Volley
from pytest_bottle.verdict import Verdict, combine

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Operation, Record
    from pytest_bottle.internet.lab import Hearing

_WITNESSED = frozenset({Feature.LAB, Feature.OPEN_GUEST})
#: By permission, or by the number of namespaces that there may be (user_namespaces(7)).
_NO_NAMESPACE = frozenset({"EPERM", "EACCES", "ENOSPC", "EUSERS"})


def _agents(bench: Bench) -> list[User]:
    return [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]


# -- namespaces ------------------------------------------------------------------------------------


@check(
    "PRV-05",
    "New namespaces do not lead out",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_WITNESSED,
    evidence=(
        "https://github.com/containers/common/issues/1988",
        "https://github.com/moby/moby/issues/43086",
    ),
)
def namespaces_do_not_lead_out(bench: Bench) -> str:
    """Making user and network namespaces, by unshare and by clone3, is refused to the agent; or
    there is no way out of the empty one that it gets: not by taking a link of the outer one along,
    not by going back, not by a socket that was made outside. That it has NET_ADMIN in there is
    told, and is no violation by itself.
    """
    return "; ".join(f"as {user.value}: {_nest(bench, user)}" for user in _agents(bench))


def _nest(bench: Bench, user: User) -> str:
    fresh = bench.backend.internet.fresh_address
    shapes = {"tcp": 443, "udp": 443}
    tries = [
        attempt(
            f"{kind}/{port} from inside",
            Vantage.AGENT,
            _to(kind, fresh(at=(kind, port)), port),
            user,
        )
        for kind, port in shapes.items()
    ]
    outer = attempt(
        "udp/443 by a socket from outside",
        Vantage.AGENT,
        _to("udp", fresh(at=("udp", 443)), 443),
        user,
    )
    start = bench.backend.internet.mark()
    what = {"kind": "nest", "operations": [o.what for o in tries], "outer": outer.what}
    record = bench.probe(Vantage.AGENT, what, user=user)
    hearing = bench.backend.internet.heard(start)
    answers = record.get("answers", {})
    got = [name for name, one in answers.items() if one == "done"]
    unclear = {name: one for name, one in answers.items() if one not in (*_NO_NAMESPACE, "done")}
    if unclear or not answers:
        raise bench.inconclusive(f"as {user.value}, neither refused nor done: {unclear or record}")
    if not got:
        return f"refused ({', '.join(sorted(set(answers.values())))})"
    return f"{', '.join(got)}, with {record['power']} inside; " + _require_shut(
        bench, record, [*tries, outer], hearing
    )


def _to(kind: str, host: str, port: int) -> dict[str, object]:
    return {"kind": kind, "host": host, "port": port}


def _require_shut(bench: Bench, record: Record, tries: list[Operation], hearing: Hearing) -> str:
    moved = [name for name, one in record["inside"].items() if one == "done"]
    if moved:
        raise bench.violation(f"from a new namespace the agent can {', '.join(moved)}")
    sent = [*record["sent"], record["outer"]]
    volley = Volley({one.name: each for one, each in zip(tries, sent, strict=True)})
    why = lost(hearing) or open_control(bench, tries)
    return settle(bench, volley, tries, lambda one: has_arrived(hearing, one), why)


# -- settings of the kernel ------------------------------------------------------------------------

#: Each with two values, of which it has at most one.
_SETTINGS = {
    "net/ipv4/ip_forward": ["0", "1"],
    "net/ipv4/conf/all/route_localnet": ["0", "1"],
    "net/ipv4/ping_group_range": ["0 0", "1 0"],
    "net/ipv4/ip_unprivileged_port_start": ["0", "1024"],
    "net/ipv6/conf/all/accept_ra": ["0", "1"],
    "net/core/bpf_jit_enable": ["0", "1"],
}
_READ_ONLY = frozenset({"EROFS", "EACCES", "EPERM"})


@check(
    "PRV-07",
    "Network sysctls are read-only",
    severity=Severity.MEDIUM,
    witness=Witness.NO,
    needs=frozenset({Feature.EXEC_ROOT, Feature.PRIVILEGED_PROBE, Feature.HOST_EXEC}),
    evidence=(
        "CVE-2020-13401",
        "CVE-2020-8558",
        "https://github.com/UKGovernmentBEIS/inspect_evals/pull/754",
    ),
)
def settings_are_read_only(bench: Bench) -> str:
    """Writes to settings below /proc/sys/net fail for the agent and its root, by whichever path,
    and neither can mount that folder or another /proc writable; the values stay what they were, as
    a further process reads them, and so do the host's own. A setting that a guest's kernel does not
    show counts for nothing.
    """
    own = _settings(bench, Vantage.HOST, User.AGENT, write=False)["values"]
    control = _settings(bench, Vantage.PRIVILEGED, User.ROOT, write=True)["answers"]
    if control.get("/proc/sys/net/ipv4/ip_forward") != "done":
        raise bench.inconclusive(f"even the privileged probe cannot write its own: {control}")
    refused = 0
    for user in User:
        before = _settings(bench, Vantage.AGENT, user, write=False)["values"]
        answers = _settings(bench, Vantage.AGENT, user, write=True)["answers"]
        after = _settings(bench, Vantage.AGENT, user, write=False)["values"]
        done = [name for name, one in answers.items() if one == "done"]
        if done or before != after:
            changed = {n: (before[n], after.get(n)) for n in before if before[n] != after.get(n)}
            raise bench.violation(f"as {user.value} the agent can write {done}; {changed}")
        unclear = {n: a for n, a in answers.items() if a not in (*_READ_ONLY, "ENOENT")}
        if unclear or not before:
            raise bench.inconclusive(f"as {user.value}, neither refused nor done: {unclear}")
        refused = sum(one in _READ_ONLY for one in answers.values())
    now = _settings(bench, Vantage.HOST, User.AGENT, write=False)["values"]
    if now != own:
        raise bench.violation(f"the host's own settings have changed: {own}, now {now}")
    return f"{refused} attempts refused, as the agent's user and as root; {len(before)} values kept"


def _settings(bench: Bench, vantage: Vantage, user: User, *, write: bool) -> Record:
    what = {"kind": "settings", "values": _SETTINGS, "write": write}
    record = bench.probe(vantage, what, user=user)
    if "answers" not in record:
        raise bench.inconclusive(f"the settings of {vantage.value} cannot be tried: {record}")
    return record


# -- root ------------------------------------------------------------------------------------------

_CONFINED = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
_NAMESPACES = ("net", "pid", "ipc", "mnt", "uts")
#: What is asked again, as root: the same questions as in checks of their own.
_AGAIN = (
    privilege.no_capabilities,
    privilege.no_route_changes,
    privilege.filters_are_refused,
    privilege.no_raw_sockets,
)


@check(
    "PRV-08",
    "Root by the back door is the same prisoner",
    needs=_WITNESSED | {Feature.EXEC_ROOT, Feature.PRIVILEGED_PROBE},
    evidence=(
        "https://github.com/agentcage/agentcage/pull/141",
        "https://github.com/rossoctl/operator/pull/406",
        "https://github.com/agentcage/agentcage/issues/196",
    ),
)
def root_is_the_same_prisoner(bench: Bench) -> str:
    """An entry as root, and as the user of the sidecar's processes where the guest has it, has the
    confinement of the agent's first process: its namespaces, capability sets, no_new_privs and
    system call filter. PRV-01 to PRV-04, NET-01 and DNS-01 come to the same for it.
    """
    own = {user: _status(bench, user) for user in User}
    if _uid(own[User.ROOT]["self"]) != 0 or _uid(own[User.AGENT]["self"]) == 0:
        raise bench.inconclusive(f"root is not who runs as root: {own}")
    for user, processes in own.items():
        _require_confined(bench, user, processes)
    _require_same_namespaces(bench)
    notes = [body(bench) for body in _AGAIN]
    notes += [_outgoing(bench, identity) for identity in ("NET-01", "DNS-01")]
    notes.append(_as_the_sidecar(bench))
    return "; ".join(notes)


def _status(bench: Bench, user: User) -> dict[str, dict[str, str]]:
    record = bench.probe(Vantage.AGENT, {"kind": "status", "pids": ["self", 1]}, user=user)
    processes: dict[str, dict[str, str]] = record.get("processes", {})
    if not {"self", "1"} <= processes.keys():
        raise bench.inconclusive(f"as {user.value}, /proc cannot be read: {record}")
    return processes


def _uid(status: dict[str, str]) -> int:
    return int(status["Uid"].split()[0])


def _require_confined(bench: Bench, user: User, processes: dict[str, dict[str, str]]) -> None:
    first, mine = (
        {n: one.get(n) for n in _CONFINED} for one in (processes["1"], processes["self"])
    )
    if None in (*first.values(), *mine.values()):
        raise bench.inconclusive(f"as {user.value}: {processes}")
    if first != mine:
        differ = {n: (first[n], mine[n]) for n in _CONFINED if first[n] != mine[n]}
        raise bench.violation(
            f"an entry as {user.value} is not confined as the first process is: {differ}"
        )


def _require_same_namespaces(bench: Bench) -> None:
    records = [bench.probe(Vantage.AGENT, {"kind": "namespaces"}, user=user) for user in User]
    found = [record.get("namespaces") for record in records]
    if None in found:
        raise bench.inconclusive(f"namespaces cannot be read: {records}")
    other = [n for n in _NAMESPACES if len({one[n] for one in found if one}) > 1]
    if other:
        raise bench.violation(f"an entry as root is in other namespaces than the agent: {other}")


def _outgoing(bench: Bench, identity: str) -> str:
    """Compare what became of a check's stimuli: root's may be no worse than the agent's own."""
    judged = [o for o in bench.judged(identity) if o.claim.shot.vantage is Vantage.AGENT]
    by_user = {user: [o for o in judged if o.claim.shot.user is user] for user in User}
    verdicts = {user: combine(o.finding for o in mine) for user, mine in by_user.items()}
    if verdicts[User.AGENT] is Verdict.VIOLATED:
        return f"{identity} does not hold for the agent either"
    if verdicts[User.ROOT] is Verdict.VIOLATED:
        told = again.told(by_user[User.ROOT])
        raise bench.violation(f"{identity} holds for the agent and not for root: {told}")
    if set(verdicts.values()) != {Verdict.PASSED}:
        raise bench.inconclusive(f"{identity}: {again.told(judged)}")
    return f"{identity} holds for root"


def _as_the_sidecar(bench: Bench) -> str:
    """Send as the users of the sidecar's processes, which a rule by user would let pass."""
    record = bench.probe(Vantage.SIDECAR, {"kind": "status", "pids": ["*"]})
    uids = {_uid(one) for one in record.get("processes", {}).values()}
    notes = []
    for uid in sorted(uids):
        host = bench.backend.internet.fresh_address()
        inner = attempt(f"tcp/443 as uid {uid}", Vantage.AGENT, _to("tcp", host, 443), User.ROOT)
        start = bench.backend.internet.mark()
        order = {"kind": "as", "uid": uid, "operation": inner.what}
        said = bench.probe(Vantage.AGENT, order, user=User.ROOT)
        hearing = bench.backend.internet.heard(start)
        if "became" in said:
            notes.append(f"uid {uid} cannot be had ({said['became']})")
            continue
        heard = has_arrived(hearing, inner)
        why = lost(hearing) or open_control(bench, [inner])
        notes.append(settle(bench, Volley({inner.name: said}), [inner], lambda _: heard, why))  # noqa: B023
    return ", ".join(notes)
