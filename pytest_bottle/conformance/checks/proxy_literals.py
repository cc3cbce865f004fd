"""PXY: addresses that a sidecar must not dial, whatever its policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import inward
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.internet import zone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench

#: Who listens where: the far side owns all other addresses, the sidecar its own.
_FAR = (
    "10.99.0.7",
    "172.16.0.7",
    "192.168.0.7",
    "100.64.0.7",
    "169.254.169.254",
    "224.0.0.7",
    "fd00::7",
    "fe80::7",
)
_OWN = ("127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1")
#: Nothing can be sent to these without more than an address (RFC 4291 section 2.5.6), or by TCP.
_ROUTELESS = frozenset({"224.0.0.7", "fe80::7"})


@check(
    "PXY-10",
    "Private, loopback, link-local and metadata literals are refused",
    needs=frozenset({Feature.LAB, Feature.EVERY_ADDRESS}),
    evidence=(
        "https://github.com/NVIDIA/OpenShell/issues/59",
        "https://github.com/onyx-dot-app/onyx/pull/12242",
        "https://github.com/cocoonstack/sandbox/issues/27",
    ),
    apart=True,
    alone=True,  # the witness is asked for visits to addresses that anybody may name
)
def inward_literals_are_refused(bench: Bench) -> str:
    """Even when the policy text would allow them, the sidecar does not dial its own or internal
    addresses unless the bottle says so explicitly.
    """
    internet = bench.backend.internet
    internet.listen(tcp=[inward.PORT])
    outward = (internet.fresh_address(), inward.LISTED)
    listed = inward.listing(bench.spare, (*outward, *_FAR, *_OWN), all_hosts=True)
    with bench.another(listed) as topology:
        return _judge(bench, topology, _literals(bench, topology), outward)


def _literals(bench: Bench, topology: Topology) -> list[str]:
    own = (topology.sidecar_address, topology.sidecar_outer_address)
    gateway = (topology.egress.gateway,) if Feature.HOST_EXEC in bench.features else ()
    return [*_FAR, *_OWN, *own, *gateway]


def _judge(bench: Bench, topology: Topology, literals: list[str], outward: tuple[str, ...]) -> str:
    held = inward.conversations("PXY-10", topology, literals)
    listed = inward.conversations("listed", topology, outward)
    asked = inward.ask(bench, topology, literals, literals, held, listed)
    inward.require_listed(bench, asked, listed)
    inward.require_asked(bench, asked, {*_OWN, *_FAR} - _ROUTELESS)
    rest = [host for host in literals if host not in asked.reached]
    note = (
        f"{len(asked.reached)} addresses that answer the sidecar itself, by CONNECT and GET: none"
    )
    return f"{note}; not credited, for they do not: {', '.join(rest)}" if rest else note


# -- odd spellings ---------------------------------------------------------------------------------

#: The sidecar's own loopback, an address inside, and the metadata service.
_TARGETS = ("127.0.0.1", "10.99.0.7", "169.254.169.254")
#: What else leads to the sidecar itself.
_ALSO_OWN = ("0", "0.0", "0x0", "127.1", "[::]", "[::1]", "[0:0::0:1]", "[::1%lo]", "[::1%25lo]")


def _spellings(address: str) -> Iterator[str]:
    """Write an IPv4 address as no two readers do (inet_aton(3), RFC 4291 2.5.5, RFC 6874)."""
    a, b, c, d = map(int, address.split("."))
    number = (a << 24) + (b << 16) + (c << 8) + d
    halves = f"{number >> 16:x}:{number & 0xFFFF:x}"
    yield f"{number}"
    yield f"0x{number:x}"
    yield f"0X{number:X}"
    yield f"0{number:o}"
    yield f"000000{number:o}"
    yield f"{a}.{number & 0xFFFFFF}"
    yield f"{a}.0x{number & 0xFFFFFF:x}"
    yield f"{a}.{b}.{c << 8 | d}"
    yield f"0x{a:x}.0{b:o}.{c}.{d}"
    yield f"0{a:03o}.0{b:03o}.0{c:03o}.0{d:03o}"
    yield f"{a}.{b}.{c}.{d}."
    yield f"[{a}.{b}.{c}.{d}]"
    yield f"[::ffff:{a}.{b}.{c}.{d}]"
    yield f"[::ffff:{halves}]"
    yield f"[0:0:0:0:0:FFFF:{halves}]"
    yield f"[::ffff:{halves}%25eth0]"
    yield nip(address)


def nip(address: str) -> str:
    """A name that holds an address, as wildcard DNS services have it."""
    return f"{address.replace('.', '-')}.{zone.SPELLED}"


@check(
    "PXY-14",
    "IP literals in odd spellings are still IP literals",
    severity=Severity.HIGH,
    needs=frozenset({Feature.LAB, Feature.EVERY_ADDRESS}),
    evidence=(
        "agentcage security model",
        "https://github.com/NVIDIA/OpenShell/issues/1498",
    ),
    apart=True,
    alone=True,  # as for PXY-10
)
def odd_spellings_are_literals(bench: Bench) -> str:
    """Decimal, octal, hexadecimal, short and mixed forms, leading zeros, IPv4 in IPv6, zones,
    variants of brackets, and names that the DNS turns into such an address are refused or brought
    to one spelling before the address is judged: none leads the sidecar to an address inside, even
    where its policy lists every host.
    """
    internet = bench.backend.internet
    internet.listen(tcp=[inward.PORT])
    names = (nip(address) for address in _TARGETS)
    listed = inward.listing(bench.spare, (inward.LISTED, *_TARGETS, *names), all_hosts=True)
    with bench.another(listed) as topology:
        return _judge_spellings(bench, topology)


def _judge_spellings(bench: Bench, topology: Topology) -> str:
    spelled = [text for address in _TARGETS for text in _spellings(address)]
    texts = [*spelled, *_ALSO_OWN]
    bare = {text: text.strip("[]").replace("%25", "%") for text in texts}
    held = inward.conversations("PXY-14", topology, texts)
    listed = inward.conversations("listed", topology, [inward.LISTED])
    hosts = dict.fromkeys((*_TARGETS, *bare.values()))
    asked = inward.ask(bench, topology, hosts, _TARGETS, held, listed)
    inward.require_listed(bench, asked, listed)
    # What this machine's own library reads as the address is what matters; that differs.
    usual = [str(next(_spellings(address))) for address in _TARGETS]
    inward.require_asked(bench, asked, [*_TARGETS, *usual, *map(nip, _TARGETS)])
    credited = [text for text in texts if bare[text] in asked.reached]
    rest = [text for text in texts if text not in credited]
    note = f"{len(credited)} spellings that lead the sidecar itself there, by CONNECT and GET: none"
    return f"{note}; not credited, for they do not: {', '.join(rest)}" if rest else note
