"""Opening the engine: on a Mac, and on an emulator of its command."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends import running
from pytest_bottle.backends.engines.cli import Cli, Here
from pytest_bottle.backends.engines.macos_container import image
from pytest_bottle.backends.engines.macos_container.engine import ContainerEngine
from pytest_bottle.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_bottle.backends.engines.cli import Place

REAL, EMULATED = "macos-container", "macos-container-emulated"
#: The variable that names an emulator's command that somebody else runs, instead of one of our own.
RUNNING: Final = "PYTEST_BOTTLE_EMULATOR"
#: The program beside the emulator's that runs another at its own host, which stands for the Mac.
_AT_HOST: Final = "emulated-mac"
#: Where the emulator's state is, and the file in it with the host's loopback aliases.
_ROOT, _ALIASES = "CONTAINER_APP_ROOT", "loopback-aliases"
#: The aliases that a Mac is given for bottles (S23): `sudo ifconfig lo0 alias 127.0.0.31`.
ALIASES: Final = tuple(f"127.0.0.{number}" for number in range(31, 15, -1))
#: Seconds that loading the image beforehand may take.
_LOAD: Final = 20.0


class EmulatedHost(Here):
    """This machine, on which the bottles' host is the emulator's and not the machine itself."""

    python = "python3"
    name = "the emulator"

    def __init__(self, program: str, root: str, done: Callable[[], object]) -> None:
        self._program, self._root, self._done = program, root, done

    def at_host(self, argv: Sequence[str]) -> list[str]:
        """Run it where the emulator's bridges are."""
        return [os.path.join(os.path.dirname(self._program), _AT_HOST), *argv]

    def first_free(self, addresses: Sequence[str], port: int) -> str:
        """Try those that the emulated host has; Linux could bind anywhere in 127/8."""
        known = ["127.0.0.1"]
        with contextlib.suppress(OSError), open(os.path.join(self._root, _ALIASES)) as file:
            known += file.read().split()
        return super().first_free([one for one in addresses if one in known], port)

    def close(self) -> None:
        """End the emulator, if it is ours."""
        self._done()


def real(
    program: str = "container", saved_image: str = "", place: Place | None = None
) -> ContainerEngine:
    """Open the engine on a Mac.

    Raises:
        BackendUnavailableError: it cannot be used, with what to do about it.
    """
    return ContainerEngine(Cli(program, place or Here()), name=REAL, saved_image=saved_image)


def emulated(version: str = "", faults: Sequence[str] = ()) -> ContainerEngine:
    """Open the engine on an emulator: one of our own in a fresh folder, or one that runs already.

    Args:
        version: of ``container``, for one of our own; empty for its newest.
        faults: names of faults that one of our own starts with; what the environment names
            (``BOTTLE_EMULATOR_FAULTS``) if there are none.

    Raises:
        BackendUnavailableError: this machine cannot run it.
    """
    with contextlib.ExitStack() as stack:
        saved = _empty_image(stack)
        program, variables = _running() or _started(stack, saved, version, faults)
        done = stack.pop_all().close
        try:
            host = EmulatedHost(program, variables[_ROOT], done)
            command = Cli(program, host, variables=variables)
            return ContainerEngine(command, name=EMULATED, saved_image=saved, emulated=True)
        except BaseException:
            done()
            raise


def _running() -> tuple[str, dict[str, str]] | None:
    program = os.environ.get(RUNNING)
    if not program:
        return None
    given = {key: text for key, text in os.environ.items() if key.startswith("BOTTLE_EMULATOR")}
    return program, {**given, _ROOT: os.environ[_ROOT]}


def _started(
    stack: contextlib.ExitStack, saved: str, version: str, faults: Sequence[str]
) -> tuple[str, dict[str, str]]:
    from pytest_bottle.emulator import NEWEST, Emulator
    from pytest_bottle.emulator.faults import VARIABLE

    named = [*faults, *os.environ.get(VARIABLE, "").split(",")]
    one = stack.enter_context(Emulator(version or NEWEST, faults=filter(None, named)))
    variables = dict(one.environment)
    stack.enter_context(_told({RUNNING: str(one.path), **variables}))
    if named := list(filter(None, named)):
        variables[VARIABLE] = ",".join(named)
    with open(os.path.join(variables[_ROOT], _ALIASES), "w") as file:
        file.write("\n".join(ALIASES))
    _load(str(one.path), saved, one.environment)
    return str(one.path), variables


def _load(program: str, saved: str, variables: Mapping[str, str]) -> None:
    """Bring the image into a new emulator's store, as on a Mac on which bottles have run before.

    A fault that the environment names does not count yet: the gate is to meet it first.

    Raises:
        BackendUnavailableError: it did not take it.
    """
    argv = [program, "image", "load", "--input", saved]
    said = running.run(argv, folder=os.path.abspath(os.sep), variables=variables, deadline=_LOAD)
    if not said.ok and not said.cut:  # of a service that hangs the gate says it better
        raise BackendUnavailableError(
            "the emulator did not take the image of the guests",
            where=said.line,
            expected="exit status 0",
            seen=str(said),
            next_step="run `pytest_bottle.emulator.Emulator` by hand and look what it says",
        )


@contextlib.contextmanager
def _told(variables: Mapping[str, str]) -> Iterator[None]:
    """Let the runs of pytest that we start have the same emulator: it stands for one machine."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def _empty_image(stack: contextlib.ExitStack) -> str:
    """Make an image by the name that guests are made of; the emulator uses no file of it.

    In memory, so that whoever dies leaves no file.
    """
    from pytest_bottle.emulator.images import archive

    descriptor = os.memfd_create("bottle-image")
    stack.callback(os.close, descriptor)
    os.write(descriptor, archive(image.NAME))
    return f"/proc/{os.getpid()}/fd/{descriptor}"
