"""The package ``guest/`` and h11 as one piece: how they get into a guest that has only Python."""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import os
import zipfile
import zlib
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from typing import TYPE_CHECKING, Final

from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKAGES: Final = ("pytest_bottle.guest", "h11")
#: Stands for the package around ``guest/``, which imports what a guest does not have.
_STAND_IN: Final = "pytest_bottle/__init__.py"
#: No tests, and not the probe: that is sent with each of its orders.
_LEFT_OUT: Final = ("__pycache__", "tests", "probe")
#: A form of compiled code that is the same for the same code, whoever else refers to its parts.
_MARSHAL: Final = 2
#: The same bytes for the same files, whenever they are packed.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


#: Imports modules of ours out of ``data``, what :func:`modules` gave, before any others.
IMPORTER: Final = r"""
import marshal, sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
class Table:
    def __init__(self, data):
        magic, self.modules = marshal.loads(data)
        self.compiled = magic == MAGIC_NUMBER
    def find_spec(self, name, path=None, target=None):
        if name in self.modules:
            return ModuleSpec(name, self, is_package=self.modules[name][0])
        return None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        _, source, code = self.modules[module.__name__]
        if self.compiled:
            exec(marshal.loads(code), module.__dict__)
            return
        import zlib
        text = zlib.decompress(source)
        exec(compile(text, module.__name__, "exec", dont_inherit=True), module.__dict__)
sys.meta_path.insert(0, Table(data))
"""


@functools.cache
def modules() -> bytes:
    """Put ``pytest_bottle.guest`` and h11 into one table, which :data:`IMPORTER` imports from.

    It is quicker than a file: nothing is looked up, and the source is unpacked only where the
    interpreter is not like ours.

    Raises:
        ConfigurationError: h11 is not installed as files.
    """
    nothing = marshal.dumps(compile("", _STAND_IN, "exec"), _MARSHAL)
    table = {"pytest_bottle": (True, zlib.compress(b""), nothing)}
    for package in _PACKAGES:
        for name, path in sorted(_modules(package)):
            with open(path, "rb") as file:
                source = zlib.compress(file.read())
            stem = name.removesuffix(".py").removesuffix("/__init__")
            is_package = name.endswith("/__init__.py")
            table[stem.replace("/", ".")] = is_package, source, _code(name, path)
    return marshal.dumps((MAGIC_NUMBER, table), _MARSHAL)


def pack(more: Mapping[str, bytes]) -> bytes:
    """Pack ``pytest_bottle.guest``, h11 and further files, by their names in the archive.

    Raises:
        ConfigurationError: h11 is not installed as files.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_entry(_STAND_IN), b"")
        for package in _PACKAGES:
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
    flags = (1).to_bytes(4, "little")
    return MAGIC_NUMBER + flags + importlib.util.source_hash(source) + _code(name, path)


def _code(name: str, path: str) -> bytes:
    code = SourceFileLoader(name, path).get_code(name)  # uses the cache of compiled modules
    return marshal.dumps(code, _MARSHAL)


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
