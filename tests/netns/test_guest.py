"""What a guest of the netns engine is, and above all what it is not."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.errors import DeadlineError, TransportError
from tests.sidecars import wait_for

if TYPE_CHECKING:
    from pytest_bottle.bottle import Bottle
    from pytest_bottle.conformance.mutants.base import NetnsBackend

USERS = ["agent", "root"]


def python(bottle: Bottle, script: str, user: str = "agent") -> str:
    """Run a Python script in the agent and return what it prints."""
    result = bottle.agent.run(bottle.topology.python, "-I", "-S", "-c", script, user=user)
    assert result.ok, result.err
    return result.out


@pytest.mark.parametrize(("user", "uid"), [("agent", "1000"), ("root", "0")])
def test_identity(shared_bottle: Bottle, user: str, uid: str) -> None:
    """The agent's commands run as uid 1000, and as uid 0 when asked for as root."""
    assert shared_bottle.agent.run("id", "-u", user=user).out == uid


def test_ids_on_the_machine_are_unprivileged(netns: NetnsBackend, shared_bottle: Bottle) -> None:
    """On the machine a guest's process has ids that own nothing: never 0, even if root runs us."""
    pid = netns.netns.pids()[shared_bottle.topology.agent.name]

    status = Path(f"/proc/{pid}/status").read_text()

    ids = [line.split()[1:] for line in status.splitlines() if line.startswith(("Uid:", "Gid:"))]
    assert all(number != "0" for line in ids for number in line)
    if os.getuid() == 0:
        assert all(int(number) > 65535 for line in ids for number in line)


@pytest.mark.parametrize("user", USERS)
def test_no_privilege_is_left(shared_bottle: Bottle, user: str) -> None:
    """All five capability sets are empty, no_new_privs is set and a seccomp filter is in force."""
    text = python(shared_bottle, "print(open('/proc/self/status').read())", user)

    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {name: int(status[name], 16) for name in sets} == dict.fromkeys(sets, 0)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize("user", USERS)
def test_namespaces_do_not_nest(shared_bottle: Bottle, user: str) -> None:
    """A guest cannot make a user namespace, in which it would have every capability."""
    result = shared_bottle.agent.run("unshare", "--user", "true", user=user)

    assert not result.ok
    assert "No space left" in result.err


@pytest.mark.parametrize("user", USERS)
def test_vsock_is_refused(shared_bottle: Bottle, user: str) -> None:
    """AF_VSOCK, which leads to the hypervisor out of any namespace, does not even open."""
    script = (
        "import socket\n"
        "try: socket.socket(40, socket.SOCK_STREAM); print('open')\n"
        "except OSError as e: print(e.errno)"
    )

    assert python(shared_bottle, script, user) == "97"  # EAFNOSUPPORT


@pytest.mark.parametrize(("name", "number"), [("io_uring_setup", 425), ("keyctl", None)])
def test_ways_around_the_filter_are_refused(
    shared_bottle: Bottle, name: str, number: int | None
) -> None:
    """io_uring, which opens sockets behind a filter's back, and shared keyrings answer EPERM."""
    number = number or {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    script = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
        f"print(libc.syscall({number}, 0, 0, 0, 0, 0), ctypes.get_errno())"
    )

    assert python(shared_bottle, script) == "-1 1", name


def test_other_families_still_open(shared_bottle: Bottle) -> None:
    """The filter refuses AF_VSOCK and nothing else: ordinary sockets work."""
    script = (
        "import socket\n"
        "for f, t in ((2, 1), (2, 2), (10, 1), (1, 1), (16, 3)): socket.socket(f, t).close()\n"
        "print('all')"
    )

    assert python(shared_bottle, script) == "all"


