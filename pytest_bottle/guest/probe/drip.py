"""One nonce after the other, for as long as somebody lets them through."""

from __future__ import annotations

import time

from pytest_bottle.guest.probe.core import Timeout, operation
from pytest_bottle.guest.probe.web import open_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record

#: Seconds between two nonces.
_PAUSE = 0.05


@operation("drip")
def drip(operation: Operation, deadline: float) -> Record:
    """Open a tunnel by the advertised proxy, and say ``nonce``-1, ``nonce``-2, … into it.

    It goes on for ``seconds`` and is done when they are over, or when the tunnel ends; ``sent``
    says how many went in, ``echoed`` how many the far end answered.
    """
    end, sent, echoed = time.monotonic() + operation["seconds"], 0, b""
    sock, denial = open_tunnel(operation["host"], operation["port"], deadline)
    with sock:
        if denial:
            return denial
        outcome = "answered"
        sock.settimeout(_PAUSE)
        while time.monotonic() < end:
            try:
                sent += 1
                sock.sendall(f"BOTTLE {operation['nonce']}-{sent}\n".encode())
                time.sleep(_PAUSE)
                said = sock.recv(65536)
                if not said:
                    outcome = "closed"
                    break
                echoed += said
            except (Timeout, BlockingIOError):
                continue  # the next one is due
            except OSError:
                outcome = "closed"
                break
    return {"outcome": outcome, "sent": sent, "echoed": echoed.count(b"\n")}
