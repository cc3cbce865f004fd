"""What command lines print: JSON, read as strictly as a file of the user's."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pytest_bottle.backends.contract import DenialForm, Endpoint, Feature, Resource
from pytest_bottle.part_words import environment
from pytest_bottle.reading import Report, TooMuchError, Word, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.spec import BottleSpec

    Reader = Callable[[Word], Any]
    T = TypeVar("T")


class Net(NamedTuple):
    """A network as ``up`` tells it."""

    subnet: str
    gateway: str


class Answer(NamedTuple):
    """What ``up`` tells of a bottle; what it says nothing of is not there.

    Attributes:
        handle: a text of its own, which every later command line about the bottle gets.
    """

    handle: str = ""
    python: str = ""
    environment: Mapping[str, str] = {}
    internal: Net | None = None
    egress: Net | None = None
    agent: str = ""
    sidecar: str = ""
    sidecar_outer: str = ""
    proxy: Endpoint | None = None
    published: Endpoint | None = None
    machine_published: Endpoint | None = None
    denial: DenialForm = DenialForm()
    resolvers: tuple[str, ...] = ()
    lacks: frozenset[Feature] = frozenset()
    tls_opaque: bool = False


class Unreadable(Exception):  # noqa: N818 - it becomes an error of the package's own
    """An answer is no JSON, or says something else than was asked; its text says what."""


def topology(output: bytes) -> Answer:
    """Read what ``up`` printed; nothing at all is an answer too."""
    if not output.strip():
        return Answer()

    def read(root: Word) -> Answer:
        fields = root.fields(_FIELDS, {}, '{"handle": "4711"}')
        return Answer(**{name: _FIELDS[name](word) for name, word in fields.items()})

    return _read(output, read)


def address(output: bytes) -> str:
    """Read the address of a place: ``"10.86.0.3"``."""
    return _read(output, _address)


def resources(output: bytes) -> frozenset[Resource]:
    """Read what exists: ``[{"kind": "process", "name": "4711"}]``."""
    example = '{"kind": "process", "name": "4711"}'

    def read(word: Word) -> Resource:
        texts = {
            name: one.text('"4711"')
            for name, one in word.fields(Resource._fields, {}, example).items()
        }
        for name in set(Resource._fields) - set(texts):
            word.refuse(f"it has no {name}", example)
        return Resource(texts.get("kind", ""), texts.get("name", ""))

    return _read(output, lambda root: frozenset(map(read, root.entries(f"[{example}]"))))


def records(output: bytes) -> list[Mapping[str, object]]:
    """Read an audit record, one JSON object a line, or one list of them."""
    text = output.strip()
    if text.startswith(b"{"):
        text = b"[" + b",".join(line for line in text.splitlines() if line.strip()) + b"]"
    example = '{"host": "allowed.test", "decision": "allow"}'

    def read(word: Word) -> dict[str, object]:
        if not isinstance(word.value, dict):
            word.refuse("this is no record", example)
        return word.value if isinstance(word.value, dict) else {}

    return _read(text, lambda root: [read(word) for word in root.entries(f"[{example}]")])


def texts(output: bytes) -> dict[str, bytes]:
    """Read what each part of a bottle wrote: ``{"sidecar": "…"}``."""
    example = '{"sidecar": "what it wrote"}'

    def read(root: Word) -> dict[str, bytes]:
        return {part: one.text(example, empty=True).encode() for part, one in root.pairs(example)}

    return _read(output, read)


def specification(spec: BottleSpec) -> bytes:
    """Write down what a bottle is to be, for ``up`` to read."""
    publish = spec.publish and {"address": spec.publish.address, "port": spec.publish.port}
    words: dict[str, object] = {
        "egress": [{"host": route.host, "ports": list(route.ports)} for route in spec.egress],
        "environment": dict(spec.environment),
        "publish": publish,
        "command": list(spec.command),
        "user": spec.user,
        "image": spec.image,
        "rootfs": spec.rootfs,
        "networks": {"internal": spec.internal_subnet, "egress": spec.egress_subnet},
        "timeout": spec.timeout,
    }
    return json.dumps(words).encode() + b"\n"


def _read(output: bytes, read: Callable[[Word], T]) -> T:
    """Read JSON by a function that tells a report what is wrong.

    Raises:
        Unreadable: with everything that is wrong.
    """
    try:
        value = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"JSON; this is none: {error}") from None
    report = Report(folder="/")
    with contextlib.suppress(TooMuchError):  # the report says so
        made = read(Word(value, (), report))
    if report.problems:
        raise Unreadable("; ".join(refusal(report.problems).lines))
    return made


# -- words ---------------------------------------------------------------------------------------


def _address(word: Word) -> str:
    text = word.text('"10.86.0.2"')
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        word.refuse("this is no address", 'an IPv4 or IPv6 address, such as "10.86.0.2"')
        return ""


def _net(word: Word) -> Net:
    example = '{"subnet": "10.86.0.0/24", "gateway": "10.86.0.1"}'
    fields = word.fields(Net._fields, {}, example)
    for name in set(Net._fields) - set(fields):
        word.refuse(f"it has no {name}", example)
    subnet = fields["subnet"].text('"10.86.0.0/24"') if "subnet" in fields else ""
    try:
        ipaddress.ip_network(subnet or "10.86.0.0/24")
    except ValueError as error:
        fields["subnet"].refuse("this is no subnet", f'such as "10.86.0.0/24" ({error})')
    return Net(subnet, _address(fields["gateway"]) if "gateway" in fields else "")


def _endpoint(word: Word) -> Endpoint:
    host, colon, port = word.text('"10.86.0.2:9099"').rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
        if colon and port.isdecimal() and 0 < int(port) < 65536:
            return Endpoint(address, int(port))
    except ValueError:
        pass
    word.refuse("this is no address with a port", 'such as "10.86.0.2:9099"')
    return Endpoint("", 0)


def _denial(word: Word) -> DenialForm:
    fields = word.fields(DenialForm._fields, {}, '{"status": 403, "header": "x-denied"}')
    form = DenialForm()
    if "status" in fields:
        form = form._replace(status=fields["status"].integer("status", 100, 599))
    if "header" in fields:
        form = form._replace(header=fields["header"].text('"x-denied"').lower())
    return form


def _text(word: Word) -> str:
    return word.text('"4711"')


def _resolvers(word: Word) -> Sequence[str]:
    return tuple(map(_address, word.entries('["10.86.0.2"]')))


def _lacks(word: Word) -> frozenset[Feature]:
    known = [feature.value for feature in Feature]
    return frozenset(Feature(one.choice(*known)) for one in word.entries('["audit"]'))


_FIELDS: Mapping[str, Reader] = {
    "handle": _text,
    "python": _text,
    "environment": environment,
    "internal": _net,
    "egress": _net,
    "agent": _address,
    "sidecar": _address,
    "sidecar_outer": _address,
    "proxy": _endpoint,
    "published": _endpoint,
    "machine_published": _endpoint,
    "denial": _denial,
    "resolvers": _resolvers,
    "lacks": _lacks,
    "tls_opaque": Word.truth,
}
