"""What runs in a guest besides the commands of the suite: long-running programs, and their end.

A program of a guest's own is started by a few lines of Python that let go of it: they wait for its
word where it has one, and leave a process behind that writes down how it ended. For Python 3.8.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The interpreter of every guest, found by its PATH.
PYTHON: Final = "python3"
#: What a guest's first process is: an entry point and its argument, which no other has.
IDLE = ("sleep", "2147483647")
#: The zip with ``guest/``, and the log of what the engine itself runs in a guest.
ARCHIVE, SERVICE_LOG = "/run/bottle-guest.zip", "/run/bottle-service.log"
#: The authorities that a guest's programs trust: the image's own and the far side's.
AUTHORITIES: Final = "/run/bottle-authorities.pem"
_SYSTEMS: Final = "/etc/ssl/certs/ca-certificates.crt"
#: Runs the reference sidecar out of the archive; the arguments are its own.
SIDECAR: Final = (
    f"import sys; sys.path.insert(0, {ARCHIVE!r}); from pytest_bottle.guest.proxy import main; "
    "sys.exit(main(sys.argv[1:]))"
)
#: Runs the forwarder likewise: where it listens, then where the service may be.
FORWARDER: Final = f"""
import json, socket, sys
sys.path.insert(0, {ARCHIVE!r})
from pytest_bottle.guest.forward import serve
door, targets = json.loads(sys.argv[1])
def audit(event):
    print(json.dumps(event), flush=True)
doors = [socket.create_server(tuple(door))]
audit({{"event": "ready"}})
serve(doors, [tuple(target) for target in targets], audit)
"""
READY: Final = '"event": "ready"'
_LAUNCH: Final = r"""
import base64, json, os, sys, time
order = json.load(sys.stdin)
log, end = order["log"], order["log"] + ".end"
for path, text in order["files"].items():
    with open(path, "wb") as file:
        file.write(base64.b64decode(text))
for path in (log, end):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
if not os.fork():
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    pid = os.fork()
    if not pid:
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            os.environ.update(order["environment"])
            os.execvp(order["argv"][0], order["argv"])
        except OSError as error:
            os.write(2, ("%s: %s\n" % (order["argv"][0], error.strerror)).encode())
        os._exit(127)
    status = os.waitpid(pid, 0)[1]
    signalled = os.WIFSIGNALED(status)
    word = "signal %d" % os.WTERMSIG(status) if signalled else "exit %d" % os.WEXITSTATUS(status)
    with open(end + ".new", "w") as file:
        file.write(word)
    os.rename(end + ".new", end)
    os._exit(0)
late = time.monotonic() + order["seconds"]
while order["ready"]:
    with open(log, errors="replace") as file:
        said = file.read()
    if order["ready"] in said:
        break
    ended = os.path.exists(end)
    if ended or time.monotonic() > late:
        sys.exit("%s; it said %r" % (open(end).read() if ended else "it is not ready", said[-500:]))
    time.sleep(0.005)
"""
_WAIT: Final = r"""
import os, sys, time
path, late = sys.argv[1] + ".end", time.monotonic() + float(sys.argv[2])
while not os.path.exists(path) and time.monotonic() < late:
    time.sleep(0.01)
if os.path.exists(path):
    print(open(path).read())
"""
_READ: Final = r"""
import os, sys
if os.path.exists(sys.argv[1]):
    sys.stdout.buffer.write(open(sys.argv[1], "rb").read())
"""
_TRUST: Final = r"""
import os, sys
path, own, authority = sys.argv[1], sys.argv[2], sys.stdin.read()
held = open(own).read() if os.path.exists(own) else ""
with open(path + ".new", "w") as file:
    file.write(authority + held)
os.chmod(path + ".new", 0o644)
os.rename(path + ".new", path)
"""
_HARM: Final = r"""
import os, sys
ours, spared, reached = os.getpid(), {1}, 0
while ours > 1:  # whoever started us has to tell how we ended
    spared.add(ours)
    ours = int(open("/proc/%d/stat" % ours).read().rpartition(")")[2].split()[1])
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in spared:
        try:
            if open("/proc/%s/cmdline" % name, "rb").read().split(b"\0")[-2:-1] == [b"IDLE"]:
                continue  # with its first process a guest ends
            os.kill(int(name), int(sys.argv[1]))
            reached += 1
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            pass
        except PermissionError:  # another user's, who is asked too
            pass
print(reached)
"""


def _python(program: str, *arguments: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", program, *arguments]


def launch() -> list[str]:
    """What starts a program; :func:`order` says which."""
    return _python(_LAUNCH)


def order(
    argv: Sequence[str],
    log: str,
    *,
    environment: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    ready: str = "",
    seconds: float = 0.0,
) -> bytes:
    """What :func:`launch` reads: with ``ready``, it waits until the program has written that."""
    packed = {path: base64.b64encode(data).decode() for path, data in (files or {}).items()}
    return json.dumps(
        {
            "argv": list(argv),
            "log": log,
            "environment": dict(environment or {}),
            "files": packed,
            "ready": ready,
            "seconds": seconds,
        }
    ).encode()


def wait(log: str, seconds: float) -> list[str]:
    """What prints how a program ended, if it has within so many seconds."""
    return _python(_WAIT, log, str(seconds))


def read(path: str) -> list[str]:
    """What prints a file, if there is one."""
    return _python(_READ, path)


def trust() -> list[str]:
    """What lets a guest trust the certificate at its standard input, besides the image's."""
    return _python(_TRUST, AUTHORITIES, _SYSTEMS)


def harm(signal: int) -> list[str]:
    """What signals a user's processes but the first and its own, and prints how many."""
    return _python(_HARM.replace("IDLE", IDLE[-1]), str(signal))
