"""What the file of a command backend says, as values, and what it makes possible."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import FAULTS_OF, FEATURE_OF, Feature, User, Vantage

if TYPE_CHECKING:
    from collections.abc import Mapping

    Line = tuple[str, ...]

#: What stands behind each place that a command can be run at; None is had by every backend.
PLACES: Mapping[str, Feature | None] = MappingProxyType(
    {
        "agent": None,
        "root": Feature.EXEC_ROOT,
        **{one.value: FEATURE_OF.get(one) for one in Vantage if one is not Vantage.AGENT},
    }
)
#: Places whose addresses others must be able to ask for.
ADDRESSED = tuple(one.value for one in FEATURE_OF if one is not Vantage.HOST)
#: The other command lines, and the feature that each of them is.
VERBS: Mapping[str, Feature | None] = MappingProxyType(
    {
        "up": None,
        "down": None,
        "address": None,
        "inventory": Feature.INVENTORY,
        "audit": Feature.AUDIT,
        "fault": Feature.FAULT,
        "logs": None,
        "residue": Feature.SESSION,
        "sweep": Feature.SESSION,
    }
)
#: Features that the file has to say: no command line stands for them, or none that does no more.
FAULTS = tuple(feature for feature in FAULTS_OF if feature is not Feature.FAULT)
SAID = (Feature.PUBLISH, Feature.IPV6, Feature.HOST_APART, Feature.TRANSPARENT, *FAULTS)
#: Words of a bottle that ``up`` may or may not understand.
WORDS = ("command", "image", "rootfs", "networks")
#: What a machine inside the lab has by itself.
OF_THE_LAB = frozenset({Feature.LAB, Feature.EVERY_ADDRESS, Feature.OPEN_GUEST, Feature.IPV6})


@dataclass(frozen=True, slots=True)
class Orders:
    """A backend out of command lines.

    Attributes:
        source: the file that says so, as messages name it.
        path: of that file, absolute.
        name: of the sandbox, for people.
        version: of the sandbox.
        inside_lab: whether everything about a bottle runs on a machine whose only uplink is the
            lab.
        python: the interpreter in the guests, where ``up`` names no other.
        deadline: seconds for each command line but ``up`` and those of ``exec``.
        places: by place, the command line that runs a program there.
        verbs: the other command lines.
        said: features that no command line stands for.
        accepts: words of a bottle that ``up`` understands.
    """

    source: str
    path: str
    name: str = "sandbox"
    version: str = "unknown"
    inside_lab: bool = False
    python: str = "python3"
    deadline: float = 30.0
    places: Mapping[str, Line] = field(default_factory=dict)
    verbs: Mapping[str, Line] = field(default_factory=dict)
    said: frozenset[Feature] = frozenset()
    accepts: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """Where every command line is run: the file's own folder."""
        return os.path.dirname(self.path)

    @property
    def features(self) -> frozenset[Feature]:
        """What the backend can do: what is mapped, and what is said."""
        mapped = {PLACES[place] for place in self.places} | {VERBS[verb] for verb in self.verbs}
        own = frozenset(feature for feature in mapped if feature is not None) | self.said
        return own | OF_THE_LAB if self.inside_lab else own


def place_of(vantage: Vantage, user: User) -> str:
    """Name the place of a command, as the file does."""
    return "root" if vantage is Vantage.AGENT and user is User.ROOT else vantage.value
