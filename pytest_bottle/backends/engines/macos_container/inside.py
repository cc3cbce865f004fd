"""What runs in a guest besides the commands of the suite: long-running programs, and their end.

A program of a guest's own is started by a few lines of Python that let go of it: they wait for its
word where it has one, and leave a process behind that writes down how it ended. What is ours goes
on in the interpreter that they began in, for a second one would take as long as all else. They
answer in a frame, as :mod:`pytest_bottle.backends.framed` does. For Python 3.8.
"""

from __future__ import annotations

import functools
import marshal
import os
import uuid
from importlib.util import MAGIC_NUMBER
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends.engines.archive import IMPORTER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The interpreter of every guest, found by its PATH.
PYTHON: Final = "python3"
#: What a guest's first process is: an entry point and its argument, which no other has.
IDLE = ("sleep", "2147483647")
#: The log of what the engine itself runs in a guest.
SERVICE_LOG: Final = "/run/bottle-service.log"
#: The authorities that a guest's programs trust: the image's own and the far side's.
AUTHORITIES: Final = "/run/bottle-authorities.pem"
_SYSTEMS: Final = "/etc/ssl/certs/ca-certificates.crt"
#: Runs the reference sidecar out of the table of modules; it is told its settings once it can read
#: them, for where it is to listen is known only when its guest has run for a while.
SIDECAR: Final = f"""{IMPORTER}
import gc
class Later(type(sys)):
    # Of h11's classes one has no text, for which dataclasses would have its signature: inspect and
    # what that imports take a tenth of the time. Whoever asks for more of it gets it.
    def signature(self, _):
        return ""
    def __getattr__(self, name):
        sys.modules.pop("inspect", None)
        import inspect
        return getattr(inspect, name)
later = sys.modules["inspect"] = Later("inspect")
gc.disable()  # nothing is garbage yet, and to look for it takes another tenth
from pytest_bottle.guest.proxy import main
gc.enable()
if sys.modules.get("inspect") is later:
    del sys.modules["inspect"]
main([told()], ready)
"""
#: Runs the forwarder likewise: where it listens, then where the service may be.
FORWARDER: Final = f"""{IMPORTER}
import json, socket
from pytest_bottle.guest.forward import serve
door, targets = json.loads(told())
def audit(event):
    print(json.dumps(event), flush=True)
doors = [socket.create_server(tuple(door))]
audit({{"event": "ready"}})
ready()
serve(doors, [tuple(target) for target in targets], audit)
"""
#: Takes what is to be run from its standard input: compiled, where the interpreter is like ours.
_TAKE: Final = """
import marshal, sys
from _frozen_importlib_external import MAGIC_NUMBER
magic, compiled, text = marshal.load(sys.stdin.buffer)
exec(marshal.loads(compiled) if magic == MAGIC_NUMBER else text)
"""
_LAUNCH: Final = r"""
import os, select, sys
source = sys.stdin.buffer
words = [os.fsdecode(w) for w in bytes.fromhex(source.readline().decode()).split(b"\0")]
word, log, seconds, size, code, count = words[:6]
argv, pairs = words[6:6 + int(count)], words[6 + int(count):]
data, end = source.read(int(size)), log + ".end"
order, teller = os.pipe()

def tell(kind, number, said=""):
    err = said.encode("utf-8", "replace")
    head = "%s %s %d 0 %d\n" % (word, kind, number, len(err))
    sys.stdout.buffer.write(head.encode() + err + ("\n%s\n" % word).encode())
    sys.stdout.flush()
    os._exit(number)

def ready():
    global say
    if say is not None:
        os.write(say, b"r")
        os.close(say)
    say = None

def told():
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(order, 65536)
        if not part:
            os._exit(1)
        text += part
    os.close(order)
    return bytes.fromhex(text.decode()).decode()

def child():
    os.close(heard)
    os.close(teller)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(pair.split("=", 1) for pair in pairs)
    if not code:
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            os.write(2, ("%s: %s\n" % (argv[0], error.strerror)).encode())
            os._exit(127)
    try:
        exec(code, {"__name__": "__main__", "told": told, "data": data, "ready": ready})
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(1)

if len(data) != int(size):
    tell("error", 0, "standard input broke off")
for path in (log, end):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
heard, say = os.pipe()
waiter = os.fork()
if not waiter:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    pid = os.fork()
    if not pid:
        child()
    os.close(say)
    os.close(teller)
    status = os.waitpid(pid, 0)[1]
    signalled = os.WIFSIGNALED(status)
    ended = "signal %d" % os.WTERMSIG(status) if signalled else "exit %d" % os.WEXITSTATUS(status)
    with open(end + ".new", "w") as file:
        file.write(ended)
    os.rename(end + ".new", end)
    os._exit(0)
os.close(say)
if code:
    text = source.readline()
    if not text.endswith(b"\n"):
        tell("error", 0, "standard input broke off")
    try:
        while text:
            text = text[os.write(teller, text):]
    except BrokenPipeError:  # how it ended is told below
        pass
    late = not select.select([heard], [], [], float(seconds))[0]
    if late or not os.read(heard, 1):
        if not late:
            os.waitpid(waiter, 0)
        ended = "it is not ready" if late else open(end).read()
        tell("exit", 1, "%s; it said %r" % (ended, open(log, errors="replace").read()[-500:]))
tell("exit", 0)
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
    return _python(_TAKE)


@functools.cache
def _launcher() -> bytes:
    compiled = marshal.dumps(compile(_LAUNCH, "launch", "exec"), 2)
    return marshal.dumps((MAGIC_NUMBER, compiled, _LAUNCH), 2)


def order(
    argv: Sequence[str],
    log: str,
    environment: Mapping[str, str],
    *,
    code: str = "",
    data: bytes = b"",
    seconds: float = 0.0,
) -> tuple[str, bytes]:
    """Write what :func:`launch` reads; returns the frame's word, and what goes in.

    Args:
        argv: the program and its arguments; none for ``code``.
        log: the file in the guest that both of its outputs go to.
        environment: its variables, besides those of ``exec``.
        code: Python to run instead of a program. It gets the text of :func:`settings`, which goes
            in behind the order, by ``told()``, and says by ``ready()`` when it serves.
        data: what ``code`` finds as ``data``.
        seconds: for its word, from when it was told.
    """
    word = uuid.uuid4().hex
    pairs = [f"{name}={text}" for name, text in environment.items()]
    texts = [word, log, f"{seconds}", str(len(data)), code, str(len(argv)), *argv, *pairs]
    line = b"\0".join(map(os.fsencode, texts)).hex()
    return word, _launcher() + line.encode() + b"\n" + data


def settings(text: str) -> bytes:
    """What is to go in behind an order of ``code``."""
    return text.encode().hex().encode() + b"\n"


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
