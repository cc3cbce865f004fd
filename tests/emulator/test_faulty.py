"""Each fault that can be switched on, by what it does at the command line and inside."""

from __future__ import annotations

import json
import time

import pytest

from pytest_bottle.emulator import Emulator, faults
from tests.emulating import FAR, IMAGE, SERVE, Cli, answered, eventually
from tests.ports import free_port


def inner(cli: Cli, switched_on: str = "") -> None:
    """Make a host-only network with an agent on it."""
    cli.ok("network", "create", "--internal", "inner", faults=switched_on)
    quick = ("--dns-option", "timeout:1", "--dns-option", "attempts:1")
    cli.run("agent", "--network", "inner", *quick)


def test_host_forwarding_hides_from_ping_and_names(cli: Cli) -> None:
    """TCP by address gets out of a host-only network, where ping and names look blocked (#2062)."""
    inner(cli, faults.HOST_FORWARDING)
    assert cli.dial("agent", FAR, 80) == "connected"
    assert not cli.ping("agent", FAR)
    assert cli.dial("agent", "allowed.test", 80) == "no such name"
    assert not cli.ask("agent", FAR)


def test_host_forwarding_reaches_guests_of_nat_networks(cli: Cli) -> None:
    """What the host forwards, it forwards to its other networks too, whichever was there first."""
    cli.ok("network", "create", "before")
    inner(cli, faults.HOST_FORWARDING)
    cli.ok("network", "create", "after", faults=faults.HOST_FORWARDING)
    for name in ("before", "after"):
        cli.ok("run", "-d", "--name", f"far-{name}", "--network", name, IMAGE, *SERVE)
        reach(cli, cli.address(f"far-{name}"))


def reach(cli: Cli, address: str) -> None:
    """Wait until the agent gets to a service."""
    eventually(lambda: cli.dial("agent", address, 8000) == "connected")


def test_gateway_dns_answers_on_every_network(cli: Cli) -> None:
    """The gateway resolves for a host-only network too; packets of other kinds stay in."""
    inner(cli, faults.GATEWAY_DNS)
    eventually(lambda: cli.ask("agent", "192.168.128.1"))
    assert cli.dial("agent", FAR, 80) != "connected"
    assert cli.dial("agent", "192.168.128.1", 46011) != "connected"


def test_host_on_gateway_opens_what_listens_everywhere(cli: Cli) -> None:
    """A service of the host answers at the gateway (#1320); one on loopback does not."""
    inner(cli)
    assert cli.at_mac("true").status == 0  # from now on it has services, as any machine
    assert cli.dial("agent", "192.168.128.1", 46011) != "connected"
    cli.clean()
    inner(cli, faults.HOST_ON_GATEWAY)
    assert cli.dial("agent", "192.168.128.1", 46011) == "connected"
    assert cli.dial("agent", "192.168.128.1", 46012) != "connected"
    assert cli.dial("agent", FAR, 80) != "connected"


def test_local_network_privacy_resets(cli: Cli) -> None:
    """The published port accepts, and then resets: no byte comes back (#2029)."""
    port = free_port()
    argv = ["-p", f"127.0.0.1:{port}:8000", IMAGE, *SERVE]
    cli.ok("run", "-d", "--name", "web", *argv, faults=faults.LOCAL_NETWORK_PRIVACY)
    for _ in range(5):
        assert answered("127.0.0.1", port) == b""
    cli.ok("delete", "-f", "web")
    cli.ok("run", "-d", "--name", "web", *argv)
    eventually(lambda: answered("127.0.0.1", port) == b"HTTP/1.0 200")


def test_apiserver_down_fails_every_client(cli: Cli) -> None:
    """Commands say what to start, the status is unregistered, and starting does not help."""
    found = cli("list", faults=faults.APISERVER_DOWN)
    assert found.status == 1
    assert "XPC connection error: Connection invalid" in found.err
    assert "container system start" in found.err
    said = cli("system", "status", "--format", "json", faults=faults.APISERVER_DOWN)
    assert (said.status, said.json["status"], said.json["appRoot"]) == (1, "unregistered", "")
    versions = cli("system", "version", "--format", "json", faults=faults.APISERVER_DOWN)
    assert [one["appName"] for one in versions.json] == ["container"]
    assert cli("system", "start", faults=faults.APISERVER_DOWN).status == 1
    assert cli("run", "--bad", faults=faults.APISERVER_DOWN).status == 64


def test_apiserver_hang_never_answers(cli: Cli) -> None:
    """A command waits for ever, `system version` two seconds; usage errors need no server."""
    with pytest.raises(TimeoutError):
        cli.within(1.0, "list", faults=faults.APISERVER_HANG)
    started = time.monotonic()
    versions = cli("system", "version", "--format", "json", faults=faults.APISERVER_HANG)
    assert [one["appName"] for one in versions.json] == ["container"]
    assert 1.5 < time.monotonic() - started < 60
    assert cli("run", "--bad", faults=faults.APISERVER_HANG).status == 64


def test_slow_delete_keeps_the_network_for_a_while(cli: Cli) -> None:
    """The last container is gone, and its network is still in use for some time (#1318)."""
    inner(cli)
    cli.ok("delete", "-f", "agent", faults=faults.SLOW_DELETE)
    assert cli.ok("list", "-a", "-q") == ""
    found = cli("network", "delete", "inner")
    assert found.status == 1
    assert "with referring containers: agent" in found.err
    eventually(lambda: cli("network", "delete", "inner").status == 0)


def test_truncated_json_ends_in_the_middle(cli: Cli) -> None:
    """The status is 0, the output a beginning of JSON."""
    for argv in (["list", "--format", "json"], ["network", "inspect", "default"]):
        whole, part = cli.ok(*argv), cli.ok(*argv, faults=faults.TRUNCATED_JSON)
        assert whole.startswith(part)
        with pytest.raises(json.JSONDecodeError):
            json.loads(part)


def test_old_version_has_old_shapes(cli: Cli) -> None:
    """Versions say 0.12.3, and containers are flat, with the state as a string."""
    cli.run("web")
    old = faults.OLD_VERSION
    assert "version 0.12.3 (build: emulated" in cli.ok("--version", faults=old)
    versions = json.loads(cli.ok("system", "version", "--format", "json", faults=old))
    assert versions[0]["version"] == "0.12.3"
    (shown,) = json.loads(cli.ok("list", "--format", "json", faults=old))
    assert shown["status"] == "running"
    assert shown["networks"][0]["network"] == "default"
    (network,) = json.loads(cli.ok("network", "list", "--format", "json", faults=old))
    assert network["state"] == "running"


def test_an_unknown_fault_is_a_usage_error(cli: Cli) -> None:
    """A name that is none is refused by each call, with the nearest that is one."""
    for argv in (["list"], ["--version"], ["system", "start"]):
        found = cli(*argv, faults="slow-delete,host-fowarding")
        assert (found.status, found.out) == (64, "")
        assert "'host-fowarding'; did you mean 'host-forwarding'?" in found.err


def test_faults_of_the_start_hold_for_every_call(netns_works: None) -> None:
    """What the daemon was started with needs not be said again."""
    with Emulator(faults=[faults.HOST_FORWARDING, faults.OLD_VERSION]) as daemon:
        cli = Cli(daemon)
        cli.load()
        inner(cli)
        assert cli.dial("agent", FAR, 80) == "connected"
        assert json.loads(cli.ok("list", "--format", "json"))[0]["status"] == "running"
