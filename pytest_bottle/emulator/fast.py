"""The client's way to the daemon, for a command that is over before an import is.

A bottle takes a dozen calls, and each starts an interpreter: so this file imports nothing but what
the interpreter has built in, not even ``os``, speaks :mod:`pytest_bottle._wire` by itself, and can
be imported without its package, which costs more than the whole conversation.
"""

import _socket
import posix
import sys
from _json import encode_basestring_ascii as _quoted

#: The variable that names the folder of the state, as in Apple's.
VARIABLE = "CONTAINER_APP_ROOT"
SOCKET = "apiserver.sock"
#: What the daemon may be asked at once, and will send back where it is not its matter.
_PLAIN = (
    *("run", "create", "start", "stop", "kill", "delete", "rm", "exec", "list", "ls", "inspect"),
    *("logs", "copy", "cp", "network", "image", "build"),
)
#: Seconds that the API server may take where the client does not wait for ever.
PATIENCE: dict[tuple[str, ...], float] = {
    ("system", "status"): 10.0,
    ("system", "version"): 2.0,
}
_HEAD = 4


def main(argv: list[str], version: str, package: str) -> int:
    """Do what a command line says.

    Returns:
        the exit status; where the daemon has answered, the process ends with it at once.

    Args:
        argv: the words after the program's name.
        version: of ``container``.
        package: the folder that ours is imported from, if need be.
    """
    patience = PATIENCE.get(tuple(argv[:2]))
    asked = patience is not None or (bool(argv) and argv[0] in _PLAIN)
    asked = asked and "apiserver-down" not in _variables().get("BOTTLE_EMULATOR_FAULTS", "")
    if asked:
        status = ask(argv, version, patience=patience)
        if status is not None:
            posix._exit(status & 0xFF)  # noqa: SLF001 - nothing of ours is left to be written
    sys.path.insert(0, package)
    from pytest_bottle.emulator import offline

    return offline.answer(argv, version, asked=asked)


def root(asked: str = "") -> str:
    """The folder of the state: what was asked for, the variable's, or one in the user's home."""
    found = asked or _variables().get(VARIABLE, "")
    if found.startswith("/"):
        return found
    import os

    home = "~/.local/state/pytest-bottle/apple-container-emulated"
    return os.path.abspath(found or os.path.expanduser(home))


def _variables() -> dict[str, str]:
    """The environment that the process was started with."""
    coding, errors = sys.getfilesystemencoding(), "surrogateescape"
    pairs = posix.environ.items()
    return {key.decode(coding, errors): text.decode(coding, errors) for key, text in pairs}


def connect(folder: str) -> "_socket.socket | None":
    """Connect to the daemon; None if there is none."""
    try:
        at = posix.open(folder, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return None
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        # By the open folder: a socket's address holds 107 bytes, a path may be longer.
        sock.connect(f"/proc/self/fd/{at}/{SOCKET}")
    except OSError:
        sock.close()
        return None
    finally:
        posix.close(at)
    return sock


def ask(argv: list[str], version: str, at: str = "", patience: float | None = None) -> int | None:
    """Let the daemon answer; None if there is none, it takes too long, or will not.

    Args:
        argv: the words.
        version: the client's.
        at: ``mac`` runs a command at the emulated Mac.
        patience: seconds for the answer.
    """
    line = connect(root())
    if line is None:
        return None
    line.settimeout(patience)
    try:
        _send(line, _request(argv, version, at))
        size = int.from_bytes(_receive(line, _HEAD), "big")
        status = int(_receive(line, size).rpartition(b":")[2].rstrip(b"}"))
    except TimeoutError:
        return None
    except (OSError, ValueError):
        posix.write(2, b'Error: interrupted: "XPC connection error: Connection interrupted"\n')
        return 1
    finally:
        line.close()
    return None if status < 0 else status


def _request(argv: list[str], version: str, at: str) -> bytes:
    words = ",".join(map(_quoted, argv))
    variables = ",".join(f"{_quoted(key)}:{_quoted(text)}" for key, text in _variables().items())
    texts = {"at": at, "folder": posix.getcwd(), "version": version}
    rest = ",".join(f'"{key}":{_quoted(text)}' for key, text in texts.items())
    return f'{{"argv":[{words}],"environment":{{{variables}}},{rest}}}'.encode()


def _send(line: "_socket.socket", body: bytes) -> None:
    """Send a message, with the three standard files beside its first byte."""
    data = len(body).to_bytes(_HEAD, "big") + body
    files = b"".join(fd.to_bytes(4, sys.byteorder) for fd in range(3))
    data = data[line.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)]) :]
    if data:
        line.sendall(data)


def _receive(line: "_socket.socket", size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = line.recv(size - len(data))
        if not part:
            raise ValueError("the daemon is gone")
        data += part
    return data
