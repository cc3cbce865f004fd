"""Reading waivers: whatever a file says, it is read or refused in words, and never half."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_bottle import waivers
from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

CHECKS, BACKENDS = ("NET-01", "NET-02"), ("netns", "mine")
TODAY = dt.date(2030, 1, 15)
GOOD = {
    "check": "NET-01",
    "backend": "mine",
    "versions": ">=1,<3",
    "reason": "known",
    "issue": "https://tracker.test/1",
    "expires": "2030-02-01",
    "owner": "somebody",
}
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([*GOOD]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD]) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
_ENTRIES = st.dictionaries(st.sampled_from([*GOOD]), _VALUES, max_size=2).map(
    lambda changes: {**GOOD, **changes}
)


def write(folder: Path, document: Any) -> Path:
    """Write a document as JSON, which is YAML too."""
    path = folder / "bottle-waivers.yaml"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(autouse=True, scope="module")
def today() -> Any:
    """It is always the same day here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waivers, "today", lambda: TODAY)
        yield


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(document=_VALUES | st.fixed_dictionaries({"waivers": st.lists(_ENTRIES, max_size=3)}))
def test_whatever_a_file_says(tmp_path: Path, document: Any) -> None:
    """It is a tuple of waivers that make sense, or one error of ours."""
    try:
        found = waivers.load(write(tmp_path, document), CHECKS, BACKENDS)
    except ConfigurationError:
        return
    for one in found:
        assert one.check in CHECKS
        assert one.backend in BACKENDS
        assert one.expires <= TODAY + dt.timedelta(waivers.LONGEST_DAYS)
        assert one.reason.strip()
        assert one.owner.strip()
    assert len({(one.check, one.backend) for one in found}) == len(found)


def test_a_good_one(tmp_path: Path) -> None:
    """Every word arrives; a second one for another backend is another waiver."""
    path = write(tmp_path, {"waivers": [GOOD, {**GOOD, "backend": "netns"}]})

    one, other = waivers.load(path, CHECKS, BACKENDS)

    assert (one.check, one.backend, one.owner) == ("NET-01", "mine", "somebody")
    assert (one.expires, one.place) == (dt.date(2030, 2, 1), "waivers[0]")
    assert other.backend == "netns"


def test_none_at_all(tmp_path: Path) -> None:
    """An empty list is a file without waivers."""
    assert waivers.load(write(tmp_path, {"waivers": []}), CHECKS, BACKENDS) == ()


@pytest.mark.parametrize(
    ("check", "backend", "version", "found"),
    [
        ("NET-01", "mine", "2.5", True),
        ("NET-01", "mine", "3.0", False),
        ("NET-02", "mine", "2.5", False),
        ("NET-01", "netns", "2.5", False),
    ],
)
def test_which_one_holds(
    tmp_path: Path, check: str, backend: str, version: str, found: bool
) -> None:
    """The one for this check, this backend and this version; no other."""
    held = waivers.load(write(tmp_path, {"waivers": [GOOD]}), CHECKS, BACKENDS)

    assert (waivers.of(held, check, backend, version) is not None) is found


def test_after_its_last_day(tmp_path: Path) -> None:
    """One that has expired is read, and holds no more."""
    held = waivers.load(
        write(tmp_path, {"waivers": [{**GOOD, "expires": "2030-01-14"}]}), CHECKS, BACKENDS
    )

    assert held[0].expired
    assert waivers.of(held, "NET-01", "mine", "2") is None
