"""The emulated ``container`` at its command line: shapes, states, exit statuses, messages."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.emulating import IMAGE, Cli, eventually

if TYPE_CHECKING:
    from pathlib import Path


def test_it_says_that_it_is_emulated(cli: Cli) -> None:
    """Versions have Apple's shapes and the word emulated, so nobody takes them for a Mac's."""
    said = cli.ok("--version")
    assert re.fullmatch(
        r"container CLI version 1\.0\.0 \(build: emulated, commit: 0000000\)\n", said
    )
    client, server = json.loads(cli.ok("system", "version", "--format", "json"))
    assert (client["appName"], client["version"]) == ("container", "1.0.0")
    assert server["version"].startswith("container-apiserver version 1.0.0 (build: emulated")
    status = json.loads(cli.ok("system", "status", "--format", "json"))
    assert (status["status"], status["apiServerBuild"]) == ("running", "emulated")
    assert status["appRoot"] == f"{cli.daemon.environment['CONTAINER_APP_ROOT']}/"


def test_lists_are_one_line_sorted_and_escaped(cli: Cli) -> None:
    """`--format json` prints one line as Foundation's encoder does; `inspect` prints many."""
    cli.run("web-1", "--label", "a=x/y")
    line = cli.ok("list", "--format", "json")
    assert line.count("\n") == 1
    assert '"labels":{"a":"x\\/y"}' in line
    assert (
        line
        == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")).replace("/", "\\/")
        + "\n"
    )
    many = cli.ok("inspect", "web-1")
    assert many.startswith('[\n  {\n    "configuration" : {\n      "capAdd" : [\n\n      ],\n')
    assert json.loads(many) == json.loads(line)


def test_a_container_has_the_documented_shape(cli: Cli) -> None:
    """Every key of the reference is there, optional ones only when they say something."""
    cli.run("web-1", "--network", "default,mtu=1500", "--dns", "192.0.2.1", "--cap-drop", "net_raw")
    shown = cli.inspect("web-1")
    configuration, status = shown["configuration"], shown["status"]
    assert " ".join(configuration) == (
        "capAdd capDrop creationDate dns id image initProcess labels mounts networks platform "
        "publishedPorts publishedSockets readOnly resources rosetta runtimeHandler ssh sysctls "
        "useInit virtualization"
    )
    assert configuration["capDrop"] == ["CAP_NET_RAW"]
    assert configuration["dns"]["nameservers"] == ["192.0.2.1"]
    assert configuration["networks"] == [
        {"network": "default", "options": {"hostname": "web-1", "mtu": 1500}}
    ]
    assert configuration["initProcess"]["user"] == {"id": {"gid": 0, "uid": 0}}
    assert status["state"] == "running"
    (leg,) = status["networks"]
    assert leg["mtu"] == 1500
    assert leg["ipv4Address"].endswith("/24")
    assert re.fullmatch(r"f[26ae](:[0-9a-f]{2}){5}", leg["macAddress"])


def test_without_dns_there_is_no_such_key(cli: Cli) -> None:
    """--no-dns leaves out what JSON would say of it, and the guest's resolver."""
    cli.run("web-1", "--no-dns")
    assert "dns" not in cli.inspect("web-1")["configuration"]
    assert cli.ok("exec", "web-1", "cat", "/etc/resolv.conf") == ""


def test_newer_versions_add_the_variant(newest: Cli) -> None:
    """From 1.1.0 on, an attachment says which kind of network it is on."""
    newest.run("web-1")
    assert newest.inspect("web-1")["status"]["networks"][0]["variant"] == "reserved"


def test_a_network_has_the_documented_shape(cli: Cli) -> None:
    """A network has the subnet that it got; in its configuration only if it was asked for."""
    cli.ok("network", "create", "--internal", "--label", "run.id=a=b", "inner")
    cli.ok("network", "create", "--subnet", "10.99.4.0/24", "outer")
    inner, outer = json.loads(cli.ok("network", "inspect", "outer", "inner"))
    assert inner["configuration"] == {
        "creationDate": inner["configuration"]["creationDate"],
        "labels": {"run.id": "a=b"},
        "mode": "hostOnly",
        "name": "inner",
        "options": {},
        "plugin": "container-network-vmnet",
    }
    assert inner["status"] == {
        "ipv4Gateway": "192.168.128.1",
        "ipv4Subnet": "192.168.128.0/24",
    }
    assert outer["configuration"]["ipv4Subnet"] == outer["status"]["ipv4Subnet"] == "10.99.4.0/24"
    listed = json.loads(cli.ok("network", "list", "--format", "json"))
    assert [one["id"] for one in listed] == ["default", "inner", "outer"]
    assert cli.ok("network", "list", "-q") == "default\ninner\nouter\n"


