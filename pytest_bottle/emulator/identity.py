"""What the emulator says it is: the shapes are Apple's, the word in them is ``emulated``."""

from __future__ import annotations

from typing import Any, Final

#: What stands where Apple's have ``release``: nothing printed here can be taken for a Mac's.
BUILD: Final = "emulated"
#: No commit has this number.
COMMIT: Final = "0" * 40
#: The version that the fault ``old-version`` shows.
OLD: Final = "0.12.3"
SERVER: Final = "container-apiserver"


def sentence(what: str, version: str) -> str:
    """The line that ``--version`` prints."""
    return f"{what} version {version} (build: {BUILD}, commit: {COMMIT[:7]})"


def component(version: str) -> dict[str, str]:
    """The client, in ``system version``."""
    return {"appName": "container", "buildType": BUILD, "commit": COMMIT, "version": version}


def server(version: str) -> dict[str, str]:
    """The API server, in ``system version``: its version is a sentence."""
    return {**component(sentence(SERVER, version)), "appName": SERVER}


def rows(components: list[dict[str, str]]) -> list[list[str]]:
    """The table of ``system version``."""
    keys = ("appName", "version", "buildType", "commit")
    return [
        ["COMPONENT", "VERSION", "BUILD", "COMMIT"],
        *([c[k] for k in keys] for c in components),
    ]


def status(version: str, root: str) -> dict[str, Any]:
    """What ``system status`` tells of an API server that runs."""
    return {
        "apiServerAppName": SERVER,
        "apiServerBuild": BUILD,
        "apiServerCommit": COMMIT,
        "apiServerVersion": sentence(SERVER, version),
        "appRoot": f"{root}/",
        "installRoot": "/usr/local/",
        "status": "running",
    }


def no_status(word: str) -> dict[str, str]:
    """What it tells of one that does not: ``not running`` or ``unregistered``, and no more."""
    keys = ("apiServerAppName", "apiServerBuild", "apiServerCommit", "apiServerVersion")
    return {**dict.fromkeys((*keys, "appRoot", "installRoot"), ""), "status": word}
