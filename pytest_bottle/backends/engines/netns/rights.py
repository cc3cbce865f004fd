"""Users of a guest beyond the three: who they are, and what they may do there."""

from __future__ import annotations

from typing import NamedTuple

from pytest_bottle.backends.engines.netns import confine, linux


class Rights(NamedTuple):
    """Who a command runs as that runs as none of the three users, and what it may do.

    Root (uid 0) lives in the server's user namespace and has the capabilities in the guest's own
    network namespace; anybody else has none that are effective.

    Attributes:
        uid: the user, as seen inside.
        gid: the group.
        capabilities: the bounding set; for root also what is permitted and effective.
        settings: whether ``/proc/sys`` is uncovered, as a virtual machine of one's own has it.
    """

    uid: int
    gid: int
    capabilities: frozenset[int]
    settings: bool = False


def grant(user_namespace: int | None, seccomp: bytes, rights: Rights) -> None:
    """Leave to the calling process just what ``rights`` say, in the namespace of its user.

    The filter and the limits are everybody's. Privileges may be gained, as in a machine of one's
    own; nothing that is mounted in a guest gives any.
    """
    if user_namespace is not None:
        linux.setns(user_namespace, linux.CLONE_NEWUSER)
    confine.limit()
    linux.install_filter(seccomp)
    effective = rights.capabilities if rights.uid == 0 else frozenset[int]()
    linux.set_capabilities(
        bounding=rights.capabilities, effective=effective, inheritable=frozenset()
    )