def test_the_life_of_a_container(cli: Cli) -> None:
    """Created, started, stopped, started again, removed: states, addresses and logs."""
    argv = ["create", "--name", "web-1", IMAGE, "sh", "-c", "echo here; sleep 600"]
    assert cli.ok(*argv) == "web-1\n"
    assert cli.ok("list", "--format", "json") == "[]\n"
    assert cli.inspect("web-1")["status"] == {"networks": [], "state": "stopped"}
    assert cli("logs", "web-1").status == 1
    assert cli.ok("start", "web-1") == "web-1\n"
    first = cli.address("web-1")
    assert cli.ok("start", "web-1") == "web-1\n"
    assert cli("start", "-a", "web-1").err.startswith("Error: attach is currently unsupported")
    eventually(lambda: cli.ok("logs", "web-1") == "here\n")
    assert cli.ok("stop", "web-1") == "web-1\n"
    assert cli.ok("stop", "web-1") == "web-1\n"
    stopped = cli.inspect("web-1")["status"]
    assert (stopped["state"], stopped["networks"]) == ("stopped", [])
    assert "startedDate" in stopped
    assert cli.ok("logs", "web-1") == "here\n"
    cli.ok("start", "web-1")
    assert cli.address("web-1") != first
    refused = cli("delete", "web-1")
    assert refused.status == 1
    assert "is running and can not be deleted" in refused.err
    assert cli.ok("delete", "--force", "web-1") == "web-1\n"
    assert cli.ok("list", "-a", "-q") == ""


def test_an_attached_run_ends_as_its_process(cli: Cli) -> None:
    """Its outputs come apart, its status is the process's; stdin comes only with -i."""
    said = cli("run", IMAGE, "sh", "-c", "cat; echo out; echo err >&2; exit 7", stdin=b"in\n")
    assert said == (7, "out\n", "err\n")
    assert cli("run", "-i", IMAGE, "cat", stdin=b"in\n") == (0, "in\n", "")
    assert cli("run", IMAGE, "sh", "-c", "kill -9 $$").status == 137


def test_removal_by_itself_comes_later(cli: Cli) -> None:
    """A run with --rm returns before its container is gone, and its network can be deleted."""
    cli.ok("network", "create", "outer")
    cli.ok("run", "--rm", "--network", "outer", IMAGE, "true")
    early = cli("network", "delete", "outer")
    assert early.status == 1
    assert "with referring containers" in early.err
    eventually(lambda: cli("network", "delete", "outer").status == 0)


def test_exec_passes_everything_through(cli: Cli) -> None:
    """Outputs, stdin, variables, folder and status are the process's own."""
    cli.run("web-1", "-e", "A=1")
    script = "cat; pwd; echo $A $B; echo err >&2; exit 3"
    argv = ["exec", "-i", "-e", "B=2", "-w", "/run", "web-1", "sh", "-c", script]
    assert cli(*argv, stdin=b"x" * 100_000) == (3, "x" * 100_000 + "/run\n1 2\n", "err\n")
    assert cli.ok("exec", "-d", "web-1", "sh", "-c", "echo y > /tmp/y; sleep 9") == "web-1\n"
    eventually(lambda: cli("exec", "web-1", "cat", "/tmp/y").out == "y\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["exec", "nobody", "true"], "get failed: container nobody not found"),
        (["start", "nobody"], "get failed: container nobody not found"),
        (["inspect", "web-1", "nobody"], "container not found: nobody"),
        (["stop", "nobody"], 'notFound: "container with ID nobody not found"'),
        (["kill", "nobody"], "failed to kill container"),
        (["kill", "idle"], "no runtime client exists: container is stopped"),
        (["logs", "nobody"], "failed to get logs for container nobody (cause:"),
        (["delete", "--force", "nobody"], 'notFound: "container with ID nobody not found"'),
        (["exec", "idle", "true"], "container idle is not running"),
        (["exec", "web-1", "no-such-program"], "failed to find target executable"),
        (["run", "-d", IMAGE, "no-such-program"], "failed to find target executable"),
        (["run", "--name", "web-1", IMAGE], "container with id web-1 already exists"),
        (["create", "--name", "web-1", IMAGE, "x"], "exists: "),
        (["run", "--name", "-", IMAGE], "invalid entity name -"),
        (["run", "--network", "none", "--network", "default", IMAGE, "x"], "along with network"),
        (["run", "--network", "nowhere", IMAGE, "x"], "network nowhere not found"),
        (["run", "--network", "default,ip=1", IMAGE, "x"], "unknown network property 'ip'"),
        (["run", "--label", "a=b=c", IMAGE, "x"], "invalid label format"),
        (["run", "--cap-add", "fly", IMAGE, "x"], "fly"),
        (["run", "--memory", "100M", IMAGE, "x"], "minimum memory amount allowed is 200 MiB"),
        (["run", "-v", "/tmp:/x", IMAGE, "x"], "not emulated"),
        (["run", "example.test/other", "x"], "no registry"),
        (["image", "pull", "example.test/other"], "no registry"),
        (["build", "."], "not emulated"),
        (["network", "create", "default"], "network default already exists"),
        (["network", "create", "none"], "network none is not a valid name"),
        (["network", "create", "Upper"], "invalid network name: Upper"),
        (["network", "create", "--subnet", "192.168.64.0/25", "x1"], "overlaps an existing"),
        (["network", "create", "--label", "Upper=1", "x1"], "invalidKeyFormat"),
        (["network", "inspect", "nowhere"], "network not found: nowhere"),
        (["network", "delete", "nowhere"], 'failed to delete one or more networks: ["nowhere"]'),
        (["network", "delete", "default"], "cannot delete a builtin network: default"),
    ],
)
def test_what_fails_says_so_on_stderr_and_exits_1(cli: Cli, argv: list[str], said: str) -> None:
    """Each failure of the reference has its status and its message, and nothing on stdout."""
    cli.run("web-1")
    cli.ok("create", "--name", "idle", IMAGE, "true")
    found = cli(*argv)
    assert (found.status, found.out) == (1, "")
    assert found.err.startswith("Error: ")
    assert said in found.err
    assert cli.ok("list", "-a", "-q") == "web-1\nidle\n"


