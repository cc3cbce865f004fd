"""The record of a run, in the formats that ``--bottle-report`` writes; all from one record."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bottle.reports.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Record = Mapping[str, Any]

__all__ = ["FORMATS", "SCHEMA", "record", "write"]

#: The JSON Schema of the canonical record.
SCHEMA = Path(__file__).with_name("report-1.schema.json")


def _as_json(made: Record) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


#: What a file is, by the end of its name.
FORMATS: dict[str, Callable[[Record], str]] = {".json": _as_json}


def write(path: str, made: Record) -> None:
    """Write a record whole, or leave what was there.

    Raises:
        OSError: it cannot be written there.
    """
    text = FORMATS[os.path.splitext(path)[1]](made)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    unfinished = f"{path}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
