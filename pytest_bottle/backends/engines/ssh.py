"""Another machine as a place, by plain ``ssh`` over one shared connection.

The connection is a child of ours that ends with us: it reads from a pipe that only we hold. Calls
share it, and each would find its own way without it, as a watchdog's do after our end.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from pytest_bottle.backends import running
from pytest_bottle.backends.contract import Endpoint
from pytest_bottle.backends.engines import cli
from pytest_bottle.backends.engines.cli import Machine
from pytest_bottle.errors import BackendUnavailableError, BringUpError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.running import Said

#: The variable with the ssh command, words of a shell, such as ``ssh -F FILE``.
COMMAND: Final = "BOTTLE_SSH"
#: Seconds to connect, and for a short command.
_CONNECT, _SHORT = 20.0, 30.0
_OPTIONS: Final = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
#: A Mac's PATH has these for people who log in, not for commands.
_PATH: Final = 'PATH="$PATH:/usr/local/bin:/opt/homebrew/bin"; export PATH; exec '
_FIRST_FREE: Final = """
import socket, sys
for address in sys.argv[2:]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, int(sys.argv[1])))
        except OSError:
            continue
        print(address)
        break
"""
_ABOUT: Final = "uname -s; uname -m; sw_vers -productVersion 2>/dev/null || uname -r"
_SHARE: Final = 'd=$(mktemp -d) && cat > "$d/$1" && printf %s "$d/$1"'


class Target(NamedTuple):
    """Whom ``ssh`` is told to connect to."""

    host: str
    user: str
    port: int | None

    @property
    def words(self) -> list[str]:
        """The words of the command line that say it."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, f"{self.user}@{self.host}" if self.user else self.host]


