"""The fixtures on real bottles: what users write, how long bottles live, what goes wrong."""

from __future__ import annotations

import inspect

import pytest

from pytest_bottle import plugin

FIXTURES = [
    "bottle",
    "bottle_backend",
    "bottle_internet",
    "bottle_spec",
    "bottled_agent",
    "egress_network",
    "egress_sidecar",
    "internal_network",
    "make_bottle",
    "sibling_bottle",
]


def test_fixtures_are_explained(pytester: pytest.Pytester) -> None:
    """``--fixtures`` shows what each is, ``--fixtures -v`` the whole docstring; none is private."""
    short = pytester.runpytest("--fixtures")
    shown = " ".join(str(pytester.runpytest("--fixtures", "-v").stdout).split())

    for name in FIXTURES:
        documentation = inspect.getdoc(getattr(plugin, name)) or ""
        assert documentation.splitlines()[0].endswith(".")
        assert " ".join(documentation.split()) in shown
        short.stdout.fnmatch_lines([f"{name}*", f"    {documentation.splitlines()[0]}"])
    short.stdout.no_fnmatch_line("_bottle_bench*")


@pytest.mark.usefixtures("netns_works")
def test_what_users_write(pytester: pytest.Pytester) -> None:
    """The examples of the project's first issue pass as they stand there."""
    pytester.makepyfile(
        """
        import pytest
        import requests
        from pytest_bottle.stimulus import Tcp

        def test_fetch(bottled_agent):
            assert bottled_agent.fetch("https://allowed.test/").status == 200

        def test_probe(bottled_agent):
            assert bottled_agent.probe(Tcp("1.1.1.1", 443)).blocked

        def test_run(bottled_agent):
            assert bottled_agent.run("id", "-u").out == "1000"

        def test_host(bottled_agent):
            file = bottled_agent.host.file("/etc/resolv.conf")
            assert file.exists
            assert not file.contains("nameserver")

        def test_published(egress_sidecar):
            assert requests.get(egress_sidecar.published_url).status_code == 200

        @pytest.mark.bottle(egress=["packages.test:8443"])
        def test_marker(bottled_agent, bottle_internet):
            bottle_internet.listen(tcp=[8443])
            assert bottled_agent.fetch("http://packages.test:8443/").status == 200
            assert bottled_agent.fetch("http://allowed.test/").denied == "not-allowed"

        def test_two(make_bottle):
            one, two = make_bottle(), make_bottle(egress=["packages.test"])
            assert one.agent.fetch("http://allowed.test/").status == 200
            assert two.agent.fetch("http://allowed.test/").status == 403
            assert one.internal_network.subnet != two.internal_network.subnet

        def test_networks(internal_network, egress_network, bottled_agent):
            assert internal_network.internal and not egress_network.internal
            assert bottled_agent.address.rpartition(".")[0] in internal_network.subnet

        @pytest.mark.bottle(command=["sleep", "1000"], environment={"COLOUR": "green"})
        def test_command(bottled_agent):
            assert "sleep 1000" in bottled_agent.run("ps", "-eo", "args").out
            assert bottled_agent.run("sh", "-c", "echo $COLOUR").out == "green"
        """
    )

    pytester.runpytest("--bottle-backend=netns").assert_outcomes(passed=9)


@pytest.mark.parametrize(
    ("scope", "ups"), [("function", 5), ("class", 4), ("module", 2), ("session", 1)]
)
def test_scope(pytester: pytest.Pytester, toy: object, scope: str, ups: int) -> None:
    """``bottle_scope`` says how many tests share a bottle; it goes before the next one comes."""
    pytester.makeini(f"[pytest]\nbottle_scope = {scope}")
    pytester.makepyfile(
        test_one="""
        class TestTogether:
            def test_a(self, bottle): pass
            def test_b(self, bottle, bottled_agent): pass

        def test_alone(bottle): pass
        def test_alone_too(bottle): pass
        """,
        test_two="def test_c(bottle): pass",
    )

    pytester.runpytest().assert_outcomes(passed=5)

    log = (pytester.path / "toy.log").read_text().splitlines()
    pairs = [line for n in range(1, ups + 1) for line in (f"up b{n}", f"down b{n}")]
    assert log == ["open", *pairs, "close"]


