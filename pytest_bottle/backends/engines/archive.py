"""The package ``guest/`` and h11 as one zip file: how it gets into a guest that has only Python."""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import os
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from typing import TYPE_CHECKING, Final

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Stands for the package around ``guest/``, which imports what a guest does not have.
_STAND_IN: Final = "pytest_bottle/__init__.py"
#: No tests, and not the probe: that is sent with each of its orders.
_LEFT_OUT: Final = ("__pycache__", "tests", "probe")
#: A form of compiled code that is the same for the same code, whoever else refers to its parts.
_MARSHAL: Final = 2
#: The same bytes for the same files, whenever they are packed.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


@functools.cache
def archive() -> bytes:
    """Pack ``pytest_bottle.guest`` and h11; Python imports from it when it is on ``sys.path``.

    Raises:
        ConfigurationError: h11 is not installed as files.
    """
    return pack({})


def pack(more: Mapping[str, bytes]) -> bytes:
    """Pack ``pytest_bottle.guest``, h11 and further files, by their names in the archive.

    Raises:
        ConfigurationError: h11 is not installed as files.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_entry(_STAND_IN), b"")
        for package in ("pytest_bottle.guest", "h11"):
            for name, path in sorted(_modules(package)):
                with open(path, "rb") as source:
                    data = source.read()
                file.writestr(_entry(name), data)
                file.writestr(_entry(f"{name}c"), _compiled(name, path, data))
        for name, data in sorted(more.items()):
            file.writestr(_entry(name), data)
    return packed.getvalue()


def _compiled(name: str, path: str, source: bytes) -> bytes:
    """Compile a module, for a guest with an interpreter like ours; others compile the source.

    By its hash, which is not looked at again (PEP 552): a zip file's dates are too coarse.
    """
    code = SourceFileLoader(name, path).get_code(name)  # uses the cache of compiled modules
    flags = (1).to_bytes(4, "little")
    return MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code, _MARSHAL)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _modules(package: str) -> Iterator[tuple[str, str]]:
    """Yield each source file of a package: its name in the archive, and its path here."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise ConfigurationError(
            "a package that guests need is not here as files",
            where=package,
            expected="an ordinary installation of it",
            next_step=f"install {package.partition('.')[0]} anew",
        )
    for folder, folders, files in os.walk(places[0]):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        inner = os.path.relpath(folder, places[0])
        root = os.path.normpath(os.path.join(package.replace(".", "/"), inner))
        for file in files:
            if file.endswith(".py"):
                yield f"{root}/{file}", os.path.join(folder, file)
