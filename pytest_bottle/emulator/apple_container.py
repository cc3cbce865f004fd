"""The emulated ``container`` as a module to run: ``python -m`` and this name, then its words."""

from __future__ import annotations

import os
import sys

from pytest_bottle.emulator import fast

if __name__ == "__main__":
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    version = os.environ.get("BOTTLE_EMULATOR_VERSION", "1.2.2")
    sys.exit(fast.main(sys.argv[1:], version, package))
