"""The far side's program as exec carries it into a guest."""

from __future__ import annotations

import ast
import io
import zipfile

from pytest_bottle.backends.engines.carried import far_side


def test_everything_in_it_is_python_3_8() -> None:
    """A guest's interpreter is not pytest's: 3.8 must be able to read the source of everything."""
    with zipfile.ZipFile(io.BytesIO(far_side())) as archive:
        sources = {name for name in archive.namelist() if not name.endswith(".pyc")}
        assert {name.removesuffix("c") for name in archive.namelist()} == sources
        for name in sources:
            ast.parse(archive.read(name), name, feature_version=(3, 8))


def test_it_is_small_and_holds_nothing_of_the_backends() -> None:
    """It travels by exec's standard input, and sees nothing of pytest's side."""
    with zipfile.ZipFile(io.BytesIO(far_side())) as archive:
        assert not [name for name in archive.namelist() if "backends" in name]
    assert len(far_side()) < 250_000
