"""What a test's report says about a property, and how an error of ours is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle import suite
from pytest_bottle.conformance import profiles
from pytest_bottle.errors import BottleError, Inconclusive, NotSupported, Violation

if TYPE_CHECKING:
    from pytest_bottle.conformance.registry import Check

#: Where each error was shown first, by identity; it holds the error, so that no other gets its own.
_TOLD = pytest.StashKey[dict[int, tuple[pytest.Item, BottleError]]]()
#: Packages that lead from pytest to the user's code, and ours.
_PYTEST = ("_pytest", "pluggy")
_OURS = ("pytest_bottle", "contextlib")


def put_on(report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Complete a report; its new attribute ``bottle`` can be JSON, so it travels through xdist."""
    check: Check | None = getattr(item, "callspec", None) and item.callspec.params.get(  # type: ignore[attr-defined]
        "bottle_check"
    )
    error = call.excinfo.value if call.excinfo else None
    _refuse_excuse(report, item, check, error)
    if isinstance(error, BottleError) and report.failed:
        report.longrepr = _told_before(item, error) or _shown(item, call)
    verdict = _verdict(report, check, error)
    if verdict and check is None:
        item.user_properties.append(("bottle_verdict", verdict))
        report.bottle = {"verdict": verdict}  # type: ignore[attr-defined]
    elif verdict and check:
        _put_facts_on(report, item, check, verdict, error)


def _told_before(item: pytest.Item, error: BottleError) -> str:
    """Refer to an error that was shown already: a fixture of the session fails for every test.

    Returns:
        what to show instead; empty for an error that is new.
    """
    first, known = item.config.stash.setdefault(_TOLD, {}).setdefault(id(error), (item, error))
    return "" if first is item else f"{known.what}\n  the error is told in full at {first.nodeid}"


def _put_facts_on(
    report: pytest.TestReport,
    item: pytest.Item,
    check: Check,
    verdict: str,
    error: BaseException | None,
) -> None:
    facts: dict[str, Any] = {"id": check.id, **suite.testimony(item, check)}
    facts["message"] = _message(report, error)
    facts["note"] = error.seen if isinstance(error, NotSupported) else _note(item)
    facts["waiver"] = waiver = suite.waiver_of(item.config, check)
    if waiver and verdict == "passed":
        report.outcome = "failed"
        report.longrepr = f"{check.id} passed, and {waiver['text']} is still there: remove it"
    if waiver and verdict == "violated":
        verdict = "waived"
        facts["note"] = f"{waiver['reason']} (until {waiver['expires']}, {waiver['issue']})"
    if verdict in ("not supported", "waived") or _is_recorded(check, error):
        report.outcome = "skipped"
        report.longrepr = (__file__, 0, str(error))
    facts["verdict"] = verdict
    report.bottle = facts  # type: ignore[attr-defined]
    item.user_properties += (("bottle_verdict", verdict), ("bottle_check", check.id))


def _is_recorded(check: Check, error: BaseException | None) -> bool:
    """Tell whether an outcome is only written down: of a quirk or a preview, it fails nobody."""
    return not profiles.gates(check) and isinstance(error, Violation | Inconclusive)


def _note(item: pytest.Item) -> str:
    return str(dict(item.user_properties).get("bottle_note", ""))


def _message(report: pytest.TestReport, error: BaseException | None) -> str:
    """Say in full what an outcome that is no pass was; of a skip, its reason."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return "" if error is None else f"{type(error).__name__}: {error}"


def _refuse_excuse(
    report: pytest.TestReport,
    item: pytest.Item,
    check: Check | None,
    error: BaseException | None,
) -> None:
    """Let no xfail excuse a check: waivers do. Nor an inconclusive test, unless it names that."""
    if not hasattr(report, "wasxfail") or not isinstance(error, Inconclusive | Violation):
        return
    named = isinstance(error, Violation) or any(map(_names_it, item.iter_markers("xfail")))
    if check or not named:
        report.outcome = "failed"
        del report.wasxfail


def _names_it(mark: pytest.Mark) -> bool:
    raises = mark.kwargs.get("raises")
    kinds = raises if isinstance(raises, tuple) else (raises,)
    return any(isinstance(kind, type) and issubclass(kind, Inconclusive) for kind in kinds)


def _verdict(
    report: pytest.TestReport, check: Check | None, error: BaseException | None
) -> str | None:
    if isinstance(error, Inconclusive):
        return "inconclusive" if report.failed else None
    if check is None or report.when == "teardown":
        return None
    if error is None:
        return "passed" if report.when == "call" else None
    if isinstance(error, NotSupported):
        return "not supported"
    if isinstance(error, Violation):
        return "violated"
    # Whatever else happened to a check, nothing was found out about the property.
    return "inconclusive" if report.failed else "not run"


def _shown(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show an error of ours where the user's code met it: its message says what happened inside."""
    assert call.excinfo is not None
    style = item.config.getoption("tbstyle", "auto")
    if item.config.getoption("fulltrace", default=False) or style == "native":
        return item.repr_failure(call.excinfo)
    lines = _users_lines(call.excinfo)
    if not lines or _package(lines[0]) in _OURS:
        shown = call.excinfo.getrepr(style="value", chain=False)
    else:
        shown = call.excinfo.getrepr(
            showlocals=item.config.getoption("showlocals", default=False),
            style="long" if style == "auto" else style,
            funcargs=True,
            tbfilter=lambda _: lines.filter(lambda entry: _package(entry) not in _OURS),
            chain=False,
        )
    if shown.reprcrash is not None:
        shown.reprcrash.message = str(call.excinfo.value)  # without the long name of its class
    return shown


def _users_lines(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    """Cut a traceback where pytest calls the test or the fixture."""
    traceback = excinfo.traceback
    inner = [n for n, entry in enumerate(traceback) if _package(entry) in _PYTEST]
    return traceback[inner[-1] + 1 :] if inner else traceback


def _package(entry: Any) -> str:
    return str(entry.frame.f_globals.get("__name__", "")).partition(".")[0]