@pytest.mark.parametrize("scope", ["module", "session"])
@pytest.mark.usefixtures("netns_works")
def test_shared_bottle_is_one(pytester: pytest.Pytester, scope: str) -> None:
    """Tests that share a bottle see what the one before them did in it."""
    pytester.makepyfile(
        """
        def test_writes(bottled_agent):
            assert bottled_agent.run("sh", "-c", "echo mine > ~/note").ok

        def test_reads(bottled_agent):
            assert bottled_agent.run("sh", "-c", "cat ~/note").out == "mine"
        """
    )

    pytester.runpytest(f"--bottle-scope={scope}").assert_outcomes(passed=2)


@pytest.mark.usefixtures("netns_works")
def test_vantage_points(pytester: pytest.Pytester) -> None:
    """The sibling is a bottle like ``bottle`` on networks of its own; other places are guests."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_bottle import Tcp

        WORDS = {"egress": ["packages.test"], "publish": "127.0.0.20:8080",
                 "environment": {"COLOUR": "green"}}

        @pytest.mark.bottle(**WORDS)
        def test_sibling(bottle, sibling_bottle):
            for one in (bottle, sibling_bottle):
                assert one.agent.fetch("http://packages.test/").status == 200
                assert one.agent.fetch("http://allowed.test/").denied == "not-allowed"
                assert one.agent.run("printenv", "COLOUR").out == "green"
            both = {bottle.topology.id, sibling_bottle.topology.id}
            assert len(both) == 2
            assert bottle.internal_network.subnet != sibling_bottle.internal_network.subnet
            assert bottle.egress_network.subnet != sibling_bottle.egress_network.subnet
            assert bottle.sidecar.published_at_host == "127.0.0.20:8080"
            assert sibling_bottle.sidecar.published_at_host != "127.0.0.20:8080"
            target = sibling_bottle.agent.address
            assert not bottle.agent.run("ping", "-c1", "-W1", target).ok

        def test_guests(bottle):
            assert bottle.open_guest.probe(Tcp("203.0.113.7", 443)).leaked
            assert bottle.privileged.probe(Tcp("203.0.113.7", 443)).blocked
            assert bottle.neighbour.address.rpartition(".")[0] in bottle.egress_network.subnet
            addresses = bottle.host.run("cat", "/proc/net/fib_trie").out
            assert bottle.internal_network.gateway in addresses
        """
    )

    pytester.runpytest("--bottle-backend=netns").assert_outcomes(passed=2)


def test_the_sibling_ends_before_its_bottle(pytester: pytest.Pytester, toy: object) -> None:
    """It comes up only where it is asked for, and lives as long as the scope says."""
    pytester.makepyfile(
        """
        def test_a(bottle): pass
        def test_b(sibling_bottle): assert sibling_bottle.topology.id == "b2"
        """
    )

    pytester.runpytest("--bottle-scope=module").assert_outcomes(passed=2)

    log = (pytester.path / "toy.log").read_text().split("\n")
    assert log[:-1] == ["open", "up b1", "up b2", "down b2", "down b1", "close"]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