def parse(url: str) -> Target:
    """Read ``ssh://[user@]host[:port]``.

    Raises:
        ConfigurationError: it is something else.
    """
    try:
        parts = urlsplit(url)
        target = Target(parts.hostname or "", parts.username or "", parts.port)
    except ValueError:
        parts, target = urlsplit(""), Target("", "", None)
    plain = not (parts.path.strip("/") or parts.query or parts.fragment or parts.password)
    names = (target.host, target.user)
    if parts.scheme != "ssh" or not target.host or not plain or any(n[:1] == "-" for n in names):
        raise ConfigurationError(
            "this names no machine",
            where="--bottle-host",
            expected="ssh://user@host or ssh://user@host:port; keys are ssh's own affair",
            seen=repr(url),
        )
    return target


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Ssh:
    """Another machine.

    Args:
        url: ``ssh://[user@]host[:port]``.
        shared: whether calls share a connection; a watchdog makes few.

    Raises:
        ConfigurationError: the URL names no machine.
        BackendUnavailableError: it cannot be reached.
    """

    #: A Mac's own, of the command line tools.
    python = "python3"

    def __init__(self, url: str, *, shared: bool = False) -> None:
        self.name = url
        self._target = parse(url)
        self._ssh = [*shlex.split(os.environ.get(COMMAND, "ssh")), *_OPTIONS]
        self._folder = tempfile.mkdtemp(prefix="bottle-ssh-")
        self._ssh += ["-o", f"ControlPath={self._folder}/%C"]
        self._forwards: dict[Endpoint, Endpoint] = {}
        self._shared: list[str] = []
        self._lock = threading.Lock()
        self._master: subprocess.Popen[bytes] | None = None
        if shared:
            self._connect()

    @property
    def described(self) -> dict[str, object]:
        """What another process needs to get there."""
        return {"kind": "ssh", "url": self.name}

    def _connect(self) -> None:
        argv = [*self._ssh, "-M", *self._target.words, "echo there; cat >/dev/null"]
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the master writes there till it ends
        with errors:
            self._master = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            assert self._master.stdout is not None
            heard, _, _ = select.select([self._master.stdout], [], [], _CONNECT)
            if heard and os.read(self._master.stdout.fileno(), 100).startswith(b"there"):
                return
            self._master.kill()
            self._master.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        self.close()
        raise BackendUnavailableError(
            "the machine cannot be reached",
            where=self.name,
            expected=f"`{shlex.join(argv)}` connects within {_CONNECT:g} s, without a question",
            seen=said or "nothing",
            next_step="run `ssh` there once by hand; a key, and the host's own in known_hosts, "
            "have to be in place",
        )

    def command(self, argv: Sequence[str]) -> list[str]:
        """Run it there, with the folders in its PATH that a Mac's programs are in."""
        return [*self._ssh, *self._target.words, _PATH + shlex.join(argv)]

    #: The bottles' host is the machine itself.
    at_host = command

    def machine(self) -> Machine:
        """Ask it."""
        system, processor, release = [*self._ask(["sh", "-c", _ABOUT]).split(), "", "", ""][:3]
        return Machine(system, release, processor)

    def first_free(self, addresses: Sequence[str], port: int) -> str:
        """Try there."""
        return self._ask([self.python, "-c", _FIRST_FREE, str(port), *addresses]).strip()

    def share(self, path: str) -> str:
        """Copy a file into a folder of its own there."""
        with open(path, "rb") as file:
            argv = ["sh", "-c", _SHARE, "sh", os.path.basename(path)]
            there = self._ask(argv, stdin=file.read(), deadline=300.0)
        with self._lock:
            self._shared.append(there)
        return there

    def doors(self, published: Endpoint, machine_port: int) -> list[Endpoint]:  # noqa: ARG002
        """Once is enough: this machine has a forward."""
        return [published]

    def reach(self, published: Endpoint, machine_port: int) -> Endpoint:
        """Forward a port of this machine's there, over the shared connection."""
        with self._lock:
            if published not in self._forwards:
                self._forwards[published] = self._forward(published, machine_port)
            return self._forwards[published]

    def _forward(self, published: Endpoint, machine_port: int) -> Endpoint:
        for _ in range(1 if machine_port else 5):  # somebody may take the free port meanwhile
            here = Endpoint("127.0.0.1", machine_port or _free_port())
            said = self._control("forward", here, published)
            if said.ok:
                return here
        raise BringUpError(
            "a published port cannot be forwarded",
            where=f"{published} at {self.name}",
            expected="a shared connection that forwards ports",
            seen=str(said),
        )

    def _control(self, word: str, here: Endpoint, published: Endpoint) -> Said:
        return self._run([*self._ssh, "-O", word, "-L", f"{here}:{published}", *self._target.words])

    def forget(self, published: Endpoint) -> None:
        """Take the forward back."""
        with self._lock:
            here = self._forwards.pop(published, None)
        if here is not None:
            self._control("cancel", here, published)

    def _ask(self, argv: Sequence[str], stdin: bytes = b"", deadline: float = _SHORT) -> str:
        said = self._run(self.command(argv), stdin, deadline)
        if not said.ok:
            raise cli.failure(said, self.name)
        return said.stdout.decode(errors="replace")

    @staticmethod
    def _run(argv: Sequence[str], stdin: bytes = b"", deadline: float = _SHORT) -> Said:
        return running.run(
            argv, folder=os.path.abspath(os.sep), variables={}, deadline=deadline, stdin=stdin
        )

    def close(self) -> None:
        """Remove what was copied, and end the connection; idempotent."""
        copied, self._shared = self._shared, []
        folders = [os.path.dirname(path) for path in copied]
        if folders:
            self._run(self.command(["rm", "-rf", "--", *folders]))
        if self._master is not None:
            for pipe in (self._master.stdin, self._master.stdout):
                if pipe is not None:
                    pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._master.wait(5.0)
            if self._master.returncode is None:
                self._master.kill()
                self._master.wait()
            self._master = None
        shutil.rmtree(self._folder, ignore_errors=True)
