"""Keeping secrets as a sidecar would, and looking for them everywhere."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import time

from pytest_bottle.guest.probe.core import answer, operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.guest.probe.core import Operation, Record

#: A file that is longer is not looked at to its end.
_LONGEST = 1 << 20
#: What every guest of an image has in common, or the kernel makes; processes are looked at apart.
_COMMON = ("/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_WAIT = "import sys, time; time.sleep(float(sys.argv[1]))"


@operation("keep")
def keep(operation: Operation, _deadline: float) -> Record:
    """Write a word into files of its owner's, and into the variables of a process that waits.

    A folder that cannot be written to is left out. The process ends by itself after ``seconds``.
    """
    import gzip
    import subprocess

    word, paths = operation["word"].encode(), []
    forms = {
        "ca.key": word,
        "policy.json": base64.b64encode(b"-" + word),
        "credentials.gz": gzip.compress(word),
    }
    for folder in operation["folders"]:
        for name, data in forms.items():
            with contextlib.suppress(OSError):
                os.makedirs(folder, mode=0o700, exist_ok=True)
                with open(f"{folder}/{name}", "wb") as file:
                    file.write(data)
                paths.append(f"{folder}/{name}")
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WAIT, str(operation["seconds"])],
        env={"SECRET": operation["word"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return {"outcome": "answered", "paths": paths}


@operation("search")
def search(operation: Operation, deadline: float) -> Record:
    """Look for a word in files and in the variables of processes, in some disguises too.

    ``found`` has the places, ``files`` how many were looked at, and ``complete`` whether all were.
    """
    end, word = time.monotonic() + deadline, operation["word"].encode()
    forms = list(_disguises(word))
    found, count, complete = [], 0, True
    for path in _places(operation.get("roots", ["/"])):
        if time.monotonic() > end:
            complete = False
            break
        with contextlib.suppress(OSError):  # what cannot be read is not found there
            data = _content(path)
            count += 1
            if any(form in data for form in forms):
                found.append(path)
    return {"outcome": "answered", "found": found, "files": count, "complete": complete}


@operation("overwrite")
def overwrite(operation: Operation, _deadline: float) -> Record:
    """Try to open files for writing, and change nothing; the kernel's answer to each."""

    def attempt(path: str) -> str:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        return "done"

    answers = {path: answer(lambda path=path: attempt(path)) for path in operation["paths"]}  # type: ignore[misc]
    return {"outcome": "answered", "answers": answers}


def _places(roots: list[str]) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for number in filter(str.isdigit, os.listdir("/proc")):
            yield f"/proc/{number}/environ"
            yield f"/proc/{number}/cmdline"
    own = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = [
                name
                for name in folders
                if os.path.join(folder, name) not in _COMMON
                and os.path.join(folder, name) not in own - {"/"}
            ]
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def _content(path: str) -> bytes:
    """Read the beginning of a file, what is packed in it as well."""
    with open(path, "rb") as file:
        data = file.read(_LONGEST)
    if data[:2] == b"\x1f\x8b":
        import zlib

        with contextlib.suppress(zlib.error):
            return data + zlib.decompressobj(31).decompress(data, _LONGEST)
    return data


def _disguises(word: bytes) -> Iterator[bytes]:
    yield word
    yield word[::-1]
    yield word.hex().encode()
    for before in range(3):  # wherever it stands in what was encoded
        encoded = base64.b64encode(b"\0" * before + word)
        yield encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4]
