"""What a check sees: one bottle, the survey's evidence, and ways to judge."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_bottle import rerunning
from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import conditions, rows, ruling, survey, telling
from pytest_bottle.conformance.ahead import Ahead
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import (
    UNKNOWN,
    BottleError,
    BringUpError,
    Facts,
    Inconclusive,
    NotSupported,
    TransportError,
    Violation,
)
from pytest_bottle.firing import run_one
from pytest_bottle.spec import DEFAULT_EGRESS, PLAIN
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.conformance.ruling import Judged
    from pytest_bottle.conformance.runs import Reopening
    from pytest_bottle.conformance.survey import Evidence
    from pytest_bottle.firing import Record
    from pytest_bottle.spec import BottleSpec


@dataclass(slots=True)
class _Common:
    """What all checks of a bench share, made when one of them first asks for it.

    ``claims`` are those that a check had judged, and ``took`` the seconds that it ran, by its ID.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    sibling: Topology | None = None
    described: Topology | None = None
    evidence: Evidence | None = None
    blind: dict[str, str] = field(default_factory=dict)
    claims: dict[str, list[Judged]] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)


class Bench:
    """The suite's bottle on a backend.

    A check that runs sees a bench of its own, on what all have in common: several may run at once.

    Args:
        backend: the subject.
        spec: what its bottle is; of this the egress routes and the agent's command are the suite's.
        reopening: how another run of pytest comes to the same backend; None leaves it to the
            backend's own name.
        checks: whose stimuli the survey fires; None for the package's own and the rows of ``spec``.
        thorough: take the catalogue's durations and numbers of repeats, not the quick ones.
        allow_host_faults: let checks change a host that is not made for the session.
        ahead: the checks that will be run; of these some may run ahead, beside each other.
        rerun: writes the command line that runs a check alone; None knows the backend's name only.
    """

    def __init__(
        self,
        backend: Backend,
        spec: BottleSpec = PLAIN,
        reopening: Reopening | None = None,
        *,
        checks: Sequence[Check] | None = None,
        thorough: bool = False,
        allow_host_faults: bool = False,
        ahead: Iterable[Check] = (),
        rerun: Callable[[str], str] | None = None,
    ) -> None:
        self.backend = backend
        own = (*all_checks(), *rows.checks_of(spec.policy))
        self._checks = own if checks is None else checks
        self.thorough = thorough
        self.allow_host_faults = allow_host_faults
        self._reopening = reopening
        self._rerun = rerun
        self._described = replace(spec.spare, command=())
        self.spec = replace(spec, egress=DEFAULT_EGRESS, command=())
        self.topology = backend.up(self.spec)
        self._common = _Common()
        self._check: Check | None = None
        self._ahead = Ahead(ahead, self._run)

    def close(self) -> None:
        """Take the bottle down, and the others that checks have in common."""
        with contextlib.ExitStack() as stack:
            common = self._common
            for topology in filter(None, (self.topology, common.sibling, common.described)):
                stack.callback(self.backend.down, topology)
            stack.callback(self.finish)

    def finish(self) -> None:
        """Wait for the checks that run ahead; nobody will ask for the others any more."""
        self._ahead.close()

    @property
    def features(self) -> frozenset[Feature]:
        """What the backend can do, with this bottle."""
        return self.backend.describe().features - self.topology.lacks

    @property
    def spare(self) -> BottleSpec:
        """What a further bottle is: networks and published address are the backend's choice."""
        return self.spec.spare

    @property
    def sibling(self) -> Topology:
        """A second bottle of the same backend, brought up when a check first asks for it."""
        with self._common.lock:
            if self._common.sibling is None:
                self._common.sibling = self.backend.up(self.spare)
            return self._common.sibling

    @property
    def described(self) -> Topology:
        """A bottle with the routes of the specification itself, brought up when first asked for."""
        with self._common.lock:
            if self._common.described is None:
                self._common.described = self.backend.up(self._described)
            return self._common.described

    @contextlib.contextmanager
    def another(self, spec: BottleSpec | None = None) -> Iterator[Topology]:
        """Lend out a bottle for one check alone, which may break it."""
        topology = self.backend.up(spec or self.spare)
        try:
            yield topology
        finally:
            self.backend.down(topology)

    @property
    def reopening(self) -> Reopening:
        """How another run of pytest comes to the same backend."""
        if self._reopening is None:
            from pytest_bottle.conformance.runs import Reopening

            self._reopening = Reopening.of(self.backend.describe().name, self._option())
        return self._reopening

    def _option(self) -> str:
        info = self.backend.describe()
        return f"--bottle-{f'mutant={info.mutant}' if info.mutant else f'backend={info.name}'}"

    def run(self, check: Check) -> str:
        """Run one check; returns its note.

        Raises:
            Violation: the property does not hold.
            Inconclusive: nothing can be concluded.
            NotSupported: the backend lacks a feature that it needs.
        """
        return self._ahead.outcome(check)

    def _run(self, check: Check) -> str:
        missing = check.needs - self.features
        if missing:
            raise NotSupported(
                f"{check.id} is not supported by backend {self.backend.describe().name}",
                expected=", ".join(sorted(feature.value for feature in check.needs)),
                seen="without " + ", ".join(sorted(feature.value for feature in missing)),
            )
        mine = copy.copy(self)
        mine._check = check  # noqa: SLF001 - our own kind
        began = time.monotonic()
        try:
            if Feature.LAB in check.needs:  # also for who runs alone, without the survey
                self.backend.trust()
            note = check.body(mine)
        except (BringUpError, Inconclusive, TransportError) as error:
            # Raised where nobody knows the check, or by the backend itself: nothing was found out.
            if getattr(error, "facts", UNKNOWN) is UNKNOWN:
                raise mine.inconclusive(_said(error)) from error
            raise
        finally:
            self._common.took[check.id] = time.monotonic() - began
        if self.surveyed and check in self.claimants and (why := self.blind(check)):
            raise mine.inconclusive(why)
        return note

    def claims_of(self, check: Check) -> list[Judged]:
        """The claims that a check has had judged; none for one that acts by itself."""
        return self._common.claims.get(check.id, [])

    def took(self, check: Check) -> float:
        """How long a check ran, in seconds; others may have run at the same time."""
        return self._common.took.get(check.id, 0.0)

    @property
    def evidence(self) -> Evidence:
        """The survey's evidence; fired once, when the first check asks for it."""
        with self._common.lock:
            if self._common.evidence is None:
                self._common.evidence = survey.conduct(self.backend, self.topology, self._checks)
            return self._common.evidence

    @property
    def surveyed(self) -> bool:
        """Whether the survey has been fired."""
        return self._common.evidence is not None

    def probe(
        self,
        vantage: Vantage,
        what: Mapping[str, object],
        *,
        user: User = User.AGENT,
        topology: Topology | None = None,
    ) -> Record:
        """Run one operation of the probe at a vantage point, of the sibling's perhaps."""
        return run_one(self.backend, topology or self.topology, vantage, what, user=user)

    # -- judging -------------------------------------------------------------------

    def judged(self, check: str) -> list[Judged]:
        """Judge every claim of a check."""
        unmet = self.unmet()
        found = ruling.judge_claims(self.evidence, check, unmet)
        judged = found + rows.judged(self.evidence, check, unmet)
        self._common.claims[check] = judged
        return judged

    def unmet(self) -> str:
        """Name the condition of the whole survey that is not met; empty if all are."""
        return conditions.broken_probe(self.evidence) or conditions.broken_path(self.evidence)

    def require_blocked(self) -> str:
        """Require that every claim and sweep of the check that runs was blocked.

        Returns:
            the mechanisms.
        """
        check = self.current.id
        swept = ruling.judge_sweeps(self.evidence, check, self.unmet())
        verdict, seen, facts = ruling.rule(self.judged(check), swept, two_way=self.current.two_way)
        if verdict is Verdict.VIOLATED:
            raise self.violation(seen, facts)
        if verdict is not Verdict.PASSED:
            raise self.inconclusive(seen, facts)
        return seen

    def blind(self, check: Check) -> str:
        """Say how a check fails to see the leak of the open guest; empty if it sees it (CTL-05).

        Its own body judges once more, on what the controls of its claims sent.
        """
        if check.id not in self._common.blind:
            leaky = copy.copy(self)
            leaky._check = check  # noqa: SLF001 - our own kind
            evidence = ruling.mirrored(self.evidence)
            leaky._common = replace(self._common, evidence=evidence, claims={})  # noqa: SLF001
            self._common.blind[check.id] = _unseen(check, leaky)
        return self._common.blind[check.id]

    @property
    def claimants(self) -> list[Check]:
        """The checks that claim something in the survey."""
        plan = self.evidence.plan
        found = {claim.check for claim in plan.claims} | {sweep.check for sweep in plan.sweeps}
        return [one for one in self._checks if one.id in found]

    @property
    def current(self) -> Check:
        """The check that runs."""
        assert self._check is not None, "a check's body runs through Bench.run"
        return self._check

    def violation(self, seen: str, facts: Facts = UNKNOWN) -> Violation:
        """Make the exception for a property that does not hold.

        Args:
            seen: what was there instead.
            facts: what that rests on; what they leave open is filled in.
        """
        check = self.current
        return Violation(
            f"{check.id} VIOLATED: {check.title}",
            where=self._where(),
            expected=check.requirement,
            seen=seen,
            next_step=self._next_step(),
            facts=telling.completed(facts, check),
        )

    def inconclusive(self, seen: str, facts: Facts = UNKNOWN) -> Inconclusive:
        """Make the exception for a property about which nothing was found out."""
        check = self.current
        return Inconclusive(
            f"{check.id} INCONCLUSIVE: {check.title}",
            where=self._where(),
            expected="green controls, and a record of every stimulus",
            seen=seen,
            next_step=self._next_step(),
            facts=telling.completed(facts, check, seen),
        )

    def _next_step(self) -> str:
        identity = self.current.id
        rerun = self._rerun or (lambda one: rerunning.command(one, [self._option()]))
        return f"rerun alone: {rerun(identity)}"

    def _where(self) -> str:
        info = self.backend.describe()
        mutant = f" (mutant {info.mutant})" if info.mutant else ""
        return f"backend {info.name}{mutant}, bottle {self.topology.id}"


def _said(error: BottleError) -> str:
    """Say in one line what went wrong where."""
    return ": ".join(filter(None, (error.what, error.where, error.seen)))


def _unseen(check: Check, leaky: Bench) -> str:
    try:
        check.body(leaky)
    except Violation:
        return ""
    except Inconclusive as error:
        return f"the open guest's leak could not be judged: {error.seen}"
    return "its judge sees no leak in what the open guest got out"
