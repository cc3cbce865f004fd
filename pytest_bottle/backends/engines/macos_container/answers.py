"""What ``container`` prints as JSON, read tolerantly but with strict types.

Fields that we do not know are passed over; a field that we need and that is missing, of another
type, or has a word in it that nobody has told us of, is an error which quotes the command line, its
exit status and the first bytes, and names the file with all of it. The shapes are those of 1.0.0 to
1.2.2, derived from Apple's source; nothing here was captured on a Mac.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pytest_bottle.backends.engines.cli import failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.running import Said
    from pytest_bottle.errors import TransportError

_T = TypeVar("_T")
_Named = TypeVar("_Named", "Container", "Network")
#: The API server assigns the first two; the third is in its list of states too.
STATES: Final = ("running", "stopped", "stopping")
MODES: Final = ("nat", "hostOnly")
_ROLE: Final = "com.apple.container.resource.role"


class Attachment(NamedTuple):
    """A guest's leg on a network: its address without the prefix length."""

    network: str
    address: str
    gateway: str


class Container(NamedTuple):
    """A container, as ``list`` and ``inspect`` show it; ``legs`` is empty when it is stopped."""

    name: str
    state: str
    labels: Mapping[str, str]
    legs: tuple[Attachment, ...]


class Network(NamedTuple):
    """A network, as ``network list`` and ``network inspect`` show it."""

    name: str
    mode: str
    labels: Mapping[str, str]
    subnet: str
    gateway: str
    subnet6: str

    @property
    def is_builtin(self) -> bool:
        """Whether it is Apple's own."""
        return _ROLE in self.labels


class Component(NamedTuple):
    """A part of the installation, as ``system version`` shows it; ``build`` is how it was made."""

    name: str
    version: str
    build: str


def containers(said: Said, place: str) -> tuple[Container, ...]:
    """Read a list of containers.

    Raises:
        TransportError: it is none.
    """
    return tuple(_container(item) for item in _Value.of(said, place).items())


def networks(said: Said, place: str) -> tuple[Network, ...]:
    """Read a list of networks.

    Raises:
        TransportError: it is none.
    """
    return tuple(_network(item) for item in _Value.of(said, place).items())


def all_of(names: Sequence[str], found: Sequence[_Named], said: Said, place: str) -> list[_Named]:
    """Give the things that were asked for by name, in that order: the answer's is its own.

    Raises:
        TransportError: the answer has not all of them, or more.
    """
    by_name = {one.name: one for one in found}
    if len(found) != len(names) or set(by_name) != set(names):
        seen = ", ".join(one.name for one in found) or "nothing"
        raise failure(
            said,
            place,
            what="an answer of the container command cannot be understood",
            expected=f"{', '.join(names)}; seen {seen}",
        )
    return [by_name[name] for name in names]


def components(said: Said, place: str) -> tuple[Component, ...]:
    """Read what ``system version`` says: the command line's part, and the service's if it answers.

    Raises:
        TransportError: it is something else.
    """
    return tuple(
        Component(*(item.at(key).text() for key in ("appName", "version", "buildType")))
        for item in _Value.of(said, place).items()
    )


def status(said: Said, place: str) -> str:
    """Read the one word that ``system status`` has in every version.

    Raises:
        TransportError: there is none.
    """
    return _Value.of(said, place).at("status").text()


def image_count(said: Said, place: str) -> int:
    """Count the images that ``image inspect`` shows.

    Raises:
        TransportError: it is no list of images.
    """
    return len([item.at("id").text() for item in _Value.of(said, place).items()])


def _container(item: _Value) -> Container:
    state = item.at("status")
    return Container(
        item.at("id").text(),
        state.at("state").one_of(STATES),
        item.at("configuration").at("labels").texts(),
        tuple(_attachment(leg) for leg in state.at("networks").items()),
    )


def _attachment(item: _Value) -> Attachment:
    return Attachment(
        item.at("network").text(),
        item.at("ipv4Address").interface(),
        item.at("ipv4Gateway").address(),
    )


def _network(item: _Value) -> Network:
    configured, state = item.at("configuration"), item.at("status")
    six = state.maybe("ipv6Subnet")
    return Network(
        item.at("id").text(),
        configured.at("mode").one_of(MODES),
        configured.at("labels").texts(),
        state.at("ipv4Subnet").subnet(),
        state.at("ipv4Gateway").address(),
        six.subnet() if six else "",
    )


class _Value:
    """A value within an answer; knows where it is, for the error's sake."""

    def __init__(self, said: Said, place: str, value: object, path: str) -> None:
        self._said, self._place, self._value, self._path = said, place, value, path

    @classmethod
    def of(cls, said: Said, place: str) -> _Value:
        """Read a whole answer."""
        whole = cls(said, place, None, "")
        try:
            return cls(said, place, json.loads(said.stdout.decode()), "")
        except UnicodeDecodeError as error:
            raise whole._error("UTF-8", f"byte {error.start} is not") from None
        except ValueError as error:
            raise whole._error("JSON, whole", str(error)) from None
        except RecursionError:
            raise whole._error("JSON", "one that is nested too deeply") from None

    def _error(self, expected: str, seen: str) -> TransportError:
        what = "an answer of the container command cannot be understood"
        where = f" at {self._path}" if self._path else ""
        return failure(
            self._said,
            self._place,
            what=what,
            expected=f"{expected}{where}; seen {seen[:200]}",
            next_step="if this is a newer version of container, use one from 1.0.0 to 1.2.2",
        )

    def _is(self, kind: type[_T], name: str) -> _T:
        if not isinstance(self._value, kind) or isinstance(self._value, bool):
            raise self._error(name, json.dumps(self._value))
        return self._value

    def at(self, key: str) -> _Value:
        """Give a field that has to be there."""
        fields = self._is(dict, "an object")
        if key not in fields:
            raise self._error(f"a field {key!r}", f"only {sorted(fields)}")
        return _Value(self._said, self._place, fields[key], f"{self._path}.{key}")

    def maybe(self, key: str) -> _Value | None:
        """Give a field that may be absent."""
        return self.at(key) if self._is(dict, "an object").get(key) is not None else None

    def items(self) -> list[_Value]:
        """Give the items of a list."""
        found = enumerate(self._is(list, "a list"))
        return [_Value(self._said, self._place, v, f"{self._path}[{n}]") for n, v in found]

    def text(self) -> str:
        """Give a text that is not empty."""
        text = self._is(str, "a text")
        if not text:
            raise self._error("a text", "an empty one")
        return text

    def texts(self) -> dict[str, str]:
        """Give an object of texts, empty ones too."""
        fields = self._is(dict, "an object")
        values = {key: self.at(key) for key in fields}
        return {key: value.maybe_empty() for key, value in values.items()}

    def maybe_empty(self) -> str:
        """Give a text, perhaps an empty one."""
        return self._is(str, "a text")

    def one_of(self, words: tuple[str, ...]) -> str:
        """Give a word of a list that is closed."""
        word = self.text()
        if word not in words:
            raise self._error(f"one of {', '.join(words)}", repr(word))
        return word

    def address(self) -> str:
        """Give an IPv4 address."""
        text = self.text()
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise self._error("an IPv4 address", repr(text)) from None

    def interface(self) -> str:
        """Give the address of ``address/prefix``."""
        text = self.text()
        try:
            return str(ipaddress.IPv4Interface(text).ip)
        except ValueError:
            raise self._error("an IPv4 address and prefix", repr(text)) from None

    def subnet(self) -> str:
        """Give a subnet; how IPv6 is written varies."""
        text = self.text()
        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise self._error("a subnet", repr(text)) from None
