"""``bottle-command.yaml``: what it makes possible, and all that is wrong with it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.command.loading import load
from pytest_bottle.backends.contract import Feature
from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_bottle.backends.command.orders import Orders


def read(folder: Path, text: str) -> Orders:
    """Read a file of this text."""
    path = folder / "bottle-command.yaml"
    path.write_text(text)
    return load(path)


def complaints(folder: Path, text: str) -> str:
    """Read a file that must be refused; returns its lines, without the file's name."""
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text)
    return "\n".join(line.partition("bottle-command.yaml:")[2] for line in caught.value.lines)


def test_the_least(tmp_path: Path) -> None:
    """A way to run programs in the agent is enough; no feature is there that nobody mapped."""
    orders = read(tmp_path, "exec: [env]")

    assert orders.places == {"agent": ("env",)}
    assert orders.features == frozenset()
    assert orders.folder == str(tmp_path)


def test_features_are_what_is_mapped(tmp_path: Path) -> None:
    """Each command line is a feature, and what none stands for is said."""
    orders = read(
        tmp_path,
        """
        exec: {agent: [env], root: [env], host: [env], privileged: [env]}
        address: [cat]
        inventory: [cat]
        audit: [cat]
        fault: [cat]
        residue: [cat]
        sweep: [cat]
        features: [publish]
        """,
    )

    assert orders.features == {
        *(Feature.EXEC_ROOT, Feature.HOST_EXEC, Feature.PRIVILEGED_PROBE, Feature.INVENTORY),
        *(Feature.AUDIT, Feature.FAULT, Feature.SESSION, Feature.PUBLISH),
    }


def test_a_machine_inside_the_lab_has_the_labs_features(tmp_path: Path) -> None:
    """With ``internet: lab`` there is a witness and an open guest, and no privileged one."""
    orders = read(tmp_path, "internet: lab\nexec: [env]")

    assert orders.features == {
        *(Feature.LAB, Feature.EVERY_ADDRESS, Feature.OPEN_GUEST, Feature.IPV6),
    }


def test_a_program_beside_the_file(tmp_path: Path) -> None:
    """A program that is named by a path is relative to the file, whoever reads that from where."""
    (tmp_path / "it.sh").write_text("")
    (tmp_path / "it.sh").chmod(0o755)

    assert read(tmp_path, "exec: [./it.sh]").places == {"agent": ("./it.sh",)}


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Each error has its line, its path, what was expected and seen, and what may be meant."""
    found = complaints(
        tmp_path,
        """
invetory: [cat]
version: 1.0
deadline: never
internet: labs
exec:
  agent: []
  rot: [env]
  privileged: [./missing.sh]
residue: [cat]
features: [publisch]
accepts: command
down: stop it
""",
    )

    for line, path, words in (
        (2, "invetory", "there is no such word; did you mean 'inventory'?"),
        (3, "version", 'put it in quotes, as in "1.0"'),
        (4, "deadline", "expected seconds, 0.1 to 3600, seen 'never'"),
        (5, "internet", "did you mean 'lab'?"),
        (7, "exec.agent", "a command line is empty"),
        (8, "exec.rot", "did you mean 'root'?"),
        (9, "exec.privileged", "there is no such program"),
        (6, "exec", "nothing tells where a place is: expected address: "),
        (10, "residue", "this goes with sweep"),
        (11, "features[0]", "did you mean 'publish'?"),
        (12, "accepts", "a list is needed"),
        (13, "down", "a list is needed: expected a list, such as"),
    ):
        assert [
            one for one in found.splitlines() if one.startswith(f"{line}: {path}:") and words in one
        ], (path, found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("up: [cat]", "nothing says how to run a program in the agent"),
        ("exec: {root: [env]}", "nothing says how to run a program in the agent"),
        ("[env]", "a mapping is needed"),
        ("internet: lab\nexec: {agent: [env], open: [env]}\naddress: [cat]", "the lab has this"),
        ("exec: [no-such-program-anywhere]", "a program on the PATH"),
        ("exec: [/etc/passwd]", "there is no such program"),
        ("exec: [env]\nsweep: [cat]", "this goes with residue"),
        ("exec: [env]\nexec: [env]", "this stands here twice"),
        ("", "it says nothing"),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    """What makes no sense by itself or together is refused before any command line is run."""
    path = tmp_path / "bottle-command.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words.replace("(", r"\(")):
        load(path)