@pytest.mark.usefixtures("netns_works")
def test_eight_at_once(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Eight threads make a bottle each; no two share a network or an alias, and all work."""
    test = """
        import ipaddress, itertools
        from concurrent.futures import ThreadPoolExecutor

        def test_it(make_bottle, bottle_backend):
            with ThreadPoolExecutor(8) as pool:
                bottles = list(pool.map(lambda _: make_bottle(), range(8)))
                statuses = list(pool.map(
                    lambda one: one.agent.fetch("http://allowed.test/").status, bottles
                ))
            assert statuses == [200] * 8
            networks = [
                ipaddress.ip_network(network.subnet)
                for one in bottles for network in (one.internal_network, one.egress_network)
            ]
            pairs = itertools.combinations(networks, 2)
            assert not any(one.overlaps(other) for one, other in pairs)
            assert len({one.sidecar.published_at_host for one in bottles}) == 8
            assert len({one.topology.id for one in bottles}) == 8
            assert len(files(bottle_backend)) >= 16

        def test_nothing_is_left(bottle_backend):
            assert files(bottle_backend) == []

        def files(backend):
            return [one.name for one in backend.inventory() if one.kind == "file"]
        """
    pytester.makepyfile(test_one=test, test_two=test)
    run = pytester.runpytest_subprocess if workers else pytester.runpytest

    result = run("--bottle-backend=netns", *workers, *(("--dist=loadfile",) if workers else ()))

    result.assert_outcomes(passed=4)


_INVENTORY = """
import pytest, socket

before = []

def test_first(bottle):  # some parts of the session come with its first bottle
    pass

def test_before(bottle_backend):
    before.append(bottle_backend.inventory())

{test}

def test_nothing_is_left(bottle_backend):
    assert bottle_backend.inventory() == before[0]

def test_the_next_bottle_is_fine(bottled_agent):
    assert bottled_agent.fetch("http://allowed.test/").status == 200
"""


@pytest.mark.parametrize(
    ("mark", "message", "seen"),
    [
        (
            'command=["/no/such/program"]',
            "a guest's command ended at once",
            "*/no/such/program: No such file*",
        ),
        ('command=["true"]', "a guest's command ended at once", "*exit 0*"),
        ("machine_port=TAKEN.getsockname()[1]", "the published port is taken", "*already in use*"),
    ],
    ids=["does not exist", "exits at once", "port taken"],
)
@pytest.mark.usefixtures("netns_works")
def test_a_bottle_that_does_not_come_up(
    pytester: pytest.Pytester, mark: str, message: str, seen: str
) -> None:
    """One clear error without a traceback: what, where, expected, seen, next; nothing is left."""
    test = f"""
TAKEN = socket.create_server(("127.0.0.1", 0))

@pytest.mark.bottle({mark})
def test_it(bottle):
    pass

def test_give_the_port_back():
    TAKEN.close()
"""
    pytester.makepyfile(_INVENTORY.replace("{test}", test))

    result = pytester.runpytest("--bottle-backend=netns")

    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it*",
            message,
            "  where:    *",
            "  expected: *",
            f"  seen:     {seen}",
            "  next:     *",
            "*short test summary*",
            f"ERROR *::test_it - {message[:20]}*",
        ]
    )
    result.stdout.no_fnmatch_line("*engine.py*")


@pytest.mark.usefixtures("netns_works")
def test_a_bottle_made_in_a_test_that_does_not_come_up(pytester: pytest.Pytester) -> None:
    """From ``make_bottle`` the error points to the user's line, and to none of ours."""
    test = """
def test_it(make_bottle):
    make_bottle()
    make_bottle(command=["true"])  # the guilty line
"""
    pytester.makepyfile(_INVENTORY.replace("{test}", test))

    result = pytester.runpytest("--bottle-backend=netns")

    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        [">*# the guilty line", "E *BringUpError: a guest's command ended at once"]
    )
    result.stdout.no_fnmatch_line("*engine.py*")


@pytest.mark.usefixtures("netns_works")
def test_a_command_that_cannot_be_run(pytester: pytest.Pytester) -> None:
    """``run`` of a program that does not exist raises; it never looks like a failed command."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_bottle.errors import TransportError

        def test_it(bottled_agent):
            with pytest.raises(TransportError, match="/no/such/program"):
                bottled_agent.run("/no/such/program")
            assert bottled_agent.run("false").exit_status == 1
        """
    )

    pytester.runpytest().assert_outcomes(passed=1)
