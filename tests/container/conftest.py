"""An emulator that outlives the sessions on it, and the record of every command line they used."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines.macos_container import image, opening
from pytest_bottle.emulator import Emulator, archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bottle.backends.engines.macos_container.engine import ContainerEngine


@pytest.fixture(scope="module")
def emulator(netns_works: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator with the guests' image, whose daemon belongs to the test's own process."""
    saved = tmp_path_factory.mktemp("image") / "image.tar"
    saved.write_bytes(archive(image.NAME))
    with Emulator() as one:
        argv = [str(one.path), "image", "load", "--input", str(saved)]
        subprocess.run(argv, env={**os.environ, **one.environment}, check=True, capture_output=True)
        Path(one.root, "loopback-aliases").write_text("\n".join(opening.ALIASES))
        yield one


@pytest.fixture
def on_it(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The same, and whoever opens the emulated backend meanwhile gets this one."""
    monkeypatch.setenv(opening.RUNNING, str(emulator.path))
    for name, text in emulator.environment.items():
        monkeypatch.setenv(name, text)
    return emulator


@pytest.fixture
def engine(on_it: Emulator, recorded: Callable[[], list[list[str]]]) -> Iterator[ContainerEngine]:
    """A session of the engine, closed in the end."""
    before = len(recorded())
    opened = opening.emulated()
    assert len(recorded()) > before, "an engine was opened, and no call of it was recorded"
    yield opened
    opened.program.variables.pop("BOTTLE_EMULATOR_FAULTS", None)
    opened.close()
