"""What runs in a guest on behalf of the suite, and tells how a program ended.

An exit status cannot tell a program that failed from a transport that did: ``ssh`` and ``docker
exec`` end with a number of their own. So the program is started by a few lines of Python in the
guest, which answer with the program's outputs and its end in a frame. The frame begins and ends
with a word that was made up for this one command and came by standard input. No frame: nobody
knows what became of the program, whatever the transport's exit status is.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import ExecResult
from pytest_bottle.errors import DeadlineError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: For Python 3.8, with nothing that takes long to import.
PROGRAM = r"""
import os, select, signal, sys, time
began, source = time.monotonic(), sys.stdin.buffer
words = [os.fsdecode(w) for w in bytes.fromhex(source.readline().decode()).split(b"\0")]
word, seconds, size, count = words[0], float(words[1]), int(words[2]), int(words[3])
argv, pairs = words[4:4 + count], words[4 + count:]
given, output = source.read(size), {}

def tell(kind, number, out=b"", err=b""):
    head = "%s %s %d %d %d\n" % (word, kind, number, len(out), len(err))
    sys.stdout.buffer.write(head.encode() + out + err + ("\n%s\n" % word).encode())
    sys.stdout.flush()
    os._exit(number if kind == "exit" else 126)

def child(pipes, status):
    try:
        os.setsid()
        for number, end in enumerate((pipes[0][0], pipes[1][1], pipes[2][1])):
            os.dup2(end, number)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python has them ignored
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(pair.split("=", 1) for pair in pairs)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(status, ("%s: %s" % (argv[0], error.strerror)).encode())
    finally:
        os._exit(127)

if len(given) != size:
    tell("error", 0, b"standard input broke off")
wake, waker = os.pipe()
os.set_blocking(waker, False)
signal.set_wakeup_fd(waker)
signal.signal(signal.SIGCHLD, lambda *_: None)
pipes, (status, theirs) = [os.pipe() for _ in range(3)], os.pipe()
pid = os.fork()
if not pid:
    child(pipes, theirs)
for end in (pipes[0][0], pipes[1][1], pipes[2][1], theirs):
    os.close(end)
feed, out, err = pipes[0][1], pipes[1][0], pipes[2][0]
os.set_blocking(feed, False)
poll, ended, end = select.poll(), None, began + seconds
output = {out: b"", err: b"", status: b""}
for fd in (wake, *output):
    poll.register(fd, select.POLLIN)
poll.register(feed, select.POLLOUT)
waiting, left = {feed, *output}, memoryview(given)
while waiting - {feed} or ended is None:
    if ended is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            ended, end = code, time.monotonic() + 0.2  # for what is still in the pipes
    rest = end - time.monotonic()
    events = poll.poll(max(0, rest) * 1000) if rest > 0 else []
    if not events and rest <= 0:
        break
    for fd, _ in events:
        if fd == wake:
            os.read(wake, 4096)
            continue
        if fd == feed:
            try:
                left = left[os.write(feed, left[:65536]):] if left else left
            except BlockingIOError:
                continue
            except BrokenPipeError:
                left = left[:0]
            over = not left
        else:
            part = os.read(fd, 65536)
            output[fd] += part
            over = not part
        if over:
            poll.unregister(fd)
            os.close(fd)
            waiting.discard(fd)
if ended is None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        os.kill(pid, signal.SIGKILL)
    tell("cut", 0, output[out], output[err])
if output[status]:
    tell("error", 0, output[status])
if os.WIFSIGNALED(ended):
    tell("signal", os.WTERMSIG(ended), output[out], output[err])
tell("exit", os.WEXITSTATUS(ended), output[out], output[err])
"""


class Frame(NamedTuple):
    """What became of a program.

    Attributes:
        kind: ``exit`` or ``signal``, with its number; ``cut`` at its deadline; ``error``, when it
            could not be started, with the reason as its output.
    """

    kind: str
    number: int
    stdout: bytes
    stderr: bytes

    def result(self, where: str, duration: float) -> ExecResult:
        """Give what a program came to, which took so many seconds.

        Raises:
            DeadlineError: it was cut; the error has its output so far.
            TransportError: it could not be run.
        """
        if self.kind == "cut":
            raise DeadlineError(
                "a command was cut at its deadline",
                where=where,
                seen="" if self.stdout or self.stderr else "no output so far",
                stdout=self.stdout,
                stderr=self.stderr,
            )
        if self.kind == "error":
            raise TransportError(
                "a command could not be run",
                where=where,
                expected="a program that exists in the guest and can be executed",
                seen=self.stdout.decode(errors="replace"),
            )
        number = self.number if self.kind == "exit" else -self.number
        return ExecResult(number, self.stdout, self.stderr, duration)


def command_line(python: str) -> list[str]:
    """What is run in the guest."""
    return [python, "-I", "-S", "-c", PROGRAM]


def order(
    argv: Sequence[str], environment: Mapping[str, str], stdin: bytes, timeout: float
) -> tuple[str, bytes]:
    """Write the order to run a program; returns the frame's word, and what goes in."""
    word = uuid.uuid4().hex
    pairs = [f"{name}={text}" for name, text in environment.items()]
    texts = [word, f"{timeout}", str(len(stdin)), str(len(argv)), *argv, *pairs]
    line = b"\0".join(map(os.fsencode, texts)).hex()
    return word, line.encode() + b"\n" + stdin


def frame(word: str, output: bytes) -> Frame | None:
    """Read a frame; None if there is not one, whole, with nothing before and behind it."""
    head, newline, rest = output.partition(b"\n")
    mark, *fields = head.split(b" ")
    if not newline or mark != word.encode() or len(fields) != 4:
        return None
    kind, *numbers = fields
    if kind not in (b"exit", b"signal", b"cut", b"error") or not all(n.isdigit() for n in numbers):
        return None
    number, out, err = map(int, numbers)
    if rest[out + err :] != b"\n" + mark + b"\n":
        return None
    return Frame(kind.decode(), number, rest[:out], rest[out : out + err])
