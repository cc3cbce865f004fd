"""Specifications of all kinds, and the words that a file or a marker has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pytest_bottle.backends.contract import DenialForm
from pytest_bottle.spec import BottleSpec, EgressRoute, PublishedPort, SidecarSpec
from pytest_bottle.waiting import AllOf, AnyOf, Exec, File, Http, Log, Port

if TYPE_CHECKING:
    from pytest_bottle.waiting import Condition

#: What a file can hold and an operating system can take: no NUL, no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
FULL = TEXT.filter(bool)
PORTS = st.integers(1, 65535)
NAME = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z]", fullmatch=True)
HOST = st.builds("{}.test".format, NAME) | st.ip_addresses(v=4).map(str)
PATH = st.lists(NAME, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
ARGV = st.lists(TEXT, max_size=3).map(tuple).map(lambda rest: ("tool", *rest))
VARIABLES = st.dictionaries(FULL.filter(lambda name: "=" not in name), TEXT, max_size=3)
ROUTES = st.builds(EgressRoute, HOST, st.lists(PORTS, min_size=1, max_size=3).map(tuple))
PLAIN_CONDITIONS = st.one_of(
    st.builds(Port, st.integers(0, 65535)),
    st.builds(Http, PATH, st.integers(100, 599), st.integers(0, 65535)),
    st.builds(Log, NAME),
    st.builds(Exec, ARGV),
    st.builds(File, PATH),
)


def _groups(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(AllOf, several) | st.builds(AnyOf, several)


CONDITIONS = st.recursive(PLAIN_CONDITIONS, _groups, max_leaves=4)
SIDECARS = st.builds(
    SidecarSpec,
    command=ARGV,
    image=st.just("") | NAME,
    port=PORTS,
    user=st.sampled_from(["agent", "root"]),
    files=st.dictionaries(PATH, TEXT, max_size=2),
    environment=VARIABLES,
    wait=CONDITIONS,
    denial=st.builds(DenialForm, st.integers(400, 599), NAME),
    tls_opaque=st.booleans(),
)


@st.composite
def specs(draw: st.DrawFn) -> BottleSpec:
    """Draw a specification, of any kind that can be written down."""
    sidecar = draw(st.just(SidecarSpec()) | SIDECARS)
    target = st.just(0) if sidecar.is_reference else PORTS
    address = st.ip_addresses(network="127.0.0.0/8").map(str)
    publish = draw(
        st.none() | st.builds(PublishedPort, address, PORTS, st.integers(0, 65535), target)
    )
    second = draw(st.integers(0, 254))
    return BottleSpec(
        egress=tuple(draw(st.lists(ROUTES, max_size=4))),
        publish=publish,
        command=draw(st.just(()) | ARGV),
        user=draw(st.sampled_from(["agent", "root"])),
        environment=draw(VARIABLES),
        image=draw(st.just("") | NAME),
        sidecar=sidecar,
        internal_subnet=draw(st.sampled_from(["", f"10.89.{second}.0/24"])),
        egress_subnet=draw(st.sampled_from(["", f"192.168.{second}.0/29"])),
        timeout=draw(st.floats(0.1, 3600)),
    )


def words_of(spec: BottleSpec) -> dict[str, Any]:
    """Write a specification down, every word of it."""
    port = spec.publish
    target = f":{port.target}" if port and port.target else ""
    networks = {"internal": spec.internal_subnet, "egress": spec.egress_subnet}
    return {
        "egress": {"routes": [{"host": r.host, "ports": [*r.ports]} for r in spec.egress]},
        "ports": [f"{port.address}:{port.port}{target}"] if port else [],
        **({"machine_port": port.machine_port} if port else {}),
        "command": [*spec.command],
        "user": spec.user,
        "environment": dict(spec.environment),
        **({"image": spec.image} if spec.image else {}),
        **({} if spec.sidecar.is_reference else {"sidecar": _sidecar(spec.sidecar)}),
        "networks": {name: text for name, text in networks.items() if text},
        "timeout": spec.timeout,
    }


def _sidecar(spec: SidecarSpec) -> dict[str, Any]:
    return {
        "command": [*spec.command],
        **({"image": spec.image} if spec.image else {}),
        "port": spec.port,
        "user": spec.user,
        "files": dict(spec.files),
        "environment": dict(spec.environment),
        "wait": wait_of(spec.wait),
        "denial": {"status": spec.denial.status, "header": spec.denial.header},
        "tls_opaque": spec.tls_opaque,
    }


def wait_of(condition: Condition) -> dict[str, Any]:
    """Write a condition down."""
    match condition:
        case Port(number):
            return {"port": number}
        case Http(path, status, port):
            return {"http": {"path": path, "status": status, "port": port}}
        case Log(pattern):
            return {"log": pattern}
        case Exec(argv):
            return {"exec": [*argv]}
        case File(path):
            return {"file": path}
        case AllOf(conditions):
            return {"all": [wait_of(one) for one in conditions]}
        case AnyOf(conditions):
            return {"any": [wait_of(one) for one in conditions]}
