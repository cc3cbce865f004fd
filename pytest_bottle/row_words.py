"""The words of ``policy``: rows of the user's own, which the conformance suite judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.rows import (
    EXPECTATIONS,
    ID,
    MOST_ROWS,
    ORIGINS,
    PREFIX,
    WAYS,
    Row,
    Target,
    default_way,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.reading import Word

#: The words of a row.
ROW = ("id", "from", "to", "expect", "via")
_EXAMPLE = "{to: db.internal:5432/tcp, expect: blocked}"


def policy(word: Word) -> tuple[Row, ...]:
    """Read rows; one without an ID gets that of its place, ``USER-1`` for the first."""
    entries = word.entries(f"[{_EXAMPLE}]")
    if len(entries) > MOST_ROWS:
        word.refuse("these are too many rows", f"at most {MOST_ROWS}", str(len(entries)))
        return ()
    read = [(entry, entry.fields(ROW, {}, _EXAMPLE)) for entry in entries]
    taken = {f"{PREFIX}{n}" for n, (_, fields) in enumerate(read, 1) if "id" not in fields}
    rows = []
    for number, (entry, fields) in enumerate(read, 1):
        identity = _identity(fields["id"], taken) if "id" in fields else f"{PREFIX}{number}"
        rows.append(_row(entry, fields, identity))
    return tuple(filter(None, rows))


def _identity(word: Word, taken: set[str]) -> str:
    """Read an ID; each may stand once."""
    identity = word.text(f"{PREFIX}DB")
    if identity in taken:
        word.refuse("this ID stands here twice", "an ID of its own for each row")
    elif identity and not identity.startswith(PREFIX) and _is_the_catalogues(identity):
        expected = f"an ID of your own, such as {PREFIX}{identity}"
        word.refuse("this ID is the catalogue's", expected)
    elif identity and not ID.match(identity):
        expected = f"{PREFIX} and up to 32 of A-Z, 0-9, - and _, such as {PREFIX}DB"
        word.refuse("this is no ID of a row", expected)
    taken.add(identity)
    return identity


def _is_the_catalogues(identity: str) -> bool:
    from pytest_bottle.conformance.registry import all_checks  # only for who made a mistake

    return any(check.id == identity for check in all_checks())


def _row(entry: Word, fields: Mapping[str, Word], identity: str) -> Row | None:
    for name, example in (("to", "db.internal:5432/tcp"), ("expect", " or ".join(EXPECTATIONS))):
        if entry.is_mapping and name not in fields:
            entry.refuse(f"this row says nothing of {name!r}", f"{name}: {example}")
    origin = fields["from"].choice(*ORIGINS) if "from" in fields else ORIGINS[0]
    expect = fields["expect"].choice(*EXPECTATIONS) if "expect" in fields else ""
    target = _target(fields["to"]) if "to" in fields else None
    via = fields["via"].choice(*WAYS) if "via" in fields else ""
    if target is None or not expect:
        return None
    via = via or default_way(origin, expect, target.protocol)
    _check_way(fields, origin, via, target)
    return Row(identity, target, expect, origin, via)


def _target(word: Word) -> Target | None:
    text = word.text("db.internal:5432/tcp")
    return word.attempt(lambda: Target.parse(text)) if text else None


def _check_way(fields: Mapping[str, Word], origin: str, via: str, target: Target) -> None:
    if via == "proxy" and origin != "agent":
        fields["via"].refuse("only the agent has a proxy", "via: direct", f"from: {origin}")
    if via == "proxy" and target.protocol != "tcp":
        seen = f"to: {target}"
        fields["via"].refuse("a proxy carries nothing but tcp", "via: direct", seen)
    if origin == "privileged" and target.family == 6:
        what = "the privileged probe hands packets to the gateway, which has no IPv6 address"
        fields["to"].refuse(what, "an IPv4 address or a name")
