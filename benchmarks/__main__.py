"""Measure the project's figures: ``python -m benchmarks [name ...]``; medians of one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parents[1]
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def run(*argv: str, folder: str | Path = _ROOT) -> tuple[float, str]:
    """Run a command to its good end; returns seconds and output."""
    started = time.perf_counter()
    result = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    seconds = time.perf_counter() - started
    if result.returncode:
        raise SystemExit(f"{' '.join(argv)}\n{result.stdout}\n{result.stderr}")
    return seconds, result.stdout


def row(what: str, value: str, target: str) -> None:
    """Print one line of the table."""
    print(f"{what:<62} {value:>12}   {target}")


def bottles() -> None:
    """Bring-up and teardown of the whole bottle, in a running session, and the session's start."""
    from pytest_bottle.conformance.mutants.base import NetnsBackend
    from pytest_bottle.spec import BottleSpec

    started = time.perf_counter()
    backend = NetnsBackend()
    start = time.perf_counter() - started
    paused: list[float] = []
    chained: list[float] = []
    down: list[float] = []
    for number in range(30):
        if number < 15:
            backend.inventory()  # waits until the kernel has taken the last bottle's bridges away
        before = time.perf_counter()
        topology = backend.up(BottleSpec())
        up = time.perf_counter()
        backend.down(topology)
        down.append(time.perf_counter() - up)
        (paused if number < 15 else chained).append(up - before)
    backend.close()
    row("start of the session's processes", f"{start * 1e3:.1f} ms", "")
    row("bring-up of a whole bottle", _ms(paused), "at most 60 ms")
    row("bring-up right behind a teardown", _ms(chained), "")
    row("teardown of a whole bottle", _ms(down), "at most 15 ms")


def floor() -> None:
    """Bare namespaces and links, beside the same objects by raw system calls."""
    _, output = run(sys.executable, "-m", "benchmarks.floor")
    medians = json.loads(output)
    row("namespaces and links, the engine", f"{medians['engine']:.1f} ms", "")
    row("namespaces and links, raw calls", f"{medians['floor']:.1f} ms", "")
    row("ratio", f"{medians['engine'] / medians['floor']:.2f}", "at most 2")


def growth() -> None:
    """Fifty bottles in a row, and eight at once."""
    from benchmarks.growth import at_once, in_a_row, median_ratio

    seconds, before, after = in_a_row(50)
    row(
        "50 in a row: time, last ten over first ten",
        f"{median_ratio(seconds, 10):.2f}",
        "at most 1.1",
    )
    row(
        "50 in a row: memory, after over before",
        f"{after.memory / before.memory:.2f}",
        "at most 1.1",
    )
    grown = (after.processes - before.processes, after.resources - before.resources)
    row("50 in a row: processes and kernel objects more", "{} and {}".format(*grown), "0 and 0")
    found = {name: statistics.median(each) for name, each in at_once(7).items()}
    ratio = found["session, eight"] / found["session, one"]
    row("8 at once over 1, from nothing to the last one up", f"{ratio:.2f}", "at most 3")
    row("8 at once over 1, in a running session", f"{found['eight'] / found['one']:.2f}", "")


def conformance() -> None:
    """The whole pytest process of the conformance suite."""
    with tempfile.TemporaryDirectory() as folder:
        argv = (*_PYTEST, "--pyargs", "pytest_bottle.conformance", "--bottle-backend=netns")
        seconds = [run(*argv, folder=folder)[0] for _ in range(3)]
    row("conformance, whole process", f"{statistics.median(seconds):.2f} s", "at most 10 s")


def suite() -> None:
    """The core profile as a whole process, and the direct checks together and one by one."""
    from benchmarks.suite import direct

    with tempfile.TemporaryDirectory() as folder:
        argv = (*_PYTEST, "--pyargs", "pytest_bottle.conformance", "--bottle-profile=core@1")
        seconds = [run(*argv, folder=folder)[0] for _ in range(5)]
    row("core@1, quick, whole process", f"{statistics.median(seconds):.1f} s", "at most 60 s")
    rounds = [direct() for _ in range(5)]
    together = statistics.median(one.together for one in rounds)
    ratio = statistics.median(one.one_by_one / one.together for one in rounds)
    row("direct set, first packet to last verdict", f"{together:.2f} s", "at most 3 s")
    row(f"its {rounds[0].stimuli} stimuli one by one, over that", f"{ratio:.1f}", "at least 10")
    row("load of the machine", f"{os.getloadavg()[0]:.1f}", f"below {os.cpu_count()}")


def one_test() -> None:
    """A user's one-test file with an agent and plain http, over one with an empty test."""
    fetch = "    assert bottled_agent.fetch('http://allowed.test/').status == 200\n"
    files = {
        "test_bottle.py": "def test_fetch(bottled_agent):\n" + fetch,
        "test_empty.py": "def test_empty():\n    pass\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        ours, empty = [], []
        for _ in range(15):  # taking turns
            ours.append(run(*_PYTEST, "test_bottle.py", folder=folder)[0])
            empty.append(run(*_PYTEST, "-p", "no:bottle", "test_empty.py", folder=folder)[0])
    over = statistics.median(a - b for a, b in zip(ours, empty, strict=True))
    row("one test with an agent and plain http", _ms(ours), "")
    row("empty test, -p no:bottle", _ms(empty), "")
    row("difference", f"{over * 1e3:.1f} ms", "at most 150 ms")


def unused() -> None:
    """What the installed plugin costs a project that does not use it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_empty.py").write_text("def test_empty():\n    pass\n")
        listing = "import pytest, sys; pytest.main(['-q', '-p', 'no:cacheprovider']); "
        listing += "print(*(m for m in sys.modules if m.startswith('pytest_bottle')))"
        _, output = run(sys.executable, "-c", listing, folder=folder)
        modules = output.splitlines()[-1]
        # Beside pytest itself, which captures what the interpreter writes while it loads plugins.
        argv = (sys.executable, "-X", "importtime", "-c", "import pytest, pytest_bottle.plugin")
        own: list[float] = []
        for _ in range(9):
            result = subprocess.run(
                argv, cwd=folder, capture_output=True, text=True, check=True, timeout=60
            )
            lines = [line.split("|") for line in result.stderr.splitlines() if "|" in line]
            ours = [cells for cells in lines if cells[2].strip().startswith("pytest_bottle")]
            own.append(sum(int(cells[0].split(":")[1]) for cells in ours) / 1e3)
    row("import of the unused plugin", f"{statistics.median(own):.2f} ms", "at most 1 ms")
    row("modules of ours imported", modules, "only plugin")


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} ms"


FIGURES: dict[str, Callable[[], None]] = {
    "bottles": bottles,
    "floor": floor,
    "growth": growth,
    "one_test": one_test,
    "unused": unused,
    "conformance": conformance,
    "suite": suite,
}


def main() -> None:
    """Measure the named figures, or all."""
    # As a user has it: compiled modules are cached, and no option of ours is set.
    for name in ("PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
