"""Doing what somebody else does: another user, and a daemon that nobody waits for."""

from __future__ import annotations

import contextlib
import errno
import json
import os

from pytest_bottle.guest.probe.core import attempt, operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record


@operation("as")
def as_other(operation: Operation, deadline: float) -> Record:
    """Do an operation as another user id, in a daemon: forked twice, in a session of its own.

    The record says who did it in ``uid``; where one may not become that user, ``became`` has the
    kernel's answer and nothing was done.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            if os.fork() == 0:
                os.close(read)
                _be_other(operation, deadline, write)
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as stream:
        said = stream.read()
    if not said:
        raise ValueError("the daemon said nothing")
    record: Record = json.loads(said)
    return record


def _be_other(operation: Operation, deadline: float, write: int) -> None:
    try:
        if operation["uid"] != os.getuid():
            os.setresuid(*[operation["uid"]] * 3)
        inner = operation["operation"]
        record = attempt(inner["kind"], inner, inner.get("deadline", deadline))
        record = dict(record, uid=os.getuid())
    except OSError as error:
        record = {"outcome": "answered", "became": errno.errorcode.get(error.errno or 0, "?")}
    os.write(write, json.dumps(record).encode())
