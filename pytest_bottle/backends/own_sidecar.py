"""A sidecar of the user's own: what it is told, and how its files and its command get there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends import readiness
from pytest_bottle.backends.contract import Endpoint
from pytest_bottle.errors import BringUpError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.readiness import Part
    from pytest_bottle.spec import BottleSpec

#: The folders of a guest that can be written to.
WRITABLE: Final = ("/run", "/tmp", "/var", "/home", "/root", "/dev/shm")  # noqa: S108 - a guest's
_WRITE: Final = """
import json, os, sys
for path, text in json.load(sys.stdin.buffer).items():
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
    except OSError as error:
        sys.exit("%s: %s" % (path, error.strerror))
"""


def check(spec: BottleSpec) -> None:
    """Refuse a sidecar that could not be started, before anything exists.

    Raises:
        ConfigurationError: a file's path or a pattern makes no sense.
    """
    sidecar = spec.sidecar
    for path in sidecar.files:
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise ConfigurationError(
                "a file's path is not absolute",
                where="sidecar.files",
                expected="the absolute path of a file, such as /run/proxy.conf",
                seen=repr(path),
            )
    readiness.check(sidecar.wait, "sidecar.wait")


def variables(spec: BottleSpec, address: Endpoint, resolver: str) -> dict[str, str]:
    """The variables of its command, its own over ours."""
    routes = [str(Endpoint(route.host, port)) for route in spec.egress for port in route.ports]
    return {
        "BOTTLE_ADDRESS": address.host,
        "BOTTLE_PORT": str(address.port),
        "BOTTLE_ROUTES": " ".join(routes),
        "BOTTLE_RESOLVER": resolver,
        **spec.sidecar.environment,
    }


def start(part: Part, files: Mapping[str, str]) -> None:
    """Write the files, then start the command.

    Raises:
        BringUpError: a path cannot be written.
    """
    if files:
        _write(part, files)
    part.engine.start(part.guest, part.command, user=part.user, environment=part.environment)


def _write(part: Part, files: Mapping[str, str]) -> None:
    argv = (part.python, "-I", "-S", "-c", _WRITE)
    text = json.dumps(dict(files)).encode()
    result = part.engine.exec(part.guest, argv, stdin=text, user="root")
    if not result.ok:
        raise BringUpError(
            "a file of the sidecar's cannot be written",
            where=part.guest,
            expected=f"a path below {', '.join(WRITABLE)}: all else is read-only",
            seen=result.err[-500:],
        )