def test_the_machine_s_unix_sockets_are_out_of_reach(shared_bottle: Bottle) -> None:
    """A UNIX socket of the machine, by path or in the abstract space, cannot be connected to."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as by_path:
        path = f"{folder}/canary"
        by_path.bind(path)
        by_path.listen()
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0bottle-canary-{os.getpid()}")
            abstract.listen()
            script = (
                "import socket\n"
                f"for name in ({path!r}, '\\0bottle-canary-{os.getpid()}'):\n"
                "    try: socket.socket(socket.AF_UNIX).connect(name); print('connected')\n"
                "    except OSError as e: print(type(e).__name__)"
            )

            assert python(shared_bottle, script).split() == [
                "FileNotFoundError",
                "ConnectionRefusedError",
            ]


def test_the_file_system_is_an_allowlist(shared_bottle: Bottle) -> None:
    """Secrets, homes, /run and /var of the machine are not there; the guest's own are empty."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as canary:
        script = (
            "import os\n"
            f"print([p for p in ('/etc/shadow', '/etc/ssh', {canary.name!r}) if os.path.exists(p)],"
            " os.listdir('/tmp'), os.listdir('/run'), os.listdir('/var'), os.listdir('/mnt'))"
        )

        assert python(shared_bottle, script) == "[] [] [] ['tmp'] []"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "path", ["/usr/bottle", "/etc/bottle", "/bottle", "/proc/sys/net/ipv4/ip_forward"]
)
def test_what_is_the_machine_s_is_read_only(shared_bottle: Bottle, user: str, path: str) -> None:
    """Nothing outside the guest's own folders can be written, kernel settings least of all."""
    script = (
        f"try: open({path!r}, 'w').write('1'); print('written')\n"
        "except OSError as e: print(e.errno)"
    )

    assert python(shared_bottle, script, user) in ("30", "13", "1")


def test_own_folders_are_writable(shared_bottle: Bottle) -> None:
    """The agent starts in its home and can write there, in /tmp and in /dev/shm."""
    script = "pwd; for d in . /tmp /dev/shm /run /var/tmp; do echo x > $d/probe || exit 1; done"

    result = shared_bottle.agent.run("sh", "-c", script)

    assert (result.out, result.exit_status) == ("/home/agent", 0)


def test_processes_of_others_are_invisible(shared_bottle: Bottle) -> None:
    """A guest sees its own processes only; its first one holds no memory of ours."""
    script = (
        "import os\n"
        "print(sorted(open(f'/proc/{p}/comm').read().strip() for p in os.listdir('/proc')"
        " if p.isdecimal()))"
    )

    assert python(shared_bottle, script) == "['python3', 'sleep']".replace(
        "python3", os.path.basename(shared_bottle.topology.python)
    )


