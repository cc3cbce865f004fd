"""The words of the egress sidecar, and of when it counts as ready."""

from __future__ import annotations

import os
import re
import stat
import warnings
from typing import TYPE_CHECKING, Any

from pytest_bottle import waiting
from pytest_bottle.backends.contract import DenialForm
from pytest_bottle.part_words import (
    argv,
    either,
    env,
    environment,
    image,
    port_or_0,
    status_of,
    user,
)
from pytest_bottle.spec import SidecarSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.reading import Word
    from pytest_bottle.waiting import Condition

    Reader = Callable[[Word], Any]

_MOST_TEXT = 1 << 20
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_WAITS = 'port: 8080, http: {path: /ready}, log: "listening", exec: ["true"], file: /run/ready'


# -- the sidecar ---------------------------------------------------------------------------------


def sidecar(word: Word) -> SidecarSpec:
    """Read the egress sidecar."""
    example = '{command: ["tinyproxy", "-d"], port: 8888}'
    fields = word.fields(SIDECAR, {}, example)
    either(fields, "environment", "env")
    before = len(word.report.problems)
    values = {name: SIDECAR[name](one) for name, one in fields.items()}
    if "env" in values:
        values["environment"] = values.pop("env")
    if len(word.report.problems) > before:
        return SidecarSpec()
    sidecar = SidecarSpec(**values)
    if sidecar.is_reference and fields.keys() - {"command"}:
        what = "the reference sidecar is as it is"
        word.refuse(what, "command or image, for a sidecar of your own")
    return sidecar


def _sidecar_port(word: Word) -> int:
    return word.integer("port", 1, 65535)


def _files(word: Word) -> dict[str, str]:
    pairs = word.pairs('{/etc/proxy.conf: "text", /etc/filter: {from: filter.txt}}')
    return {_absolute(path, one): _file(one) for path, one in pairs}


def _absolute(path: str, word: Word) -> str:
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/" or "\0" in path:
        word.refuse("this is no place for a file", "an absolute path", repr(path))
    return path


def _file(word: Word) -> str:
    if not word.is_mapping:
        return word.text("{from: proxy.conf}", empty=True)
    fields = word.fields(("from",), {}, "{from: proxy.conf}")
    if "from" not in fields:
        word.refuse("this says not which file", "{from: proxy.conf}")
        return ""
    return _text_of(fields["from"])


def _text_of(word: Word) -> str:
    name = word.text("proxy.conf")
    path = os.path.abspath(os.path.join(word.report.folder, name))
    found = status_of(path, stat.S_ISREG) if name else None
    if name and (found is None or found.st_size > _MOST_TEXT):
        word.refuse("there is no such file", f"a file of at most 1 MiB, here {path!r}")
    if found is None or found.st_size > _MOST_TEXT:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        word.refuse("this file cannot be read", f"UTF-8 text, here {path!r}", str(error))
        return ""


def _denial(word: Word) -> DenialForm:
    fields = word.fields(("status", "header"), {}, "{status: 403, header: x-denied}")
    form = DenialForm()
    if "status" in fields:
        form = form._replace(status=fields["status"].integer("status", 400, 599))
    if "header" in fields:
        form = form._replace(header=_header(fields["header"]))
    return form


def _header(word: Word) -> str:
    text = word.text("x-denied")
    if text and not _TOKEN.match(text):
        word.refuse("this is no name of a header", "a name, such as x-denied")
    return text.lower()


# -- when it is ready ----------------------------------------------------------------------------


def _wait(word: Word) -> Condition:
    fields = word.fields(CONDITIONS, {}, "{port: 8080}")
    read: list[Condition] = [CONDITIONS[name](one) for name, one in fields.items()]
    if len(read) != 1 and word.is_mapping:
        seen = ", ".join(fields) or "none"
        word.refuse("this is not one condition", f"one of: {_WAITS}, all: […], any: […]", seen)
    return [*read, waiting.Port()][0]


def _http(word: Word) -> waiting.Http:
    if isinstance(word.value, str):
        return waiting.Http(_http_path(word))
    fields = word.fields(("path", "status", "port"), {}, "{path: /ready, status: 200}")
    if "path" not in fields:
        if word.is_mapping:
            word.refuse("this says not what to ask for", "path: /ready")
        return waiting.Http("/")
    status = fields["status"].integer("status", 100, 599) if "status" in fields else 200
    port = fields["port"].integer("port", 0, 65535) if "port" in fields else 0
    return waiting.Http(_http_path(fields["path"]), status, port)


def _http_path(word: Word) -> str:
    text = word.text("/ready")
    # RFC 3986: what goes on a request line has no blanks and no bytes above ASCII.
    if text and not re.match(r"/[!-~]*\Z", text):
        word.refuse("this is no path", "a path, such as /ready")
    return text


def _log(word: Word) -> waiting.Log:
    text = word.text('"listening on"')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        word.refuse("this is no regular expression", f"one that Python's re reads ({error})")
    return waiting.Log(text)


def _exec(word: Word) -> waiting.Exec:
    command = argv(word)
    if word.value in ([], ()):
        word.refuse("this runs nothing", 'a command, such as ["test", "-e", "/run/ready"]')
    return waiting.Exec(command)


def _wait_file(word: Word) -> waiting.File:
    text = word.text("/run/ready")
    return waiting.File(_absolute(text, word) if text else "")


def _conditions(word: Word) -> tuple[Condition, ...]:
    if word.value in ([], ()):
        word.refuse("this waits for nothing", "at least one condition")
    return tuple(map(_wait, word.entries("[{port: 8080}, {file: /run/ready}]")))


#: What ``wait`` can say.
CONDITIONS: dict[str, Reader] = {
    "port": lambda word: waiting.Port(port_or_0(word)),
    "http": _http,
    "log": _log,
    "exec": _exec,
    "file": _wait_file,
    "all": lambda word: waiting.AllOf(_conditions(word)),
    "any": lambda word: waiting.AnyOf(_conditions(word)),
}
#: What ``sidecar`` can say.
SIDECAR: dict[str, Reader] = {
    "command": argv,
    "image": image,
    "port": _sidecar_port,
    "user": user,
    "files": _files,
    "environment": environment,
    "env": env,
    "wait": _wait,
    "denial": _denial,
    "tls_opaque": lambda word: word.truth(),
}
