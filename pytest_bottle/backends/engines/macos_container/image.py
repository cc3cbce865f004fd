"""The image of the guests: there already, loaded from a saved file, or built."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends.engines import cli
from pytest_bottle.backends.engines.macos_container import answers
from pytest_bottle.errors import BackendUnavailableError, ConfigurationError

if TYPE_CHECKING:
    from pytest_bottle.backends.engines.cli import Cli

#: The image that is used where a specification names none; its tag changes with the Containerfile.
NAME: Final = "pytest-bottle-guest:1"
CONTAINERFILE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Containerfile")
#: Seconds; a build pulls what it starts from, and starts the builder.
_LOADING, _BUILDING = 300.0, 900.0


def exists(program: Cli, name: str) -> bool:
    """Ask whether an image is in the store; pulls nothing.

    Raises:
        TransportError: the answer cannot be understood.
    """
    said = program.run("image", "inspect", name)
    if not said.ok:
        if b"not found" in said.stderr:
            return False
        raise cli.failure(said, program.place.name, expected=f"image {name}, or its absence")
    return answers.image_count(said, program.place.name) > 0


def provide(program: Cli, saved: str) -> None:
    """Bring the default image into the store, from a saved file if there is one, else by a build.

    A Mac without the Internet works from a file: ``container image save -o FILE`` of
    :data:`NAME` on a Mac that has it.

    Raises:
        BackendUnavailableError: it cannot be had.
    """
    if saved:
        there = program.place.share(saved)
        said = program.run("image", "load", "--input", there, deadline=_LOADING)
        how = "the image could not be loaded"
    else:
        there = program.place.share(CONTAINERFILE)
        argv = ["--tag", NAME, "--file", there, "--progress", "plain", os.path.dirname(there)]
        said = program.run("build", *argv, deadline=_BUILDING)
        how = "the image of the guests could not be built"
    if said.ok and exists(program, NAME):
        return
    raise BackendUnavailableError(
        how,
        where=f"{said.line} ({program.place.name})",
        expected=f"image {NAME} in the store afterwards",
        seen=f"{said}; all of it: {cli.save(said)}",
        next_step=f"build {CONTAINERFILE} by hand as {NAME}, or name a saved image by the ini key "
        "bottle_image",
    )


def check(program: Cli, name: str, where: str) -> None:
    """Refuse an image of the user's that is not in the store: nothing is pulled unasked.

    Raises:
        ConfigurationError: it is not there.
    """
    if not exists(program, name):
        raise ConfigurationError(
            "an image is not in the store",
            where=where,
            expected="an image that `container image list` shows",
            seen=repr(name),
            next_step=f"run `container image pull {name}`",
        )