def test_usage_errors_come_before_anything_is_asked(cli: Cli) -> None:
    """Exit 64, the message and the usage on stderr."""
    found = cli("run", "--privileged", IMAGE)
    assert (found.status, found.out) == (64, "")
    assert found.err.startswith("Error: Unknown option '--privileged'\nUsage: container run ")
    assert cli("compose", "up").status == 64
    assert "Usage" in cli("network", "delete", "--force", "x").err


def test_several_are_all_tried(cli: Cli) -> None:
    """Of a list with one that is missing, the others go; networks only all or none."""
    cli.run("web-1")
    found = cli("delete", "-f", "nobody", "web-1")
    assert (found.status, found.out) == (1, "web-1\n")
    assert found.err.count("\n") == 1
    cli.ok("network", "create", "outer")
    assert cli("network", "delete", "outer", "nowhere").status == 1
    assert "outer" in cli.ok("network", "list", "-q")


def test_a_stopped_member_keeps_its_network(cli: Cli) -> None:
    """A network goes only when no container refers to it, running or not."""
    cli.ok("network", "create", "--internal", "inner")
    cli.ok("create", "--name", "idle", "--network", "inner", IMAGE, "true")
    found = cli("network", "delete", "inner")
    assert found.status == 1
    logged, error = found.err.splitlines()
    assert "cannot delete subnet inner with referring containers: idle" in logged
    assert error == 'Error: delete failed for one or more networks: ["inner"]'
    cli.ok("delete", "idle")
    assert cli.ok("network", "delete", "inner") == "inner\n"


def test_a_file_is_copied_both_ways(newest: Cli, tmp_path: Path) -> None:
    """`copy` takes a path of a running container on one side."""
    newest.run("web-1")
    (tmp_path / "sent").write_bytes(bytes(range(256)))
    assert newest.ok("copy", str(tmp_path / "sent"), "web-1:/run/a/b").endswith("web-1:/run/a/b\n")
    newest.ok("cp", "web-1:/run/a/b", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == bytes(range(256))


def test_names_are_stricter_from_1_2_0_on(cli: Cli, newest: Cli) -> None:
    """64 letters can be created by 1.0.0 and not by 1.2.2."""
    name = "a" * 64
    assert cli.ok("create", "--name", name, IMAGE, "true") == f"{name}\n"
    assert "is not a valid container ID" in newest("create", "--name", name, IMAGE, "x").err


def test_images_are_what_was_loaded(cli: Cli) -> None:
    """An image is listed and inspected by the descriptor and configuration of its archive."""
    (listed,) = json.loads(cli.ok("image", "list", "--format", "json"))
    assert listed["configuration"]["name"] == IMAGE
    assert listed["id"] == listed["configuration"]["descriptor"]["digest"].removeprefix("sha256:")
    assert json.loads(cli.ok("image", "inspect", IMAGE)) == [listed]
    assert cli.ok("image", "list", "-q") == f"{IMAGE}\n"
    assert "image not found: x" in cli("image", "inspect", "x").err
    assert cli("image", "load", stdin=b"no archive").status == 1
