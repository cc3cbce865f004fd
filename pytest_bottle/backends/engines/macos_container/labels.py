"""Names and labels: how everything of a session can be told from everything else on a shared Mac.

Names follow the stricter of Apple's rules, those of networks: 2 to 63 of ``a-z 0-9 -``. Labels say
whose it is; they alone decide what may be removed, never a name's beginning.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_bottle.cleanup.identity import Owner
from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

SESSION, OWNER, ROLE = "bottle.session", "bottle.owner", "bottle.role"
_KIND: Final = "container"
_LONGEST: Final = 63


class Session(NamedTuple):
    """A session: the word that its names begin with, and the process that opened it."""

    mark: str
    owner: Owner

    def __str__(self) -> str:
        return f"{_KIND}:{self.mark}:{self.owner}"

    @classmethod
    def fresh(cls) -> Session:
        """Identify one that this process opens."""
        return cls(uuid.uuid4().hex[:8], Owner.of_us())

    @classmethod
    def parse(cls, text: str) -> Session:
        """Read what ``str`` gave.

        Raises:
            ConfigurationError: it is the identity of something else.
        """
        found = re.fullmatch(rf"{_KIND}:([0-9a-f]{{8}}):(\S+)", text)
        owner = Owner.parse(found[2]) if found else None
        if found is None or owner is None:
            raise ConfigurationError(
                "this does not identify a session of the container engine",
                where=repr(text),
                expected="what `session` of a macos-container backend said",
            )
        return cls(found[1], owner)

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Session | None:
        """Tell whose something is by its labels; None if it is nobody's of ours."""
        mark, owner = labels.get(SESSION, ""), Owner.parse(labels.get(OWNER, ""))
        return cls(mark, owner) if owner and re.fullmatch("[0-9a-f]{8}", mark) else None

    def name(self, part: str) -> str:
        """Give the name that a part of ours has at the engine."""
        plain = re.sub("[^a-z0-9-]+", "-", part.lower()).strip("-")
        name = f"bottle-{self.mark}-{plain}"
        if len(name) > _LONGEST or not plain:
            digest = hashlib.sha256(part.encode()).hexdigest()[:8]
            name = f"{name[: _LONGEST - 9].rstrip('-')}-{digest}"
        return name

    def labels(self, part: str) -> list[str]:
        """Give the options that label a part of ours."""
        pairs = {SESSION: self.mark, OWNER: str(self.owner), ROLE: re.sub("=", "-", part)}
        return [word for key, text in pairs.items() for word in ("--label", f"{key}={text}")]
