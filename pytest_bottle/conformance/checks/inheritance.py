"""PRV-06: what the agent's processes were started with, and what an exec could give them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.firing import Operation, fire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

#: Variables that any program may be started with, besides those that the bottle declares.
_BASE = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "PWD", "OLDPWD", "SHLVL", "HOSTNAME"),
        *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "container"),
    }
)
#: What a plain subprocess of the suite sees of the canaries: a variable, and where a file leads.
_LOOK = (
    "import os, sys; print(os.environ.get(sys.argv[1])); "
    "print(os.readlink('/dev/fd/' + sys.argv[2]))"
)
_FOLDERS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local", "/usr/libexec", "/usr/lib")
#: Seconds for who may ask for a password, or sulk over a wrong one.
_PATIENCE = 0.3
_STATUS = "/proc/self/status"


class _Canary(NamedTuple):
    """A secret of the suite's own process: in its environment, and the name of an open folder."""

    token: str
    fd: int


@check(
    "PRV-06",
    "Exec is clean: no gain, nothing inherited",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=frozenset({Feature.EXEC_ROOT}),
    evidence=(
        "https://github.com/github/gh-aw-firewall/pull/1162",
        "CVE-2024-21626",
    ),
)
def clean_exec(bench: Bench) -> str:
    """no_new_privs is set on every agent process; setuid programs, file capabilities and sudo give
    nothing; the agent starts with standard input, output and error and with declared variables
    only, and nothing of the machine's own environment or open folders is with it.
    """
    with _canary() as canary:
        _require_seen_by_others(bench, canary)
        with bench.another() as topology:
            for user in User:
                _require_no_new_privileges(bench, topology, user)
                _require_nothing_inherited(bench, topology, user, canary)
            gains = _require_no_gain(bench, topology)
    return f"no_new_privs everywhere, three files, declared variables; {gains}"


# -- nothing inherited -----------------------------------------------------------------------------


@contextlib.contextmanager
def _canary() -> Iterator[_Canary]:
    """Put a secret into our environment, and hold an inheritable folder of that name open."""
    token = f"bottle_canary_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix=token) as folder, contextlib.ExitStack() as stack:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, fd)
        os.set_inheritable(fd, True)  # noqa: FBT003 - the call's only form
        os.environ[token.upper()] = token
        stack.callback(os.environ.pop, token.upper())
        yield _Canary(token, fd)


def _require_seen_by_others(bench: Bench, canary: _Canary) -> None:
    """The control: a process that is started without care inherits both."""
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LOOK, canary.token.upper(), str(canary.fd)],
        capture_output=True,
        text=True,
        check=False,
        close_fds=False,
        timeout=30,
    )
    lines = said.stdout.splitlines()
    if len(lines) != 2 or not all(canary.token in line for line in lines):
        raise bench.inconclusive(f"a plain subprocess does not see the canaries: {said}")


def _require_nothing_inherited(
    bench: Bench, topology: Topology, user: User, canary: _Canary
) -> None:
    record = _ask(bench, topology, user, {"kind": "inherited"})
    processes: dict[str, dict[str, Any]] = record.get("processes", {})
    own = processes.get("self", {})
    files, variables = own.get("files"), own.get("environment")
    if not isinstance(files, dict) or not isinstance(variables, list) or not files:
        raise bench.inconclusive(f"as {user.value}, /proc/self cannot be read: {record}")
    seen = [pid for pid, process in processes.items() if canary.token in str(process).lower()]
    if seen:
        raise bench.violation(f"a canary of the machine is with process {seen[0]} of the agent")
    more = {fd: files[fd] for fd in files if fd not in ("0", "1", "2") or files[fd][1] == "folder"}
    if more:
        raise bench.violation(
            f"as {user.value} the agent starts with more than its three files: {more}"
        )
    names = {variable.partition("=")[0] for variable in variables}
    undeclared = names - _BASE - topology.environment.keys()
    if undeclared:
        raise bench.violation(
            f"as {user.value} the agent starts with undeclared variables: {sorted(undeclared)}"
        )


