"""What goes wrong before a bottle is made and after its owner is gone is told, and let go of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle import fixtures
from pytest_bottle.backends.engines import places
from pytest_bottle.backends.engines.cli import Here
from pytest_bottle.backends.engines.macos_container import opening, undertaker
from pytest_bottle.backends.engines.macos_container.labels import Session
from pytest_bottle.errors import BackendUnavailableError, TransportError
from pytest_bottle.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_an_image_that_is_not_taken_is_told_with_the_commands_own_words(tmp_path: Path) -> None:
    """A load that fails is one clear error, with what the command wrote."""
    program = tmp_path / "container"
    program.write_text("#!/bin/sh\necho the store is full >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(BackendUnavailableError, match="did not take the image") as caught:
        opening._load(str(program), "image.tar", {})
    assert "the store is full" in caught.value.seen
    assert "exit status 1" in caught.value.seen


def test_an_undertaker_that_fails_lets_go_of_the_way_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is closed although nothing could be removed; the error is the removal's."""
    closed: list[bool] = []
    place = Here()
    monkeypatch.setattr(place, "close", lambda: closed.append(True))
    monkeypatch.setattr(places, "restore", lambda _: place)
    monkeypatch.setattr(undertaker, "_PAUSE", 0.0)
    head = {
        "identity": str(Session.fresh()),
        "program": str(tmp_path / "no-container"),
        "variables": {},
        "place": places.save(Here()),
    }
    with pytest.raises(TransportError):
        undertaker.bury(head, [])
    assert closed == [True]


def test_another_run_comes_to_the_same_machine_without_a_far_side(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses of a far side are there once; of several Macs it is this worker's."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    hosts = ("ssh://a.test", "ssh://b.test")
    settings = Settings(backend="macos-container", internet="guest,live", hosts=hosts)
    found = fixtures._reopening(request.config, settings)
    assert not found.far_side
    assert found.arguments[-2:] == ("--bottle-host=ssh://b.test", "--bottle-internet=none")
    assert "--bottle-internet=guest,live" not in found.arguments
    other = fixtures._reopening(request.config, Settings(backend="netns", internet="guest"))
    assert other.far_side
    assert other.arguments[-1] == "--bottle-internet=guest"
