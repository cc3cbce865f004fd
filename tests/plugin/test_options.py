"""Options, variables and ini keys: who wins, what is refused, and what the header says."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR
OFFER = """
def pytest_bottle_backends(config):
    return {"one": object, "two": object, "three": object}
"""
TABLE = {
    "backend": ("one", "two", "three"),
    "keep": ("always", "on-failure", "never"),
    "mutant": ("NET-01", "NET-04", "PXY-02"),
    "profile": ("core@1", "strict@1", "all"),
    "scope": ("session", "module", "class"),
    "timeout": ("1.0", "2.0", "3.0"),
}
Complaint = "Callable[..., str]"


@pytest.fixture
def complaint(pytester: pytest.Pytester) -> Callable[..., str]:
    """Run pytest on one trivial test; it must be refused, in one line, which is returned."""

    def run(*arguments: str) -> str:
        pytester.makepyfile("def test(): pass")
        result = pytester.runpytest(*arguments)
        assert result.ret == USAGE_ERROR
        (line,) = [line for line in result.errlines if line]
        return line

    return run


@pytest.mark.parametrize("given", ["cli env ini", "env ini", "cli ini", "ini", "cli", "env"])
@pytest.mark.parametrize("name", TABLE)
def test_precedence(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, given: str
) -> None:
    """The command line wins over the environment, the environment over the ini file."""
    cli, env, ini = TABLE[name]
    arguments = [f"--bottle-{name}={cli}"] if "cli" in given else []
    if "env" in given:
        monkeypatch.setenv(f"BOTTLE_{name.upper()}", env)
    if "ini" in given:
        pytester.makeini(f"[pytest]\nbottle_{name} = {ini}")
    pytester.makeconftest(OFFER)
    pytester.makepyfile("def test(): pass")

    result = pytester.runpytest(*arguments)

    expected = {
        "cli": f"{name} {cli} (--bottle-{name})",
        "env": f"{name} {env} (BOTTLE_{name.upper()})",
        "ini": f"{name} {ini} (ini key bottle_{name})",
    }[given.split()[0]]
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"bottle: *{expected}"])


def test_number_in_toml(pytester: pytest.Pytester) -> None:
    """In pyproject.toml a timeout may be written as the number that it is."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nbottle_timeout = 5")
    pytester.makepyfile("def test(): pass")

    result = pytester.runpytest()

    result.stdout.fnmatch_lines(["bottle: * timeout 5* (ini key bottle_timeout)"])


