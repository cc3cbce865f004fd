"""The emulator's executables, and a daemon for as long as somebody needs one."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_bottle.emulator import NEWEST

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable
    from typing import Self

#: Seconds for a daemon to end.
_END: Final = 10.0
_CONTAINER: Final = """#!{python} -IS
import sys
sys.path.insert(0, {folder!r} + "/pytest_bottle/emulator")
from fast import main
del sys.path[0]
sys.exit(main(sys.argv[1:], {version!r}, {folder!r}))
"""
_OTHER: Final = """#!{python} -IS
import sys
sys.path.append({folder!r})
from pytest_bottle.emulator.{module} import main
sys.exit(main(sys.argv[1:]))
"""


def install(folder: str | os.PathLike[str], version: str = NEWEST) -> Path:
    """Write the executable ``container`` into a folder; returns its path.

    Beside it come ``ifconfig``, for aliases of the loopback interface, and ``emulated-mac``, which
    runs a command at the emulated Mac.

    Args:
        folder: where; it is made.
        version: which is emulated: one of :data:`pytest_bottle.emulator.grammar.VERSIONS`.

    Raises:
        ValueError: that version is not known.
    """
    from pytest_bottle.emulator import grammar

    grammar.commands(version)
    os.makedirs(folder, exist_ok=True)
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    programs = {"container": "", "ifconfig": "ifconfig", "emulated-mac": "mac"}
    for name, module in programs.items():
        path, text = Path(folder, name), _OTHER if module else _CONTAINER
        known = {"folder": here, "module": module, "python": sys.executable, "version": version}
        path.write_text(text.format_map(known))
        path.chmod(0o755)
    return Path(folder, "container")


class Emulator:
    """A daemon of the emulator in a folder of its own, for as long as it is entered.

    It ends with this process too, however that ends, and takes its folder with it.

    Args:
        version: which is emulated.
        faults: names of faults to start with (:mod:`pytest_bottle.emulator.faults`).

    Attributes:
        path: the executable ``container``.
        environment: what a caller's environment needs besides.
        root: the folder of the state.
    """

    def __init__(self, version: str = NEWEST, *, faults: Iterable[str] = ()) -> None:
        self.version = version
        self._faults = ",".join(faults)
        self._life = -1
        self.root = ""
        self.path = Path()
        self.environment: dict[str, str] = {}
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self._daemon.pid if self._daemon else 0

    def __enter__(self) -> Self:
        from pytest_bottle.emulator import fast, offline
        from pytest_bottle.emulator.faults import VARIABLE
        from pytest_bottle.errors import BackendUnavailableError

        self.root = tempfile.mkdtemp(prefix="bottle-emulator-")
        self.path = install(os.path.join(self.root, "bin"), self.version)
        self.environment = {fast.VARIABLE: self.root}
        life, self._life = os.pipe()
        variables = {**os.environ, **self.environment, VARIABLE: self._faults}
        try:
            self._daemon = offline.launch(
                self.root, self.version, life=life, own=True, environment=variables
            )
        except offline.NotStartedError as error:
            self.__exit__()
            raise BackendUnavailableError(
                "the emulator of Apple's container did not start",
                where=shlex.join([sys.executable, "-m", "pytest_bottle.emulator.daemon"]),
                seen=str(error),
                next_step="look whether the netns backend works on this machine",
            ) from error
        finally:
            os.close(life)
        return self

    def __exit__(self, *_: object) -> None:
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._daemon is not None:
            self._daemon.wait(_END)
        shutil.rmtree(self.root, ignore_errors=True)
