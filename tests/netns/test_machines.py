"""Machines inside the lab: bottles come and go in threads, and all of them trust the lab."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_bottle.backends.command.machine import Machines

#: Where a machine's programs look for authorities.
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

pytestmark = pytest.mark.usefixtures("netns_works")


def test_every_machine_has_the_authorities_whenever_it_was_made() -> None:
    """Those that are there when the lab is trusted, those made meanwhile, and those made later."""
    if not BUNDLE.exists():
        pytest.skip(f"NOT RUN: this machine has no {BUNDLE} to put another in the place of")
    machines = Machines()

    def bundle(name: str) -> bytes:
        machine = machines.add(name)
        machines.trust()
        read = [*machine.entry, "cat", str(BUNDLE)]
        found = subprocess.run(read, capture_output=True, check=True, timeout=200).stdout
        machines.remove(name)
        return found

    try:
        with ThreadPoolExecutor(4) as pool:
            bundles = list(pool.map(bundle, [f"m{number}" for number in range(12)]))
    finally:
        machines.close()

    (authorities,) = {*bundles}
    assert b"BEGIN CERTIFICATE" in authorities