def test_an_empty_variable_is_none(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is set to nothing counts as not set, as everywhere."""
    monkeypatch.setenv("BOTTLE_BACKEND", "")
    pytester.makepyfile("def test(): pass")

    result = pytester.runpytest()

    assert result.ret == 0
    result.stdout.no_fnmatch_line("bottle: *")


@pytest.mark.parametrize(
    ("cli", "env", "ini", "expected"),
    [
        (True, "0", "false", "thorough true (--bottle-thorough)"),
        (False, "1", "false", "thorough 1 (BOTTLE_THOROUGH)"),
        (False, "no", "true", "thorough no (BOTTLE_THOROUGH)"),
        (False, "", "true", "thorough true (ini key bottle_thorough)"),
    ],
)
def test_thorough(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    cli: bool,
    env: str,
    ini: str,
    expected: str,
) -> None:
    """The flag has twins like any option; header, bench and summary all go by the same choice."""
    monkeypatch.setenv("BOTTLE_THOROUGH", env)
    pytester.makeini(f"[pytest]\nbottle_thorough = {ini}")
    pytester.makepyfile(
        """
        def test(bottle_check, request):
            settings = request.config.pluginmanager.get_plugin("bottle")._settings(request.config)
            request.node.user_properties.append(("bottle_note", f"is {settings.thorough}"))
        """
    )

    result = pytester.runpytest(*(["--bottle-thorough"] if cli else []), "-k", "NET-01")

    is_thorough = " no " not in expected
    word = "thorough" if is_thorough else "quick"
    result.stdout.fnmatch_lines([f"bottle: *{expected}", f"=* bottle verdicts ({word}) =*"])
    result.stdout.fnmatch_lines([f"*is {is_thorough}"])


# -- the header --------------------------------------------------------------------------------


def test_no_header_without_a_choice(pytester: pytest.Pytester) -> None:
    """Who chose nothing is not told anything."""
    pytester.makepyfile("def test(): pass")

    pytester.runpytest().stdout.no_fnmatch_line("bottle: *")


def test_header_names_the_detected_backend(pytester: pytest.Pytester) -> None:
    """Whoever chose anything else than the backend also reads which one is the best here."""
    pytester.makepyfile("def test(): pass")

    result = pytester.runpytest("--bottle-keep=always")

    result.stdout.fnmatch_lines(["bottle: backend * (detected), keep always (--bottle-keep)"])


# -- usage errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--bottle-backend=netnz",
            "*--bottle-backend: 'netnz' is not known; did you mean 'netns'? "
            "(known: netns, black-hole, command, macos-container, macos-container-emulated)",
        ),
        ("--bottle-backend=", "*--bottle-backend: '' is not known (known: netns, *)"),
        (
            "--bottle-internet=lob",
            "*--bottle-internet: 'lob' *did you mean 'lab'? (known: lab, guest, guest,live, none)",
        ),
        ("--bottle-internet=guests", "*--bottle-internet: 'guests' *did you mean 'guest'? *"),
        ("--bottle-internet=", "*--bottle-internet: '' is not known (known: lab, guest, *"),
        ("--bottle-internet=live", "*--bottle-internet: 'live' alone has no witness, *"),
        (
            "--bottle-internet=lab,live",
            "*--bottle-internet: 'lab' goes with nothing else, seen 'lab,live': *",
        ),
        ("--bottle-internet=guest,guest", "*--bottle-internet: a word twice, *"),
        ("--bottle-internet=none,guest", "*--bottle-internet: 'none' goes with nothing else, *"),
        ("--bottle-internet=none", "*--bottle-internet: 'netns' has a far side of its own; *"),
        (
            "--bottle-keep=on_failure",
            "*--bottle-keep: *did you mean 'on-failure'? (known: never, *",
        ),
        (
            "--bottle-profile=core@2",
            "*--bottle-profile: 'core@2' is not known; did you mean 'core@1'? "
            "(known: core@1, strict@1, transparent@1, all)",
        ),
        (
            "--bottle-require=conform",
            "*--bottle-require: 'conform' *did you mean 'conformant'? (known: partial, conformant)",
        ),
        ("--bottle-scope=package", "*--bottle-scope: 'package' is not known*(known: function, *"),
        ("--bottle-timeout=0", "*--bottle-timeout: expected seconds from 0.1 to 3600, seen '0'"),
        ("--bottle-timeout=abc", "*--bottle-timeout: expected seconds *, seen 'abc'"),
        ("--bottle-timeout=1e9", "*--bottle-timeout: expected seconds *, seen '1e9'"),
        ("--bottle-timeout=nan", "*--bottle-timeout: expected seconds *, seen 'nan'"),
    ],
)
def test_refused(complaint: Callable[..., str], argument: str, expected: str) -> None:
    """One line names the option, what was seen, what is known, and the nearest match."""
    pytest.LineMatcher([complaint(argument)]).fnmatch_lines([expected])


def test_unknown_mutant(complaint: Callable[..., str], linux: None) -> None:
    """An unknown mutant is refused with the nearest one that exists."""
    line = complaint("--bottle-mutant=NET-99")

    assert "--bottle-mutant: 'NET-99' is not known; did you mean 'NET-0" in line


def test_mutant_on_another_backend(complaint: Callable[..., str]) -> None:
    """A mutant is a weakened netns backend, so it does not go with another one."""
    line = complaint("--bottle-mutant=NET-01", "--bottle-backend=black-hole")

    assert "--bottle-mutant: mutants live on the netns backend, not on 'black-hole'" in line


def test_the_environments_part_is_named(
    complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad variable is named together with the option that it stands for."""
    monkeypatch.setenv("BOTTLE_SCOPE", "sesion")

    assert "--bottle-scope (from BOTTLE_SCOPE): 'sesion' is not known; did you" in complaint()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bottle_backend = netnz", "--bottle-backend (from ini key bottle_backend): 'netnz'"),
        ("bottle_gate = soon", "--bottle-gate (from ini key bottle_gate): "),
        ("bottle_thorough = soon", "--bottle-thorough (from ini key bottle_thorough): "),
        ("bottle_timeout = soon", "--bottle-timeout (from ini key bottle_timeout): "),
        ("bottle_timeout = 0", "--bottle-timeout (from ini key bottle_timeout): expected seconds"),
    ],
)
def test_the_ini_files_part_is_named(
    complaint: Callable[..., str], pytester: pytest.Pytester, line: str, expected: str
) -> None:
    """A bad ini key is named together with the option that it stands for."""
    pytester.makeini(f"[pytest]\n{line}")

    assert expected in complaint()


# -- other platforms ---------------------------------------------------------------------------


@pytest.fixture
def linux() -> None:
    """Skip, as NOT RUN, where the mutants cannot even be imported."""
    if platform.system() != "Linux":
        pytest.skip("NOT RUN: mutants need Linux")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this look like another system, with or without Apple's ``container``."""

    def pretend(system: str, *, container: bool = False) -> None:
        found = "/usr/local/bin/container" if container else None
        monkeypatch.setattr(platform, "system", lambda: system)
        monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: found)

    return pretend


@pytest.mark.parametrize(
    ("system", "argument", "expected"),
    [
        ("Linux", "--bottle-backend=macos-container", "this is Linux; on Linux choose netns"),
        ("Darwin", "--bottle-backend=netns", "this is Darwin; on a Mac choose macos-container"),
        ("Windows", "--bottle-backend=netns", "this is Windows; run pytest inside WSL 2"),
        ("Windows", "--bottle-backend=black-hole", "'black-hole' needs Linux"),
        ("Windows", "--bottle-mutant=NET-01", "--bottle-mutant: 'netns' needs Linux"),
        ("Darwin", "--bottle-backend=macos-container", "install Apple container"),
    ],
)
def test_impossible_here(
    complaint: Callable[..., str],
    on: Callable[..., None],
    system: str,
    argument: str,
    expected: str,
) -> None:
    """A named backend that can never work on this system is refused, with the next step."""
    on(system)

    assert expected in complaint(argument)


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows", "SunOS"])
def test_detection_never_fails_at_the_start(
    pytester: pytest.Pytester, on: Callable[..., None], system: str
) -> None:
    """Nobody who chose no backend is refused on any system, Mac with ``container`` or not."""
    on(system, container=True)
    pytester.makepyfile("def test(): pass")

    pytester.runpytest("--bottle-keep=never").assert_outcomes(passed=1)


def test_a_detected_backend_that_is_no_use(
    pytester: pytest.Pytester, on: Callable[..., None]
) -> None:
    """Where the detected backend is impossible, a test that needs it has one clear error."""
    on("Darwin", container=True)
    pytester.makepyfile("def test(bottle): pass")

    result = pytester.runpytest()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["macos-container needs Apple silicon"])
    result.stdout.no_fnmatch_line("*Traceback*")
