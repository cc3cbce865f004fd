"""What the report of a failed test shows of its bottles: what each part wrote last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.errors import BottleError, NotSupported
from pytest_bottle.internet.lab import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.internet.records import Entry, Heard

#: How many lines of each part are shown, and how many characters of each line.
LINES, WIDTH = 50, 300
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
#: Up to where the far side of a backend has been read: no failure reads all of it again.
_READ = pytest.StashKey[dict[int, tuple[Mark, int]]]()


def put_on(
    report: pytest.TestReport,
    item: pytest.Item,
    bottles: Sequence[tuple[Backend, Topology]],
    since: int,
) -> None:
    """Give a report a section for each part of its bottles that has something to say.

    JUnit files get the same texts as properties: pytest puts sections there only on demand.

    Args:
        report: of a failure.
        item: whose report it is.
        bottles: that the item uses.
        since: when the test began, by CLOCK_MONOTONIC in nanoseconds.
    """
    read = item.config.stash.setdefault(_READ, {})
    sections = [one for backend, bottle in bottles for one in _written(backend, bottle)]
    backends = {id(backend): backend for backend, _ in bottles}
    sections += [one for backend in backends.values() for one in _far_side(backend, since, read)]
    for title, text in sections:
        report.sections.append((title, text))
        item.user_properties.append((title, text))
        report.user_properties.append((title, text))


def _written(backend: Backend, bottle: Topology) -> Iterator[tuple[str, str]]:
    """What the parts of a bottle wrote; only its backend knows which parts those are."""
    title = f"bottle {bottle.id}"
    parts = _read(lambda: dict(backend.logs(bottle)))
    if isinstance(parts, str):
        yield title, parts
        return
    for part, raw in parts.items():
        if raw:
            yield f"{title}: {part}", _last(raw.decode(errors="replace").splitlines())


def _far_side(
    backend: Backend, since: int, read: dict[int, tuple[Mark, int]]
) -> Iterator[tuple[str, str]]:
    """What arrived at the far side since the test began."""
    mark, entry = read.get(id(backend), (Mark(0, 0, 0), 0))
    try:
        internet = backend.internet
        hearing = internet.heard(mark)
        origin = getattr(internet, "origin", None)  # the lab's; others may have none
        entries: Sequence[Entry] = origin.log(entry) if origin else ()
    except NotSupported:
        return  # no far side, nothing to be heard there
    except Exception as error:  # noqa: BLE001 - a report must not fail over its own ornaments
        yield "bottles: far side", _unreadable(error)
        return
    read[id(backend)] = (hearing.end, max((one.n for one in entries), default=entry))
    if requests := [_request(one, since) for one in entries if one.time_ns >= since]:
        yield "bottles: requests at the far side", _last(requests)
    if packets := [_packet(one, since) for one in hearing.traffic if one.time_ns >= since]:
        yield "bottles: packets at the far side", _last(packets)


def _read(look: Callable[[], dict[str, bytes]]) -> dict[str, bytes] | str:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - a report must not fail over its own ornaments
        return _unreadable(error)


def _unreadable(error: Exception) -> str:
    what = error.what if isinstance(error, BottleError) else str(error)
    return f"nothing can be read: {type(error).__name__}: {what}"


def _last(lines: Sequence[str]) -> str:
    left_out = len(lines) - LINES
    head = [f"… {left_out} lines before these"] if left_out > 0 else []
    return "\n".join([*head, *(_cut(line) for line in lines[-LINES:])])


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[:WIDTH]}…"


def _request(one: Entry, since: int) -> str:
    what = {
        "http": f"{one.method} {one.scheme}://{one.host}{one.path}",
        "dns": f"{one.name} type {one.qtype}",
        "tls": f"hello for {one.name or 'no name'}",
    }.get(one.kind, "connection")
    return (
        f"{_when(one.time_ns, since)} {one.kind:<4} {one.client}:{one.client_port} > "
        f"{one.server}:{one.port} {what} {one.note}".rstrip()
    )


def _packet(one: Heard, since: int) -> str:
    protocol = _PROTOCOLS.get(one.proto, str(one.proto))
    ends = " > ".join(_joined(host, port) for host, port in _ends(one))
    flags = f" flags {one.flags:#04x}" if one.proto == 6 else ""
    payload = f" {one.payload[:40]!r}" if one.payload else ""
    return f"{_when(one.time_ns, since)} {protocol:<4} {ends}{flags}{payload}"


def _ends(one: Heard) -> Iterable[tuple[str, int | None]]:
    return (one.src, one.sport), (one.dst, one.dport)


def _joined(host: str, port: int | None) -> str:
    return host if port is None else f"{host}:{port}"


def _when(time_ns: int, since: int) -> str:
    return f"+{(time_ns - since) / 1e9:.3f} s"