def test_environment_and_files_are_clean(
    shared_bottle: Bottle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither pytest's variables nor its open files get into a guest."""
    monkeypatch.setenv("BOTTLE_TEST_SECRET", "canary")
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        listing = shared_bottle.agent.run("sh", "-c", "env; ls /proc/self/fd").out

    assert "canary" not in listing
    assert listing.split()[-4:] == ["0", "1", "2", "3"]  # 3 is ls's own


def test_proxy_variables_name_an_address_in_both_cases(shared_bottle: Bottle) -> None:
    """The agent's proxy variables, upper and lower case, hold an address, and NO_PROXY loopback."""
    lines = dict(line.split("=", 1) for line in shared_bottle.agent.run("env").out.splitlines())
    url = f"http://{shared_bottle.topology.sidecar_address}:9099"

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert (lines[name], lines[name.lower()]) == (url, url)
    assert lines["NO_PROXY"] == lines["no_proxy"] == "localhost,127.0.0.1,::1"


# -- exec ------------------------------------------------------------------------------------------


def test_exit_status_and_output(shared_bottle: Bottle) -> None:
    """A command's exit status and both outputs come back, whatever they are."""
    result = shared_bottle.agent.run("sh", "-c", "echo out; echo err >&2; exit 7")

    assert (result.exit_status, result.out, result.err) == (7, "out", "err")


def test_death_by_signal(shared_bottle: Bottle) -> None:
    """A command that a signal ended has minus the signal's number as its status."""
    assert shared_bottle.agent.run("sh", "-c", "kill -9 $$").exit_status == -9


def test_large_input_and_output(shared_bottle: Bottle) -> None:
    """Megabytes go in and come out whole, though no pipe holds them."""
    data = os.urandom(1 << 21)

    assert shared_bottle.agent.run("cat", stdin=data).stdout == data


@pytest.mark.parametrize("program", ["no-such-program", "/etc/passwd"])
def test_a_program_that_cannot_be_run(shared_bottle: Bottle, program: str) -> None:
    """A missing or unexecutable program is a transport error, never an exit status."""
    with pytest.raises(TransportError, match="could not be run") as caught:
        shared_bottle.agent.run(program)

    assert program in caught.value.where


def test_a_hanging_command_is_cut(shared_bottle: Bottle) -> None:
    """At its deadline a command is killed with its children; its output so far is kept."""
    with pytest.raises(DeadlineError) as caught:
        shared_bottle.agent.run("sh", "-c", "echo so far; sleep 1000 & sleep 1000", timeout=2.0)

    assert caught.value.stdout == b"so far\n"

    def sleeping() -> int:
        return (
            shared_bottle.agent.run("sh", "-c", "cat /proc/[0-9]*/comm").out.split().count("sleep")
        )

    wait_for(lambda: sleeping() == 1)  # the guest's first process; the killed may take a moment


def test_a_background_child_does_not_hold_the_caller(shared_bottle: Bottle) -> None:
    """A command has ended when it has ended, though a child of its keeps the output open."""
    result = shared_bottle.agent.run("sh", "-c", "sleep 1000 & echo $!", timeout=60)

    assert result.ok
    assert shared_bottle.agent.run("kill", result.out).ok


def test_a_broken_guest_is_no_block(netns: NetnsBackend, shared_bottle: Bottle) -> None:
    """A command at a bottle that is down is a transport error, not a failed command."""
    from pytest_bottle.bottle import Bottle
    from pytest_bottle.spec import BottleSpec

    gone = Bottle(netns, BottleSpec())
    gone.close()

    with pytest.raises(TransportError, match="the bottle is down"):
        gone.agent.run("true")


def test_privileged_probe_has_two_capabilities(shared_bottle: Bottle) -> None:
    """The suite's privileged probe holds NET_ADMIN and NET_RAW and nothing else."""
    text = shared_bottle.guest(Vantage.PRIVILEGED).run("cat", "/proc/self/status").out

    effective = next(line for line in text.splitlines() if line.startswith("CapEff"))
    assert int(effective.split()[1], 16) == 1 << 12 | 1 << 13


_TRACER = """
import ctypes, os, time
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
end, caught = time.monotonic() + 3, set()
me = os.getpid()
while time.monotonic() < end:
    for pid in range(me + 1, me + 60):
        if ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
            try:
                status = open(f"/proc/{pid}/status").read()
            except OSError:
                continue
            caught.add(status.split("Seccomp:")[1].split()[0])
print("caught", *sorted(caught))
"""


def test_no_process_can_be_traced_before_it_is_confined(
    netns: NetnsBackend, shared_bottle: Bottle
) -> None:
    """An agent that lies in wait for the next command never gets hold of one without its filter."""
    with ThreadPoolExecutor(1) as pool:
        tracer = pool.submit(python, shared_bottle, _TRACER)
        while not tracer.done():
            with contextlib.suppress(DeadlineError):  # it may be stopped by its tracer
                shared_bottle.agent.run("true", timeout=0.5)

    assert tracer.result() in ("caught", "caught 2")


def test_the_first_process_shares_no_file_with_others(shared_bottle: Bottle) -> None:
    """A guest's first process holds /dev/null and nothing else open."""
    listing = shared_bottle.agent.run("sh", "-c", "readlink /proc/1/fd/*").out

    assert set(listing.split()) == {"/dev/null"}


def test_a_guest_is_limited_in_files_and_processes(shared_bottle: Bottle) -> None:
    """Both are counted by user, and all guests are one user: none may take them all."""
    limits = shared_bottle.agent.run("sh", "-c", "cat /proc/self/limits").out

    rows = {line[:26].strip(): line[26:].split() for line in limits.splitlines()}
    assert int(rows["Max open files"][1]) <= 4096
    assert int(rows["Max processes"][1]) <= 4096


_LISTEN_TO_ROUTERS = "open('/proc/sys/net/ipv6/conf/eth0/accept_ra', 'w').write('2')"


def test_only_a_privileged_probe_writes_its_networks_settings(shared_bottle: Bottle) -> None:
    """Its control needs it to; the agent and its root find them read-only, also afterwards."""
    argv = [shared_bottle.topology.python, "-I", "-S", "-c", _LISTEN_TO_ROUTERS]
    setting = "/proc/sys/net/ipv6/conf/eth0/accept_ra"
    privileged = shared_bottle.guest(Vantage.PRIVILEGED)

    assert privileged.run(*argv).ok
    assert privileged.run("cat", setting).out == "2"
    for user in USERS:
        refused = shared_bottle.agent.run(*argv, user=user)
        assert "Read-only file system" in refused.err
        assert shared_bottle.agent.run("cat", setting, user=user).out == "0"
