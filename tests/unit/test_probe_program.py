"""The probe as a program: what of it is sent, and on what it starts."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.firing import _BOOT, _homes, probe_program
from pytest_bottle.guest.probe import core
from tests.probing import NONCE, modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


PROBE = "pytest_bottle.guest.probe"
MODULES = modules()


#: As a guest runs it, but for what it is to do, which comes as an argument.
BOOT = _BOOT.replace(f'sys.modules["{PROBE}.core"].main()', "exec(sys.argv[1])")


def boot(kinds: list[str], code: str) -> str:
    """Unpack the program for some kinds as a guest does, and run code instead of the operations."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BOOT, code],
        input=probe_program(kinds),
        capture_output=True,
        check=True,
        timeout=200,
    )
    return done.stdout.decode()


def sent(kinds: list[str]) -> list[str]:
    """The names of the modules in a program, in their order."""
    words = probe_program(kinds).split(b"\n", 1)[0].decode().split()[1:]
    names = [word.partition(":")[0] for word in words]
    assert names[:3] == ["pytest_bottle", "pytest_bottle.guest", PROBE]
    return [name.removeprefix(f"{PROBE}.") for name in names[3:]]


def own_imports(module: ModuleType) -> Iterator[ast.ImportFrom]:
    """What a module imports of the probe, anywhere in it."""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_bytes())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PROBE):
            yield node


def test_each_kind_is_bound_once_where_the_sender_looks_for_it() -> None:
    """What is found without importing anything is what the modules bind."""
    kinds = {kind: act.__module__ for kind, act in core.OPERATIONS.items()}
    assert _homes() == kinds
    source = "".join(Path(str(module.__file__)).read_text() for module in MODULES)
    assert source.count("@operation(") == len(kinds)


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ([], ["core"]),
        (["telepathy"], ["core"]),
        (["http"], ["core", "web"]),
        (["tcp"], ["core", "netlink", "direct"]),
        (["udp", "http", "tcp"], ["core", "netlink", "direct", "web"]),
        (["selftest"], ["core", "netlink", "direct", "listening", "web", "selftest"]),
    ],
)
def test_a_guest_gets_what_it_is_asked_for(kinds: list[str], names: list[str]) -> None:
    """Core, the modules of the operations, and what they import, each before who imports it."""
    assert sent(kinds) == names


@pytest.mark.parametrize("home", sorted(set(_homes().values())))
def test_every_module_starts_alone_and_light(home: str) -> None:
    """It comes with all that it imports; every start of the probe pays for its imports."""
    heavy = {"typing", "dataclasses", "ssl", "http", "urllib", "email", "asyncio", "logging"}
    heavy |= {"subprocess", "shutil", "ctypes", "traceback"}
    code = f"""if True:
        from {PROBE} import core
        print(*sorted({heavy!r} & {{name.partition(".")[0] for name in sys.modules}}))
        print(*(kind for kind in core.OPERATIONS if core.OPERATIONS[kind].__module__ == {home!r}))
    """
    kinds = [kind for kind, its_home in _homes().items() if its_home == home]
    imported, bound = boot(kinds[:1], code).splitlines()
    assert imported == ""
    assert sorted(bound.split()) == sorted(kinds)


def test_a_plain_stimulus_imports_nothing_heavy() -> None:
    """A connection that fails needs nothing that takes its time to import."""
    heavy = {"typing", "dataclasses", "ssl", "http", "urllib", "email", "asyncio", "logging"}
    code = f"""if True:
        from {PROBE}.core import attempt
        attempt("tcp", {{"host": "255.255.255.255", "port": 9, "nonce": ""}}, 1)
        attempt("http", {{"url": "http://255.255.255.255/"}}, 1)
        print(*sorted({heavy!r} & {{name.partition(".")[0] for name in sys.modules}}))
    """
    assert boot(["tcp", "http"], code) == "\n"


def test_a_guest_without_the_package_has_nothing_else_of_it() -> None:
    """The stand-ins are packages that hold what was sent: not even an installed package shows."""
    code = f"""if True:
        from {PROBE} import core
        try:
            from {PROBE} import web
        except ImportError as error:
            print(error.name)
        print(*sorted(name for name in sys.modules if name.startswith("pytest_bottle")))
    """
    error, names = boot([], code).splitlines()
    assert error == PROBE
    assert names.split() == ["pytest_bottle", "pytest_bottle.guest", PROBE, f"{PROBE}.core"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_it_is_python_3_8_and_the_standard_library(module: ModuleType) -> None:
    """Any guest with a Python of the last years can run it."""
    source = Path(str(module.__file__)).read_bytes()
    tree = ast.parse(source, feature_version=(3, 8))
    names = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    others = {str(name) for name in names} - {module.__name__ for module in MODULES}
    assert {name.partition(".")[0] for name in others} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_what_a_module_imports_of_ours_shows_at_its_top(module: ModuleType) -> None:
    """The sender looks there only; an import in a function would find nothing in a guest."""
    tops = {
        line.split()[1]
        for line in Path(str(module.__file__)).read_text().splitlines()
        if line.startswith("from ")
    }
    tops.add(core.__name__)  # it is sent always, and has the types that checkers ask for
    assert {str(node.module) for node in own_imports(module)} <= tops


@pytest.mark.parametrize("magic", [MAGIC_NUMBER.hex(), "00000000"])
def test_another_interpreter_gets_along_with_the_source(magic: str) -> None:
    """Compiled code is used only where it fits; with another magic number the source is run."""
    rest = probe_program(_homes()).split(b" ", 1)[1]
    orders = {"deadline": 5, "operations": [{"id": "x", "kind": "selftest", "nonce": NONCE}]}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _BOOT],
        input=magic.encode() + b" " + rest + json.dumps(orders).encode(),
        capture_output=True,
        check=True,
        timeout=200,
    )
    record, last = map(json.loads, done.stdout.splitlines())
    assert (record["records"]["http"]["status"], last) == (200, {"done": 1})


def test_the_source_is_no_part_of_what_a_like_interpreter_runs() -> None:
    """Where the compiled code fits, compiling the source would be time for nothing."""
    program = probe_program(["tcp"])
    source = Path(str(core.__file__)).read_bytes()
    assert program.count(source) == 1
    broken = program.replace(source, b"(" * len(source))
    for magic, status in ((MAGIC_NUMBER.hex().encode(), 0), (b"00000000", 1)):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BOOT],
            input=magic + b" " + broken.split(b" ", 1)[1] + b'{"deadline": 1, "operations": []}',
            capture_output=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == status
