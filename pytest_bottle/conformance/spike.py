"""The seven questions of bot-bottle's networking spike, and the checks that ask them again.

The spike (bot-bottle issue #230) was done once, by hand, on macOS 26.5.1 with Apple's ``container``
1.0.0. Its facts are numbered S1 and so on, here as in the evidence of the checks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: The marker of the checks that ask them.
MARKER: Final = "bottle_spike"


class Question(NamedTuple):
    """A question of the spike.

    Attributes:
        id: Q1 to Q7, as in the spike's own list.
        text: the question.
        recorded: the answer that the spike wrote down, with the numbers of its facts.
        checks: the IDs of those that ask it again; all of them must pass for ``held``.
        held: what it means when all of them passed.
        broken: what it means when one of them is violated.
    """

    id: str
    text: str
    recorded: str
    checks: tuple[str, ...]
    held: str
    broken: str


QUESTIONS: Final = (
    Question(
        "Q1",
        "Does an internal network stop the agent's outbound traffic?",
        "yes, by ping and by a fetch by name (S6, S7); the agent has a default route (S8)",
        ("PXY-01", "NET-01", "NET-02", "NET-03", "NET-04", "NET-05", "NET-09"),
        "yes",
        "not all of it",
    ),
    Question(
        "Q2",
        "Can a guest be put on several networks?",
        "yes, and the first gives the default route (S9 to S12)",
        ("CTL-01", "PXY-01", "QRK-01"),
        "yes; what the order decides stands in the note of QRK-01",
        "not as recorded",
    ),
    Question(
        "Q3",
        "Can the sidecar be on both networks and the agent on the internal one only?",
        "yes (S5, S10, S13)",
        ("PXY-01", "NET-01", "NET-09", "LAT-05"),
        "yes, and the sidecar is the only way",
        "not so that the sidecar is the only way",
    ),
    Question(
        "Q4",
        "Are there names by which the agent finds the sidecar?",
        "no, only an address taken from inspect is of use (S17)",
        ("DNS-10",),
        "an address does; what a name gives stands in the note",
        "not as recorded",
    ),
    Question(
        "Q5",
        "Is a port published on a loopback alias confined to it, and can a guest reach it?",
        "it is, and none can (S18 to S21)",
        ("HST-04", "HST-03"),
        "it is, and none can",
        "not as recorded",
    ),
    Question(
        "Q6",
        "Is what the engine lists enough to find everything, and to clean up?",
        "yes: inspect gives addresses, list gives the rest (S24, S26)",
        ("RES-01", "QRK-02"),
        "yes",
        "not everything",
    ),
    Question(
        "Q7",
        "Is there a better mark than a prefix of names to tell one's own by?",
        "labels exist on containers and networks, and come back in JSON (S25)",
        ("RES-05",),
        "yes: a sweep by exact identity spared everybody else",
        "not a safe one",
    ),
)

#: Every check that asks a question of the spike.
CHECKS: Final = frozenset(check for question in QUESTIONS for check in question.checks)
