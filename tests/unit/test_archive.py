"""The guest package as one file."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from typing import TYPE_CHECKING
from zipfile import ZipFile

from pytest_bottle.backends.engines.archive import archive

if TYPE_CHECKING:
    from pathlib import Path


def test_the_proxy_runs_from_the_archive_alone(tmp_path: Path) -> None:
    """A Python without any package but its own imports the proxy, h11 with it, from the file."""
    (tmp_path / "guest.zip").write_bytes(archive())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import h11, pytest_bottle.guest.proxy as p;"
        "print(p.__file__.startswith(sys.argv[1]), h11.__file__.startswith(sys.argv[1]))"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "guest.zip")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_an_interpreter_like_ours_need_not_compile_it(tmp_path: Path) -> None:
    """It takes the compiled modules; what has no such interpreter, the source beside each."""
    (tmp_path / "guest.zip").write_bytes(archive())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import h11, pytest_bottle.guest.proxy;"
        "print({m.__file__[-4:] for n, m in sys.modules.items()"
        " if n.startswith(('h11.', 'pytest_bottle.guest.'))})"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "guest.zip")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "{'.pyc'}\n"

    with ZipFile(BytesIO(archive())) as file:
        names = set(file.namelist())
    assert {name for name in names if name.endswith(".pyc")} <= {f"{name}c" for name in names}


def test_the_archive_is_the_same_each_time() -> None:
    """Packing twice gives the same bytes, so that a copy in an image can be compared."""
    first = archive()
    archive.cache_clear()
    assert archive() == first
