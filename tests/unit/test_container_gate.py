"""Whether ``container`` can be used: one clear error for each way that it cannot."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines.cli import Cli, Here, Machine
from pytest_bottle.backends.engines.macos_container import gate
from pytest_bottle.errors import BackendUnavailableError, TransportError

if TYPE_CHECKING:
    from pathlib import Path

#: What ``system status`` says in good health, at 1.0.0.
RUNNING = {"apiServerAppName": "container-apiserver", "status": "running"}


def versions(client: str, server: str = "", build: str = "release") -> list[dict[str, str]]:
    """Give what ``system version`` says, with and without a service that answers."""
    found = [{"appName": "container", "buildType": build, "version": client}]
    if server:
        sentence = f"container-apiserver version {server} (build: {build}, commit: ee848e3)"
        named = {"appName": "container-apiserver", "buildType": build, "version": sentence}
        found.append(named)
    return found


def command(folder: Path, version: object, status: object, exit_status: int = 0) -> Cli:
    """Write a program that says two things, as no emulator of a version to come could."""
    path = folder / "container"
    texts = [shlex.quote(json.dumps(text)) for text in (version, status)]
    path.write_text(
        f"#!/bin/sh\ncase $2 in version) echo {texts[0]};; *) echo {texts[1]}; exit {exit_status}\n"
        "esac\n"
    )
    path.chmod(0o755)
    return Cli(str(path), Here())


@pytest.mark.parametrize(
    ("machine", "what", "seen"),
    [
        (Machine("Linux", "6.18", "aarch64"), "needs a Mac", "Linux"),
        (Machine("Darwin", "26.1", "x86_64"), "needs Apple silicon", "x86_64"),
        (Machine("Darwin", "15.6.1", "arm64"), "needs macOS 26", "macOS 15.6.1"),
        (Machine("Darwin", "", "arm64"), "needs macOS 26", "macOS "),
    ],
)
def test_a_machine_that_cannot_is_told_why_and_what_to_do(
    machine: Machine, what: str, seen: str
) -> None:
    """Another system, an Intel processor and a macOS before 26 are one error each."""
    with pytest.raises(BackendUnavailableError, match=what) as caught:
        gate.check_machine(machine, "the Mac")
    assert caught.value.seen == seen
    assert caught.value.next_step


@pytest.mark.parametrize("release", ["26", "26.0", "26.5.1", "27.0"])
def test_a_mac_that_can_is_let_through(release: str) -> None:
    """MacOS 26 on Apple silicon, and what comes after it, is no error."""
    gate.check_machine(Machine("Darwin", release, "arm64"), "the Mac")


def test_no_such_command_is_told_with_what_to_install() -> None:
    """A command that is not there is an error of its own, never a skip."""
    with pytest.raises(BackendUnavailableError, match="no container command") as caught:
        gate.check_service(Cli("/nowhere/container", Here()))
    assert "install" in caught.value.next_step


@pytest.mark.parametrize("version", ["0.12.3", "0.9.0"])
def test_a_version_before_1_0_0_is_too_old(tmp_path: Path, version: str) -> None:
    """An older command is refused: its guests have all capabilities and one network."""
    with pytest.raises(BackendUnavailableError, match="too old") as caught:
        gate.check_service(command(tmp_path, versions(version, version), RUNNING))
    assert caught.value.seen == f"container {version}"


@pytest.mark.parametrize("status", ["not running", "unregistered"])
def test_a_service_that_does_not_run_is_told_how_to_start(tmp_path: Path, status: str) -> None:
    """The word of the status is shown, and the command that starts it named."""
    stopped = {"apiServerAppName": "", "status": status}
    with pytest.raises(BackendUnavailableError, match="is not running") as caught:
        gate.check_service(command(tmp_path, versions("1.2.2"), stopped, exit_status=1))
    assert caught.value.seen == status
    assert "container system start" in caught.value.next_step


def test_a_command_and_a_service_of_two_versions_are_refused(tmp_path: Path) -> None:
    """Together they may hang: an upgrade needs the service stopped and started."""
    with pytest.raises(BackendUnavailableError, match="different versions"):
        gate.check_service(command(tmp_path, versions("1.2.2", "1.0.0"), RUNNING))


@pytest.mark.parametrize(
    ("build", "emulated", "what"),
    [("emulated", False, "is an emulator"), ("release", True, "Apple's own")],
)
def test_an_emulator_is_no_mac_and_a_mac_no_emulator(
    tmp_path: Path, build: str, what: str, *, emulated: bool
) -> None:
    """Each backend refuses the other's build, so no report is of the wrong thing."""
    program = command(tmp_path, versions("1.2.2", "1.2.2", build), RUNNING)
    with pytest.raises(BackendUnavailableError, match=what) as caught:
        gate.check_service(program, emulated=emulated)
    assert f"build {build}" in caught.value.seen
    assert gate.check_service(program, emulated=not emulated).version == "1.2.2"


def test_a_service_of_another_build_than_its_command_is_refused(tmp_path: Path) -> None:
    """Apple's command at an emulated service is no Mac either."""
    mixed = [*versions("1.2.2"), versions("1.2.2", "1.2.2", "emulated")[1]]
    with pytest.raises(BackendUnavailableError, match="is an emulator"):
        gate.check_service(command(tmp_path, mixed, RUNNING))


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.2"])
def test_a_version_that_was_read_passes_without_a_word(tmp_path: Path, version: str) -> None:
    """All versions from 1.0.0 to 1.2.2 are taken, and no warning is given."""
    assert gate.check_service(command(tmp_path, versions(version, version), RUNNING)) == (
        version,
        f"container {version}",
    )


def test_a_newer_version_works_with_a_warning_that_names_what_is_unverified(
    tmp_path: Path,
) -> None:
    """1.4.1 re-shaped its status, of which one word is read; what else is relied on is named."""
    later = {"status": "running", "client": {}, "server": {}}
    program = command(tmp_path, versions("1.4.1", "1.4.1"), later)
    with pytest.warns(gate.NewerVersionWarning, match="network inspect") as caught:
        assert gate.check_service(program).version == "1.4.1"
    assert "1.2.2" in str(caught[0].message)


def test_a_version_in_an_unknown_shape_is_an_error(tmp_path: Path) -> None:
    """What cannot be read is quoted, and nobody guesses."""
    with pytest.raises(TransportError, match="cannot be understood"):
        gate.check_service(command(tmp_path, {"version": "1.2.2"}, RUNNING))
