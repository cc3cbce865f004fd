"""What the command line answers by itself: usage, versions, and a daemon that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator import fast, faults, grammar, identity, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.emulator.grammar import Parsed

#: Seconds for a daemon to end.
_STOP: Final = 10.0
_DOWN: Final = (
    'Error: interrupted: "XPC connection error: Connection invalid"',
    "Ensure container system service has been started with `container system start`.",
)


def answer(argv: Sequence[str], version: str, *, asked: bool = False) -> int:
    """Do what a command line says; returns the exit status.

    Args:
        argv: the words after the program's name.
        version: of the client.
        asked: the daemon was asked already, and did not answer.
    """
    try:
        switched_on = faults.parse(os.environ.get(faults.VARIABLE, ""))
        parsed = grammar.validate(version, argv)
    except faults.UnknownFaultError as error:
        _log(f"Error: {error}")
        return 64
    except grammar.UsageError as error:
        return _misused(error)
    if parsed.has("--version"):
        old = faults.OLD_VERSION in switched_on
        print(identity.sentence("container CLI", identity.OLD if old else version))  # noqa: T201
        return 0
    if parsed.has("--help") or parsed.command not in grammar.commands(version):
        return _help(parsed, version)
    return _act(parsed, list(argv), version, switched_on, asked=asked)


def _act(
    parsed: Parsed, argv: list[str], version: str, switched_on: frozenset[str], *, asked: bool
) -> int:
    if parsed.command == "system start":
        return _start(parsed, version, switched_on)
    if parsed.command == "system stop":
        return _stop()
    if faults.APISERVER_DOWN not in switched_on and not asked:
        patience = fast.PATIENCE.get(tuple(parsed.command.split()))
        status = fast.ask(argv, version, patience=patience)
        if status is not None:
            return status
    if parsed.command == "system status":
        return _status(parsed, switched_on)
    if parsed.command == "system version":
        old = faults.OLD_VERSION in switched_on
        shown = [identity.component(identity.OLD if old else version)]
        _show(parsed, shown, identity.rows(shown))
        return 0
    _log(*_DOWN)
    return 1


def _misused(error: grammar.UsageError) -> int:
    said = str(error)
    if said.startswith("Plugin") and fast.connect(fast.root()) is None:
        said = "Plugins are unavailable. Start the container system services and retry"
    _log(f"Error: {said}", *([error.usage] if error.usage else []))
    return error.status


def _help(parsed: Parsed, version: str) -> int:
    """Print how a command is used, or what a group has."""
    known = grammar.commands(version)
    if parsed.command in known:
        lines = ["OVERVIEW: emulated", "", grammar.usage(parsed.command, known[parsed.command])]
        lines += ["", "OPTIONS:", *(f"  {f['flag']}" for f in known[parsed.command]["flags"])]
    else:
        group = f"{parsed.command} ".lstrip()
        lines = ["OVERVIEW: emulated", "", f"USAGE: container {group}<subcommand>", ""]
        lines += [f"  {name}" for name in known if name.startswith(group)]
    print("\n".join(lines))  # noqa: T201
    return 0


def _status(parsed: Parsed, switched_on: frozenset[str]) -> int:
    hangs = fast.connect(fast.root())
    if hangs is not None:
        hangs.close()
    there = hangs is not None and faults.APISERVER_DOWN not in switched_on
    about = identity.no_status("not running" if there else "unregistered")
    _show(parsed, about, [["FIELD", "VALUE"], ["status", about["status"]]])
    return 1


def _show(parsed: Parsed, value: Any, rows: list[list[str]]) -> None:
    as_json = parsed.one("--format", "table") in ("json", "yaml")
    print(shapes.compact(value) if as_json else shapes.table(rows))  # noqa: T201


def _log(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201


# -- the daemon's start and end -----------------------------------------------------------


def _start(parsed: Parsed, version: str, switched_on: frozenset[str]) -> int:
    """Start the daemon, unless it runs; it lives on until ``system stop``."""
    folder = fast.root(parsed.one("--app-root"))
    if faults.APISERVER_DOWN in switched_on:
        _log('Error: failed to get a response from apiserver: "XPC connection error"')
        return 1
    if version == "1.0.0":
        print("Verifying machine API server is running...")  # noqa: T201
    running = fast.connect(folder)
    if running is not None:
        running.close()
        return 0
    try:
        launch(folder, version)
    except NotStartedError as error:
        _log(f"Error: failed to start the API server: {error}")
        return 1
    return 0


class NotStartedError(Exception):
    """The daemon did not come up; the message is its own."""


def launch(
    folder: str, version: str, *, life: int = -1, own: bool = False, environment: Any = None
) -> subprocess.Popen[bytes]:
    """Start a daemon and wait until it serves.

    Args:
        folder: of its state.
        version: which it emulates.
        life: an open file by whose end it ends; -1 for none.
        own: whether the folder goes with it.
        environment: its variables; None for ours.

    Raises:
        NotStartedError: it does not.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    ready, theirs = os.pipe()
    argv = [sys.executable, "-m", "pytest_bottle.emulator.daemon", "--root", folder]
    argv += ["--version", version, "--ready", str(theirs), "--life", str(life)]
    variables = dict(os.environ if environment is None else environment)
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    variables["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [variables.get("PYTHONPATH")])])
    with (
        open(os.path.join(folder, "apiserver.log"), "wb") as log,
        open(os.devnull, "rb") as nothing,
    ):
        daemon = subprocess.Popen(
            [*argv, *(["--own"] if own else [])],
            stdin=nothing,
            stdout=log,
            stderr=log,
            pass_fds=[theirs, *([life] if life >= 0 else [])],
            env=variables,
            cwd="/",
            start_new_session=True,
        )
    os.close(theirs)
    with os.fdopen(ready, "rb") as file:
        said = file.read()
    if said == b"ready":
        return daemon
    daemon.wait(_STOP)
    with open(os.path.join(folder, "apiserver.log"), "rb") as log:
        last = log.read().decode(errors="replace").strip()[-1000:]
    raise NotStartedError(last or "it ended without a word")


def _stop() -> int:
    """End the daemon, and wait until it is gone."""
    status = fast.ask(["system", "stop"], "", patience=_STOP)
    end = time.monotonic() + _STOP
    while (line := fast.connect(fast.root())) is not None and time.monotonic() < end:
        line.close()
        time.sleep(0.01)
    if status is None:
        _log("API server is not running")
    return 0
