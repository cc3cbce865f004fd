"""How ``container`` prints: JSON as Foundation's encoder writes it, and tables."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def compact(value: Any) -> str:
    """One line: keys sorted, no blanks, ``/`` escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _escaped(text)


def pretty(value: Any, indent: str = "") -> str:
    """Many lines, two blanks for each level, and a blank before each colon."""
    deeper = f"{indent}  "
    if isinstance(value, dict):
        lines = [f'{deeper}"{key}" : {pretty(value[key], deeper)}' for key in sorted(value)]
        return _block("{", lines, f"{indent}}}")
    if isinstance(value, list):
        return _block("[", [f"{deeper}{pretty(one, deeper)}" for one in value], f"{indent}]")
    return _escaped(json.dumps(value, ensure_ascii=False))


def _block(start: str, lines: Sequence[str], end: str) -> str:
    return "\n".join([start, ",\n".join(lines), end])  # an empty one has an empty line


def _escaped(text: str) -> str:
    return text.replace("/", "\\/")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns, each as wide as its widest word and two blanks; nothing behind the last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = (word.ljust(width) for word, width in zip(row, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def now() -> str:
    """The time, as dates look in JSON."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def old_container(one: dict[str, Any]) -> dict[str, Any]:
    """A container as versions before 1.0.0 print it: flat, the state a string."""
    status = one["status"]
    flat = {
        "configuration": one["configuration"],
        "networks": status["networks"],
        "status": status["state"],
    }
    return flat | {key: status[key] for key in ("startedDate",) if key in status}


def old_network(one: dict[str, Any]) -> dict[str, Any]:
    """A network as versions before 1.0.0 print it."""
    return {
        "config": one["configuration"],
        "id": one["id"],
        "state": "running",
        "status": one["status"],
    }
