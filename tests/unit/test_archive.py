"""The guest package as one piece."""

from __future__ import annotations

import ast
import marshal
import subprocess
import sys
import zlib
from importlib.util import MAGIC_NUMBER

import pytest

from pytest_bottle.backends.engines.archive import IMPORTER, modules

#: Imports the proxy, and tells what is imported from where.
PROGRAM = f"""
import sys
data = sys.stdin.buffer.read()
{IMPORTER}
import h11, pytest_bottle.guest.proxy
ours = [m for n, m in sys.modules.items() if n.startswith(("h11", "pytest_bottle"))]
print(len(ours), {{m.__spec__.loader is sys.meta_path[0] for m in ours}}, "zlib" in sys.modules)
"""


@pytest.mark.parametrize(("magic", "unpacks"), [(MAGIC_NUMBER, False), (b"another's", True)])
def test_the_proxy_runs_from_it_alone(magic: bytes, *, unpacks: bool) -> None:
    """A Python without any package but its own imports the proxy, h11 with it.

    One like ours takes the compiled modules; another unpacks the source beside each.
    """
    table = marshal.dumps((magic, marshal.loads(modules())[1]), 2)
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM]
    done = subprocess.run(argv, input=table, capture_output=True, check=True)
    count, *rest = done.stdout.decode().split()
    assert int(count) > 10
    assert rest == ["{True}", str(unpacks)]


def test_everything_in_it_is_python_3_8() -> None:
    """A guest's interpreter is not pytest's: 3.8 must be able to read the source of everything."""
    ast.parse(IMPORTER, feature_version=(3, 8))
    for name, (_, source, _) in marshal.loads(modules())[1].items():
        ast.parse(zlib.decompress(source), name, feature_version=(3, 8))


def test_it_is_the_same_each_time() -> None:
    """Packing twice gives the same bytes."""
    first = modules()
    modules.cache_clear()
    assert modules() == first
