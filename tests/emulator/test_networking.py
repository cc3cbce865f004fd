"""What the emulator's networks, ports and privileges let through, as a Mac's are recorded to."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.emulating import DIAL, FAR, IMAGE, SERVE, Cli, answered, eventually
from tests.ports import free_port


@pytest.fixture
def pair(cli: Cli) -> Cli:
    """A container `side` on outer and inner, that serves, and `agent` on inner alone."""
    cli.ok("network", "create", "outer")
    cli.ok("network", "create", "--internal", "inner")
    cli.ok(
        *("run", "-d", "--name", "side", "--network", "outer", "--network", "inner"),
        *("--dns", FAR, IMAGE, *SERVE),
    )
    cli.run("agent", "--network", "inner")
    address = cli.address("side", 1)
    eventually(lambda: cli.dial("agent", address, 8000) == "connected")
    return cli


def test_a_host_only_network_has_a_default_route_that_leads_nowhere(pair: Cli) -> None:
    """The agent's route is there (S8), its packets go nowhere by TCP, UDP or ICMP, at once."""
    routes = pair.ok("exec", "agent", "cat", "/proc/net/route")
    assert "eth0\t00000000\t0180A8C0" in routes
    assert pair.dial("agent", FAR, 80) in ("timeout", "EHOSTUNREACH", "ENETUNREACH")
    assert not pair.ask("agent", FAR)
    assert not pair.ping("agent", FAR)


def test_the_first_network_decides(pair: Cli) -> None:
    """With the NAT network first there is a way out, with the host-only one first there is none."""
    assert pair.dial("side", FAR, 80) == "connected"
    assert pair.ping("side", FAR)
    pair.run("wrong", "--network", "inner", "--network", "outer", "--dns", FAR)
    assert "eth0\t00000000" in pair.ok("exec", "wrong", "cat", "/proc/net/route")
    assert pair.dial("wrong", FAR, 80) != "connected"


def test_two_nat_networks_give_one_default_route(pair: Cli) -> None:
    """Of two ways out only the first is taken; the second network has its own addresses only."""
    pair.ok("network", "create", "other")
    pair.run("both", "--network", "other", "--network", "outer")
    lines = pair.ok("exec", "both", "cat", "/proc/net/route").splitlines()
    ways = [line.split() for line in lines[1:]]
    assert [way[0] for way in ways if way[1] == "00000000"] == ["eth0"]
    assert sorted(way[0] for way in ways) == ["eth0", "eth0", "eth1"]


def test_names_resolve_by_an_own_server_only(pair: Cli) -> None:
    """The gateway does not resolve (S14), --dns does (S15), and peers have no names (S17)."""
    assert pair.ok("exec", "side", "cat", "/etc/resolv.conf") == f"nameserver {FAR}\n"
    assert pair.ok("exec", "agent", "cat", "/etc/resolv.conf") == "nameserver 192.168.128.1\n"
    assert pair.ask("side", FAR)
    assert not pair.ask("side", "192.168.65.1")
    assert not pair.ask("agent", "192.168.128.1")
    assert pair.dial("side", "agent", 8000) == "no such name"
    assert pair.dial("side", "allowed.test", 80) == "connected"


def test_networks_are_apart(pair: Cli) -> None:
    """A guest of one network reaches nobody on another, nor that network's gateway."""
    outer = pair.address("side")
    assert pair.dial("agent", outer, 8000) != "connected"
    pair.ok("network", "create", "--internal", "inner2")
    pair.run("stranger", "--network", "inner2")
    assert pair.dial("stranger", pair.address("side", 1), 8000) != "connected"
    pair.run("default-one")
    assert pair.dial("default-one", pair.address("side", 1), 8000) != "connected"


def test_hosts_and_hostname(pair: Cli) -> None:
    """/etc/hosts has localhost and the first address, and is the container's own to change."""
    assert pair.ok("exec", "side", "hostname") == "side\n"
    known = pair.ok("exec", "side", "cat", "/etc/hosts")
    assert known == f"127.0.0.1 localhost\n{pair.address('side')} side\n"
    pair.ok("exec", "side", "sh", "-c", "echo 192.0.2.9 friend >> /etc/hosts")
    code = "import socket; print(socket.gethostbyname('friend'))"
    assert pair.python("side", code) == "192.0.2.9"


def test_no_network_is_no_card(cli: Cli) -> None:
    """--network none leaves loopback alone, and no resolver."""
    cli.run("alone", "--network", "none")
    assert cli.ok("exec", "alone", "cat", "/proc/net/dev").count(":") == 1
    assert cli.dial("alone", FAR, 80) == "ENETUNREACH"
    assert cli.ok("exec", "alone", "cat", "/etc/resolv.conf") == ""


def test_a_port_is_published_on_just_its_address(cli: Cli) -> None:
    """An alias has to be given first (S23); then it answers there (S18) and nowhere else (S19)."""
    port = free_port()
    argv = ["run", "-d", "--name", "web", "-p", f"127.0.0.31:{port}:8000", IMAGE, *SERVE]
    refused = cli(*argv)
    assert refused.status == 1
    assert "Can't assign requested address" in refused.err
    assert cli.ok("list", "-a", "-q") == ""
    assert cli("lo0", "alias", "127.0.0.31", program="ifconfig").status == 0
    cli.ok(*argv)
    eventually(lambda: answered("127.0.0.31", port) == b"HTTP/1.0 200")
    with pytest.raises(ConnectionRefusedError):
        answered("127.0.0.1", port)
    assert cli.dial("web", "192.168.64.1", port) != "connected"  # S20
    assert cli("lo0", "-alias", "127.0.0.31", program="ifconfig").status == 0


