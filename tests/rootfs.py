"""A small root file system, made of this machine's own Python, shell and libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("sh", "sleep", "cat", "ls")
#: What the standard library can do without here.
_LEFT_OUT = shutil.ignore_patterns(
    *("__pycache__", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "pydoc_data"),
    *("site-packages", "dist-packages", "config-*", "*.a"),
)


def build(folder: Path) -> None:
    """Build it: Python below /usr by a link that is absolute, and no mount point at all."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    programs = folder / "usr/bin"
    programs.mkdir(parents=True)
    (folder / "bin").symlink_to("usr/bin")
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found
        shutil.copy(os.path.realpath(found), programs / name)
    shutil.copy(os.path.realpath(sys.executable), programs / version)
    (programs / "python3").symlink_to(f"/usr/bin/{version}")
    shutil.copytree(sysconfig.get_path("stdlib"), folder / f"usr/lib/{version}", ignore=_LEFT_OUT)
    modules = folder / f"usr/lib/{version}/lib-dynload"
    if not modules.exists():
        shutil.copytree(sysconfig.get_config_var("DESTSHARED"), modules)
    for library in _libraries([*programs.iterdir(), *modules.iterdir()]):
        standard = library.startswith(("/lib", "/usr/lib"))
        # Where the loader looks by itself: a Python from elsewhere finds its own by other means.
        target = folder / (library[1:] if standard else f"usr/lib/{os.path.basename(library)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (folder / "etc").mkdir()
    (folder / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (folder / "etc/passwd").write_text("root:x:0:0:of the rootfs:/root:/bin/sh\n")
    for hidden in ("home", "tmp", "srv"):
        (folder / hidden).mkdir()
        (folder / hidden / "marker").write_text(hidden)
    subprocess.run(["chmod", "-R", "u+rwX,go+rX", folder], check=True, timeout=200)


def _libraries(files: list[Path]) -> set[str]:
    """Every shared library that the files need, the dynamic loader among them."""
    said = subprocess.run(
        ["ldd", *(path for path in files if not path.is_symlink())],
        capture_output=True,
        text=True,
        check=False,  # a script is no dynamic executable
        timeout=200,
    )
    return set(re.findall(r"(/\S+) \(0x", said.stdout))
