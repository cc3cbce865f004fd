"""Bottles on another machine, by a real ``sshd`` on 127.0.0.1 that has the emulator."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import pytest
import requests

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines import ssh
from pytest_bottle.backends.engines.cli import Cli
from pytest_bottle.backends.engines.macos_container.engine import ContainerEngine
from pytest_bottle.backends.engines.ssh import Ssh, Target, parse
from pytest_bottle.errors import BackendUnavailableError, ConfigurationError
from pytest_bottle.spec import BottleSpec
from tests.containers import names
from tests.ports import free_port
from tests.probing import nobody_listens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.emulator import Emulator

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_FOLDER = Path("/run/sshd")
_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv CONTAINER_APP_ROOT={root} PATH={path}
"""
_CLIENT = """
Host 127.0.0.1
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking yes
"""


class Server(NamedTuple):
    """A server that runs: its URL, and the ssh command that finds its keys."""

    url: str
    command: str


@pytest.fixture(scope="module")
def server(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the test's own: its configuration, keys and port."""
    if _SSHD is None or not shutil.which("ssh"):
        pytest.skip("NOT RUN: there is no sshd here (Debian: openssh-server)")
    shell = pwd.getpwuid(os.getuid()).pw_shell
    if Path(shell).name in ("nologin", "false"):
        pytest.skip(f"NOT RUN: nobody can log in to this account, its shell is {shell}")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    port = free_port()
    path = f"{emulator.path.parent}:{os.environ['PATH']}"
    text = _CONFIG.format(port=port, folder=folder, root=emulator.root, path=path)
    (folder / "sshd_config").write_text(text)
    (folder / "config").write_text(_CLIENT.format(folder=folder))
    key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}")
    argv = [_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (
        _separation(),
        (folder / "log").open("wb") as log,
        subprocess.Popen(argv, stderr=log) as process,
    ):
        _wait_for(port, process, folder / "log")
        try:
            yield Server(f"ssh://127.0.0.1:{port}", f"ssh -F {folder}/config")
        finally:
            process.terminate()


@contextlib.contextmanager
def _separation() -> Iterator[None]:
    """Have the empty folder that root's sshd goes into, which a boot would make.

    Workers of one run share it: a lock says who still needs it, and its text that a test made it.
    """
    if os.geteuid() != 0:
        yield
        return
    with open(Path(tempfile.gettempdir(), "pytest-bottle-sshd.lock"), "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with contextlib.suppress(FileExistsError):
            _FOLDER.mkdir()
            lock.write("made")
            lock.flush()
        try:
            yield
        finally:
            _give_up(lock)


def _give_up(lock: IO[str]) -> None:
    """Remove the folder if a test made it and no other one has it in use."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock.fileno()).st_size:
            os.truncate(lock.fileno(), 0)
            _FOLDER.rmdir()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 30).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    process.kill()
    pytest.fail(f"sshd does not serve: exit status {process.wait()}: {log.read_text()[-300:]}")


@pytest.fixture
def place(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ssh]:
    """A shared connection there."""
    monkeypatch.setenv(ssh.COMMAND, server.command)
    one = Ssh(server.url, shared=True)
    yield one
    one.close()


def test_a_bottle_on_another_machine_is_like_one_here(
    emulator: Emulator, place: Ssh, tmp_path: Path
) -> None:
    """Up, commands with their input, the host's place, a published page by a forward, down."""
    engine = ContainerEngine(Cli("container", place), name="macos-container", emulated=True)
    backend = EngineBackend(engine)
    try:
        topology = backend.up(BottleSpec())
        argv = ["sh", "-c", 'cat; printf "$1"; exit 255', "sh", "a 'b' $c\n"]
        result = backend.exec(topology, Vantage.AGENT, argv, stdin=b"\x00\xff")
        assert (result.exit_status, result.stdout) == (255, b"\x00\xffa 'b' $c\n")
        at_host = ["sh", "-c", "echo $SSH_CONNECTION"]
        assert backend.exec(topology, Vantage.HOST, at_host).out.startswith("127.0.0.1 ")
        assert topology.machine_published is not None
        assert topology.machine_published != topology.published
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"http://{topology.machine_published}/healthz", timeout=60)
        assert answer.json() == {"status": "ok"}
        backend.down(topology)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(topology.machine_published, 30)
    finally:
        backend.close()
    assert names(emulator) == set()


def test_calls_share_one_connection_and_files_get_there(place: Ssh, tmp_path: Path) -> None:
    """Commands come by the same connection, and a copied file is gone in the end."""
    program, asked = Cli("container", place), ("sh", "-c", "echo $SSH_CONNECTION")
    ports = {program.at_host(*asked).stdout for _ in range(3)}
    assert len(ports) == 1
    path = tmp_path / "a file"
    path.write_bytes(b"\x00content")
    there = place.share(str(path))
    assert Path(there).read_bytes() == b"\x00content"
    assert place.machine().system == "Linux"
    place.close()
    assert not Path(there).exists()


def test_a_machine_that_cannot_be_reached_is_one_clear_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection is told with ssh's own words, and no question is asked."""
    monkeypatch.setenv(ssh.COMMAND, server.command)
    with (
        nobody_listens() as port,
        pytest.raises(BackendUnavailableError, match="cannot be reached") as caught,
    ):
        Ssh(f"ssh://127.0.0.1:{port}", shared=True)
    assert "refused" in caught.value.seen


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ssh://me@mac.test", Target("mac.test", "me", None)),
        ("ssh://mac.test:2222", Target("mac.test", "", 2222)),
        ("ssh://me@mac.test/", Target("mac.test", "me", None)),
    ],
)
def test_a_machine_is_named_by_a_url(url: str, target: Target) -> None:
    """User and port may be left out."""
    assert parse(url) == target


@pytest.mark.parametrize(
    "url",
    [
        *("", "mac.test", "http://mac.test", "ssh://", "ssh://mac.test/path", "ssh://m:99999"),
        *("ssh://me:secret@mac.test", "ssh://-oProxyCommand=x", "ssh://-l@mac.test"),
    ],
)
def test_what_names_no_machine_is_refused(url: str) -> None:
    """Other schemes, paths, passwords, and names that ssh would take for options."""
    with pytest.raises(ConfigurationError, match="names no machine"):
        parse(url)


def test_workers_are_spread_over_hosts(server: Server, tmp_path: Path) -> None:
    """With two hosts each of two workers asks its own; what it says here is that it is no Mac."""
    (tmp_path / "test_it.py").write_text("def test_it(bottled_agent): pass\n")
    port = server.url.rpartition(":")[2]
    user = pwd.getpwuid(os.getuid()).pw_name
    urls = [f"ssh://127.0.0.1:{port}", f"ssh://{user}@127.0.0.1:{port}"]
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist=each"]
    argv += ["--bottle-backend=macos-container", *(f"--bottle-host={url}" for url in urls)]
    variables = {name: text for name, text in os.environ.items() if name[:7] != "BOTTLE_"}
    done = subprocess.run(
        argv,
        cwd=tmp_path,
        env={**variables, ssh.COMMAND: server.command},
        capture_output=True,
        text=True,
        timeout=200,
    )
    told = re.findall(r"\[(gw\d)\].*\nmacos-container needs a Mac\n +where: +(\S+)\n", done.stdout)
    assert dict(told) == {"gw0": urls[0], "gw1": urls[1]}, done.stdout
