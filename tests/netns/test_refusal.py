"""A machine that gives no namespaces: one clear error that names the switch, and nothing left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines.netns import refusal
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.errors import BackendUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

_TRY = """
import ctypes, os, sys
sys.path[:0] = {path!r}
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
{forbid}
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.errors import BackendUnavailableError
try:
    NetnsEngine()
except BackendUnavailableError as error:
    print(error)
else:
    print("it started")
try:
    os.waitpid(-1, os.WNOHANG)
    print("children are left")
except ChildProcessError:
    print("no children")
"""

#: A user namespace of our own whose limit is zero: what user.max_user_namespaces=0 does to all.
_LIMIT = """
assert libc.unshare(0x10000000) == 0
open('/proc/self/setgroups', 'w').write('deny')
open('/proc/self/uid_map', 'w').write(f'{uid} {uid} 1')
open('/proc/self/gid_map', 'w').write(f'{gid} {gid} 1')
open('/proc/sys/user/max_user_namespaces', 'w').write('0')
"""

#: A seccomp filter that answers EPERM to unshare(2), as a container's default profile does.
_SECCOMP = """
import struct
number = {'x86_64': 272, 'aarch64': 97}[os.uname().machine]
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = b''.join(struct.pack('HBBI', *i) for i in code)
buffer = ctypes.create_string_buffer(program, len(program))
fprog = struct.pack('HxxxxxxP', len(code), ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0) == 0
"""


def attempt(forbid: str) -> str:
    """Try to start the engine in a process that may not make user namespaces."""
    script = _TRY.format(path=[p for p in sys.path if p], forbid=forbid)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_limit_of_zero_is_named(netns_works: None) -> None:
    """With user.max_user_namespaces at 0 the error names that file and the sysctl that helps."""
    said = attempt(_LIMIT)

    assert "does not let the netns engine make its namespaces" in said
    assert "where:    /proc/sys/user/max_user_namespaces" in said
    assert "sysctl -w user.max_user_namespaces=" in said
    assert said.endswith("no children\n")


def test_a_container_s_seccomp_filter_is_named(netns_works: None) -> None:
    """Under a seccomp filter that refuses unshare(2) the error names it and docker's options."""
    said = attempt(_SECCOMP)

    assert "the seccomp filter that this process runs under" in said
    assert "seccomp=unconfined" in said
    assert said.endswith("no children\n")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("apparmor_restrict_unprivileged_userns", "1", "AppArmor profile"),
    ],
)
def test_other_switches_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, words: str
) -> None:
    """Debian's and Ubuntu's own switches are looked up by file, and the remedy is theirs."""
    (tmp_path / name).write_text(f"{value}\n")
    switches = [s for s in refusal.SWITCHES if name in s.path]
    moved = [s._replace(path=str(tmp_path / name)) for s in switches]
    monkeypatch.setattr(refusal, "SWITCHES", moved)

    fields = refusal.explain(OSError(errno.EPERM, "unshare: Operation not permitted"), user=1000)

    assert fields["where"] == str(tmp_path / name)
    assert words in fields["next_step"]
    assert "EPERM" in fields["seen"]


def test_root_is_not_told_about_switches_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A switch that stops only unprivileged users is not blamed for what root could not do."""
    (tmp_path / "apparmor_restrict_unprivileged_userns").write_text("1\n")
    moved = [s._replace(path=str(tmp_path / os.path.basename(s.path))) for s in refusal.SWITCHES]
    monkeypatch.setattr(refusal, "SWITCHES", moved)

    fields = refusal.explain(OSError(errno.EPERM, "mount: Operation not permitted"), user=0)

    assert "AppArmor" not in fields["next_step"]


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_not_linux(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Elsewhere than on Linux the engine says so at once, and what to do."""
    monkeypatch.setattr("platform.system", lambda: system)

    with pytest.raises(BackendUnavailableError, match="needs Linux") as caught:
        NetnsEngine()

    assert caught.value.seen == system


def test_an_old_kernel_is_named() -> None:
    """A kernel without mount_setattr (before 5.12) is told apart from a forbidden one."""
    fields = refusal.explain(OSError(errno.ENOSYS, "mount_setattr: Function not implemented"))

    assert "5.12" in fields["expected"]
    assert "ENOSYS" in fields["seen"]
