"""The probe's search for secrets: what it finds in which disguise, and what it must not touch."""

from __future__ import annotations

import base64
import gzip
import os
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.probing import NONCE, ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.probing import Record

WORD = NONCE.encode()


def search(folder: Path, deadline: float = 60.0, word: str = NONCE) -> Record:
    """Look for the word below a folder."""
    return ask("search", word=word, roots=[str(folder)], deadline=deadline)


@pytest.mark.parametrize(
    "data",
    [
        WORD,
        b"x" * 5000 + WORD + b"\n",
        WORD[::-1],
        WORD.hex().encode(),
        base64.b64encode(WORD),
        base64.b64encode(b"a" + WORD + b"z"),
        base64.b64encode(b"ab" + WORD + b"zz"),
        gzip.compress(b"some text, " + WORD),
    ],
    ids=["plain", "far in", "reversed", "hex", "base64", "at 1", "at 2", "gzip"],
)
def test_a_word_is_found_in_its_disguises(tmp_path: Path, data: bytes) -> None:
    """In a folder below, too; and a file without it is none of the places."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "it").write_bytes(data)
    (tmp_path / "other").write_bytes(b"nothing " + gzip.compress(b"nothing"))
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8bnothing")
    record = search(tmp_path)
    assert [path for path in record["found"] if path.startswith(str(tmp_path))] == [
        str(tmp_path / "below" / "it")
    ]
    assert record["complete"] is True
    assert record["files"] >= 3


def test_a_word_is_found_in_the_variables_of_a_process() -> None:
    """Of anybody's that can be read."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], env={"SECRET": NONCE}, stdin=subprocess.PIPE
    ) as process:
        record = ask("search", word=NONCE, roots=[])
        process.communicate(b"\n")
    assert f"/proc/{process.pid}/environ" in record["found"]


def test_a_search_that_has_no_time_is_not_complete(tmp_path: Path) -> None:
    """What was not looked at is not told as clean."""
    assert search(tmp_path, deadline=0.0)["complete"] is False


def test_what_is_kept_is_found(tmp_path: Path) -> None:
    """Each form of it, and the process, which ends by itself; a folder that cannot be is left."""
    folders = [str(tmp_path / "kept"), "/proc/none"]
    word = secrets.token_hex(16)  # by which no other test's processes are found
    record = ask("keep", word=word, folders=folders, seconds=100.0)
    names = {"ca.key", "policy.json", "credentials.gz"}
    assert {os.path.basename(path) for path in record["paths"]} == names
    found = search(tmp_path, word=word)["found"]
    keepers = [path.split("/")[2] for path in found if path.endswith("/environ")]
    for pid in keepers:
        os.kill(int(pid), signal.SIGKILL)
    assert set(record["paths"]) <= set(found)
    assert len(keepers) == 1


def test_a_file_that_may_be_written_is_not_changed(tmp_path: Path) -> None:
    """The kernel's answer is all that comes of it, and nothing is created."""
    there, absent = tmp_path / "there", tmp_path / "absent"
    there.write_text("as it is")
    record = ask("overwrite", paths=[str(there), str(absent)])
    assert record["answers"] == {str(there): "done", str(absent): "ENOENT"}
    assert there.read_text() == "as it is"
    assert not absent.exists()
