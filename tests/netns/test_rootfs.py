"""A folder of the user's as the guests' file system."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engines.netns.rootfs import find_python, resolve
from pytest_bottle.bottle import Bottle
from pytest_bottle.errors import BottleError, BringUpError, ConfigurationError
from pytest_bottle.spec import BottleSpec, SidecarSpec
from pytest_bottle.stimulus import Tcp
from tests import rootfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.conformance.mutants.base import NetnsBackend


@pytest.fixture(scope="module")
def folder(netns_works: None) -> Iterator[Path]:
    """A root file system that everybody may read; pytest's own folders are their owner's only."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        rootfs.build(path)
        yield path


@pytest.fixture(scope="module")
def bottle(netns: NetnsBackend, folder: Path) -> Iterator[Bottle]:
    """A bottle that is made of it."""
    with Bottle(netns, BottleSpec(rootfs=str(folder))) as running:
        yield running


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    """An empty folder that everybody may read."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def program(path: Path, text: str = "#!/bin/sh\nexit 3\n") -> None:
    """Write a script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("vantage", [Vantage.AGENT, Vantage.SIDECAR, Vantage.OPEN])
@pytest.mark.parametrize("user", ["agent", "root"])
def test_the_root_is_the_folder(bottle: Bottle, vantage: Vantage, user: str) -> None:
    """Guests see the folder's files, cannot change them, and see none of the machine's."""
    guest = bottle.guest(vantage)

    said = guest.run("sh", "-c", "cat /srv/marker /etc/passwd; ls /; ls /usr/bin", user=user).out
    written = guest.run("sh", "-c", "echo x >/srv/marker", user=user)

    assert said.startswith("srvroot:x:0:0:of the rootfs")
    names = said.splitlines()[1:]
    places = {"bin", "dev", "etc", "home", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var"}
    assert places <= {*names}
    assert "server" not in names
    assert names[-len(rootfs.PROGRAMS) - 2 :] == sorted([*rootfs.PROGRAMS, *pythons()])
    assert "Read-only file system" in written.err


def pythons() -> list[str]:
    """The interpreter's two names."""
    import sys

    return ["python3", f"python3.{sys.version_info.minor}"]


def test_private_folders_are_laid_over(bottle: Bottle) -> None:
    """/tmp, /run, /var and /home are the guest's own and empty; devices and /proc are there."""
    script = (
        "ls /tmp /home /run; for f in /tmp /run /var /var/tmp /home/agent; do echo $f >$f/x && "
        "cat $f/x; done; echo gone >/dev/null; cat /proc/1/comm; ls /proc/self/fd >/dev/shm/x"
    )
    result = bottle.agent.run("sh", "-c", script)

    assert result.out.split() == [
        *("/home:", "agent", "/run:", "/tmp:"),
        *("/tmp", "/run", "/var", "/var/tmp", "/home/agent", "sleep"),
    ]
    assert not result.err


def test_names_and_trust_are_the_bottle_s(bottle: Bottle) -> None:
    """The folder's link at /etc/resolv.conf is covered; hosts and certificates are ours."""
    assert "nothing resolves names" in bottle.agent.run("cat", "/etc/resolv.conf").out
    assert bottle.sidecar.run("cat", "/etc/resolv.conf").out == "nameserver 192.88.99.53"
    assert bottle.topology.agent_address in bottle.agent.run("cat", "/etc/hosts").out
    assert bottle.agent.fetch("https://allowed.test/").status == 200  # verified


def test_the_probe_runs_on_its_python(bottle: Bottle) -> None:
    """The interpreter is the folder's own, at every vantage point; the host has its own."""
    assert bottle.topology.python == "/usr/bin/python3"
    assert bottle.agent.probe(Tcp("1.1.1.1", 443)).blocked
    assert bottle.sidecar.probe(Tcp("1.1.1.1", 443)).leaked
    assert bottle.agent.fetch("http://denied.test/").denied
    for vantage in (Vantage.PRIVILEGED, Vantage.NEIGHBOUR, Vantage.HOST):
        assert bottle.guest(vantage).run(bottle.topology.python, "-c", "print(1)").out == "1"


def test_an_own_sidecar_on_a_rootfs(netns: NetnsBackend, folder: Path) -> None:
    """A sidecar of the user's own and a folder of the user's go together."""
    serve = (
        "import os, socket, time; print(open('/srv/marker').read() + open('/run/x').read());"
        "s = socket.create_server((os.environ['BOTTLE_ADDRESS'], 9099)); time.sleep(1000)"
    )
    own = SidecarSpec(command=("python3", "-u", "-c", serve), files={"/run/x": "!"})

    with Bottle(netns, BottleSpec(rootfs=str(folder), sidecar=own)) as bottle:
        assert netns.logs(bottle.topology) == {"sidecar output": b"srv!\n"}


# -- what cannot be a rootfs -------------------------------------------------------------------


def refused(netns: NetnsBackend, path: object) -> BottleError:
    """Bring a bottle up that cannot be, and find nothing left of it."""
    before = netns.inventory()
    with pytest.raises((ConfigurationError, BringUpError)) as caught:
        netns.up(BottleSpec(rootfs=str(path)))
    assert netns.inventory() == before
    assert str(path) in caught.value.where or "agent" in caught.value.where
    return caught.value


def test_no_folder(netns: NetnsBackend, small: Path) -> None:
    """What does not exist, is relative or is a file is refused before anything is made."""
    (small / "file").touch()
    assert refused(netns, small / "none").seen == "nothing there"
    assert refused(netns, small / "file").seen == "a file"
    assert refused(netns, "usr").seen == "a relative path"


def test_no_python_and_no_sleep(netns: NetnsBackend, small: Path) -> None:
    """A folder without Python, then one without sleep: each is told, with where it was sought."""
    assert "Python 3.8" in refused(netns, small).expected
    program(small / "usr/local/bin/python3.12")
    assert find_python(str(small)) == "/usr/local/bin/python3.12"
    assert "sleep" in refused(netns, small).expected


def test_a_python_that_does_not_work(netns: NetnsBackend, folder: Path, small: Path) -> None:
    """An interpreter that cannot run, or is too old, is told apart from a broken network."""
    for name in ("usr", "bin", "lib", "lib64"):
        if (folder / name).exists() and name != "bin":
            (small / name).mkdir()
    for top in (folder / "usr", folder / "lib", folder / "lib64"):
        for path in top.rglob("*") if top.exists() else ():
            if path.is_file() and "python" not in str(path):
                target = small / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
    (small / "bin").symlink_to("usr/bin")
    program(small / "usr/bin/python3", "#!/bin/sh\necho 2.7\n")

    error = refused(netns, small)

    assert "cannot run the probe" in error.what
    assert error.seen == "2.7"


def test_a_folder_that_guests_may_not_read(netns: NetnsBackend, small: Path) -> None:
    """A folder that is closed to the guests' user, root's own for example, is refused as such."""
    program(small / "usr/bin/python3")
    program(small / "bin/sleep")
    small.chmod(0o700 if os.geteuid() == 0 else 0o000)

    error = refused(netns, small)

    small.chmod(0o755)
    words = "Permission denied" if os.geteuid() == 0 else "cannot be read"
    assert words in error.seen


def test_links_are_followed_inside(small: Path) -> None:
    """Absolute links and dots lead where a guest would end up, never out of the folder."""
    (small / "usr/bin").mkdir(parents=True)
    (small / "bin").symlink_to("/usr/bin")
    (small / "usr/bin/up").symlink_to("../../../../../etc")
    (small / "loop").symlink_to("loop")

    assert resolve(str(small), "/bin/x") == f"{small}/usr/bin/x"
    assert resolve(str(small), "/bin/up/passwd") == f"{small}/etc/passwd"
    assert resolve(str(small), "/../..") == str(small)
    assert not Path(resolve(str(small), "/bin/up/passwd")).exists()
    with pytest.raises(OSError, match=r"symbolic links|loop"):
        os.stat(resolve(str(small), "/loop/x"))


def test_a_socket_in_the_folder_is_out_of_reach(bottle: Bottle, folder: Path) -> None:
    """A UNIX socket that a program of the machine's listens on there answers no guest."""
    script = "import socket; socket.socket(socket.AF_UNIX).connect('/srv/door')"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "srv/door"))
        (folder / "srv/door").chmod(0o777)
        door.listen()
        with socket.socket(socket.AF_UNIX) as here:
            here.connect(str(folder / "srv/door"))
        result = bottle.agent.run(bottle.topology.python, "-c", script)

    assert "ConnectionRefusedError" in result.err