# -- no gain ---------------------------------------------------------------------------------------


def _require_no_new_privileges(bench: Bench, topology: Topology, user: User) -> None:
    record = _ask(bench, topology, user, {"kind": "status", "pids": ["self", 1, "*"]})
    processes: dict[str, dict[str, str]] = record.get("processes", {})
    if "self" not in processes:
        raise bench.inconclusive(f"as {user.value}, /proc cannot be read: {record}")
    for pid, status in processes.items():
        if status.get("NoNewPrivs") is None:
            raise bench.inconclusive(f"process {pid} as {user.value}: {status}")
        if status["NoNewPrivs"] != "1":
            raise bench.violation(
                f"process {pid} ({status.get('Name')}) in a session of {user.value} may gain by "
                f"an exec: NoNewPrivs is {status['NoNewPrivs']}"
            )


def _require_no_gain(bench: Bench, topology: Topology) -> str:
    """Let the agent run what would gain; plain ``cat`` tells what it has without."""
    folder = f"/tmp/bottle-{uuid.uuid4().hex}"  # noqa: S108 - in the guest, and nobody else's
    asking = [["sudo", "-n", "cat", _STATUS], ["su", "root", "-c", f"cat {_STATUS}"]]
    try:
        planted = _ask(bench, topology, User.ROOT, {"kind": "plant", "folder": folder})
        copies = [path for path, did in planted.get("answers", {}).items() if did == "done"]
        plain = [["cat", _STATUS], *([path, _STATUS] for path in copies)]
        records = _at_once(
            bench,
            topology,
            {"kind": "gains", "programs": plain, "deadline": 5.0},
            {"kind": "gains", "programs": asking, "deadline": _PATIENCE},
            {"kind": "find-setuid", "folders": _FOLDERS, "deadline": 2.0},
        )
    finally:
        # A sandbox may share this folder with its machine: there it would be a way to gain.
        _ask(bench, topology, User.ROOT, {"kind": "uproot", "folder": folder})
    if "answers" not in planted:
        raise bench.inconclusive(f"no program could be planted: {planted}")
    said = [*records[0].get("said", []), *records[1].get("said", [])]
    powers = [_power(one) for one in said]
    if len(said) != len(plain) + len(asking) or not powers[0]:
        raise bench.inconclusive(f"the agent cannot read its own status: {records[:2]}")
    for program, power in zip((*plain, *asking), powers, strict=True):
        if power and power != powers[0]:
            raise bench.violation(f"{' '.join(program)} gave the agent {power}, it had {powers[0]}")
    return f"{len(copies)} planted programs, sudo and su gave nothing; {_setuid(bench, records[2])}"


def _setuid(bench: Bench, record: Record) -> str:
    if "found" not in record:
        raise bench.inconclusive(f"the guest's folders cannot be read: {record}")
    bound = "" if record["complete"] else ", not all looked at"
    return f"{len(record['found'])} of {record['files']} files would change who runs them{bound}"


def _power(said: Mapping[str, object]) -> dict[str, str]:
    """Read ids and capability sets out of what a ``cat`` of its own status said."""
    lines = [line.partition(":") for line in str(said.get("output", "")).splitlines()]
    wanted = ("Uid", "Gid", "CapPrm", "CapEff", "CapAmb")
    return {name: " ".join(value.split()) for name, _, value in lines if name in wanted}


def _ask(bench: Bench, topology: Topology, user: User, what: dict[str, object]) -> Record:
    return bench.probe(Vantage.AGENT, what, user=user, topology=topology)


def _at_once(bench: Bench, topology: Topology, *whats: dict[str, object]) -> list[Record]:
    operations = [Operation(str(n), Vantage.AGENT, what) for n, what in enumerate(whats)]
    volley = fire(bench.backend, topology, operations)
    missing = {"outcome": str(volley.failures)}
    return [volley.records.get(operation.name, missing) for operation in operations]