def test_a_published_port_belongs_to_one(cli: Cli) -> None:
    """A second container with its address and port does not start; one below 1024 neither."""
    port = free_port()
    cli.run("web-1", "-p", f"127.0.0.1:{port}:80")
    cli.ok("create", "--name", "web-2", "-p", f"127.0.0.1:{port}:80", IMAGE, "sleep", "9")
    found = cli("start", "web-2")
    assert found.status == 1
    assert "Address already in use" in found.err
    assert cli.inspect("web-2")["status"]["state"] == "stopped"
    cli.ok("stop", "web-1")
    cli.ok("start", "web-2")
    assert "root privileges" in cli("run", "-p", "127.0.0.1:80:80", IMAGE, "true").err
    overlap = cli("run", "-p", "127.0.0.1:8080:80", "-p", "127.0.0.3:8080:81", IMAGE, "true")
    assert "may not overlap" in overlap.err


def test_a_published_port_accepts_before_anybody_listens(cli: Cli) -> None:
    """A connection proves nothing: the proxy accepts, and closes when there is no service."""
    port = free_port()
    cli.run("web", "-p", f"127.0.0.1:{port}:9999")
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        assert sock.recv(1) == b""


def capabilities(cli: Cli, name: str, *options: str) -> dict[str, str]:
    """Read a process's capability sets in a container."""
    text = cli.ok("exec", *options, name, "cat", "/proc/self/status")
    fields = dict(line.split(":\t") for line in text.splitlines() if line[:3] in ("Cap", "NoN"))
    return {key: value.lstrip("0") or "0" for key, value in fields.items()}


def test_root_has_the_default_capabilities(cli: Cli) -> None:
    """Root has a80425fb: with it NET_RAW, and without NET_ADMIN the route stays (S29)."""
    cli.run("web")
    sets = capabilities(cli, "web")
    assert {sets[one] for one in ("CapPrm", "CapEff", "CapBnd")} == {"a80425fb"}
    assert {sets["CapInh"], sets["CapAmb"]} == {"0"}
    assert cli.ping("web", "192.168.64.1")
    code = (
        "import socket, struct; s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); "
        "b = struct.pack('BBBBBBBBI', 2, 0, 0, 0, 254, 4, 0, 6, 0); "
        "s.send(struct.pack('IHHII', 16 + len(b), 24, 0x505, 1, 0) + b); "
        "print(-struct.unpack_from('i', s.recv(512), 16)[0])"
    )
    assert int(cli.python("web", code)) == errno.EPERM
    cli.run("admin", "--cap-add", "NET_ADMIN")
    assert int(cli.python("admin", code)) != errno.EPERM


def test_other_users_have_none(cli: Cli) -> None:
    """A user other than root has its ids, an empty effective set, and the bounding set (S39)."""
    cli.run("web", "--user", "1000:1001", "--cap-add", "NET_ADMIN")
    assert cli.ok("exec", "web", "id", "-u").strip() == "1000"
    assert cli.ok("exec", "web", "id", "-g").strip() == "1001"
    sets = capabilities(cli, "web")
    assert (sets["CapEff"], sets["CapPrm"], sets["CapBnd"]) == ("0", "0", "a80435fb")
    assert cli.ok("exec", "-u", "nobody", "web", "id", "-u").strip() == "65534"


def test_exec_has_what_the_container_was_created_with(cli: Cli) -> None:
    """What the first process gave up binds no exec: it starts from the configuration (S39)."""
    drop = (
        "import ctypes, time; [ctypes.CDLL(None).prctl(24, n) for n in range(41)]; time.sleep(60)"
    )
    cli.ok(
        *("run", "-d", "--name", "shim", "--cap-add", "NET_ADMIN", IMAGE),
        *("python3", "-ISc", f"{drop}; time.sleep(60)"),
    )
    assert capabilities(cli, "shim", "--user", "0")["CapEff"] == "a80435fb"
    cli.run("less", "--cap-drop", "ALL", "--cap-add", "CHOWN")
    assert capabilities(cli, "less")["CapEff"] == "1"


def test_every_process_may_gain_privileges(cli: Cli) -> None:
    """The first process and an exec are alike: no flag of the command sets no_new_privs."""
    cli.run("web")
    lines = cli.ok("exec", "web", "grep", "-h", "NoNewPrivs", "/proc/1/status", "/proc/self/status")
    assert lines.split() == ["NoNewPrivs:", "0"] * 2


def test_kernel_settings_are_open_until_1_2_0(cli: Cli, newest: Cli) -> None:
    """With NET_ADMIN, root of 1.0.0 may write /proc/sys/net; from 1.2.0 on it is read-only."""
    argv = ["exec", "web", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
    for one in (cli, newest):
        one.run("web", "--cap-add", "NET_ADMIN")
    assert cli(*argv).status == 0
    assert "Read-only file system" in newest(*argv).err
    newest.run("open", "--cap-add", "NET_ADMIN", "--read-only-path", "NONE")
    assert newest("exec", "open", *argv[2:]).status == 0
    assert newest.inspect("open")["configuration"]["readonlyPaths"] == []


def test_the_emulated_mac_is_a_place(cli: Cli) -> None:
    """A command there sees the gateways' addresses, and services bound to loopback are its own."""
    cli.run("web")
    said = cli.at_mac("python3", "-ISc", DIAL.format(host=cli.address("web"), port=9))
    assert (said.status, said.out) == (0, "ECONNREFUSED\n")
    assert cli.at_mac("sh", "-c", "exit 4").status == 4
