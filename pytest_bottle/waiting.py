"""When a part of a bottle counts as ready, as data.

A backend polls: 50 ms after the first look, growing to 1 s, until it is so, the part is dead, or
the time is over. A port is looked at from where its visitors sit, the internal network: on the way
there others may accept before the service listens (testcontainers-python issue 1114).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port accepts; 0 stands for the port of the sidecar's proxy."""

    number: int = 0


@dataclass(frozen=True, slots=True)
class Http:
    """A GET of ``path`` is answered with ``status``; port 0 stands for the proxy's."""

    path: str
    status: int = 200
    port: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the part's output matches a regular expression (:func:`re.search`)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Exec:
    """A command, run in the part's guest, ends with status 0."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class File:
    """A file exists in the part's guest."""

    path: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of these."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these."""

    conditions: tuple[Condition, ...]


Condition = Port | Http | Log | Exec | File | AllOf | AnyOf
