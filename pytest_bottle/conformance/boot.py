"""What the agent's own command does from its first moment on, and what it wrote down.

It is the bottle's command (:attr:`BottleSpec.command`), so it runs as soon as the backend lets
anything run in the agent, long before any probe could.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.conformance.encounters import attempt
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Operation
    from pytest_bottle.internet.lab import Hearing
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.spec import BottleSpec

#: Seconds that the record of a command may take to be readable.
_PATIENCE = 5.0
#: Says what the process is before it does anything: then it does what its orders say, and stays.
_FIRST = """\
import json, os, sys, time
started = time.time()
orders = json.loads(sys.argv[1])
with open("/proc/self/status") as file:
    status = dict(line.rstrip("\\n").split(":\\t", 1) for line in file if ":\\t" in line)
with open("/proc/net/route") as file:
    routes = [line.split() for line in file][1:]
def say(**what):
    print(json.dumps(dict(what, boot=orders["nonce"])), flush=True)
folder = "/proc/self/fd"
files = sorted(name for name in os.listdir(folder) if os.path.exists(f"{folder}/{name}"))
say(started=started, status=status, files=files, routes=routes)
"""
#: Fires everything at once, again and again, and says how often.
_FIRE = """\
import socket
tcp, udp, raw = orders["tcp"], orders["udp"], orders["nonce"].encode()
rounds, end = 0, time.time() + orders["seconds"]
while time.time() < end:
    for host, port in tcp:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((host, port))
        sock.close()
    for host, port, before, behind in udp:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        try:
            sock.sendto(bytes.fromhex(before) + raw + bytes.fromhex(behind), (host, port))
        except OSError:
            pass
        sock.close()
    try:
        sock = socket.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP)
        sock.connect((orders["ping"], 0))
        sock.send(b"\\x08\\0\\0\\0\\0\\0\\0\\1" + raw)
    except OSError:
        pass
    rounds += 1
    if rounds == 1:
        say(first=time.time())
    if rounds % 25 == 0:
        say(so_far=rounds)
    time.sleep(0.002)
say(rounds=rounds, last=time.time())
"""
_STAY = "\ntime.sleep(1 << 30)\n"


def barrage(bench: Bench, seconds: float) -> Boot:
    """Make a command that fires the shapes of NET-01, NET-02, NET-05 and DNS-01 for a while."""
    fresh = bench.backend.internet.fresh_address
    # A recursive question for the address of <nonce>.test (RFC 1035, section 4).
    question = struct.pack("!6HB", 1, 0x0100, 1, 0, 0, 0, 32).hex(), (b"\4test\0\0\1\0\1").hex()
    orders = {
        "tcp": [[fresh(at=("tcp", port)), port] for port in (443, 80)],
        "udp": [
            [fresh(at=("udp", 443)), 443, "", ""],
            [fresh(at=("udp", 53)), 53, *question],
        ],
        "ping": fresh(at=("icmp", 0)),
        "seconds": seconds,
    }
    return Boot(orders)


@dataclass(frozen=True, slots=True)
class Boot:
    """A command for the agent; ``orders`` are its targets, and ``nonce`` marks all that it says."""

    orders: Mapping[str, Any] = field(default_factory=dict)
    nonce: str = field(default_factory=new_nonce)

    def spec(self, bench: Bench) -> BottleSpec:
        """The suite's bottle with this command in its agent."""
        orders = json.dumps({**self.orders, "nonce": self.nonce})
        script = _FIRST + (_FIRE if self.orders else "") + _STAY
        command = (bench.topology.python, "-I", "-S", "-c", script, orders)
        return replace(bench.spare, command=command)

    def said(self, bench: Bench, topology: Topology) -> list[dict[str, Any]]:
        """Everything that it has written so far, oldest first."""
        lines = [one for log in bench.backend.logs(topology).values() for one in log.splitlines()]
        mine = [line for line in lines if self.nonce.encode() in line and line.endswith(b"}")]
        return [json.loads(line) for line in mine]

    def await_word(
        self, bench: Bench, topology: Topology, word: str, count: int = 1, patience: float = 0.0
    ) -> list[dict[str, Any]]:
        """Wait until it has said something so many times; what it has said by then, or so far."""
        end = time.monotonic() + patience + _PATIENCE
        while True:
            said = [one for one in self.said(bench, topology) if word in one]
            if len(said) >= count or time.monotonic() > end:
                return said
            time.sleep(0.02)

    def attempts(self) -> list[Operation]:
        """The same stimuli for a probe: what their control is."""
        knocks = [("tcp", *one) for one in self.orders["tcp"]]
        knocks += [("udp", *one[:2]) for one in self.orders["udp"]]
        return [
            attempt(f"{kind}/{port}", Vantage.AGENT, {"kind": kind, "host": host, "port": port})
            for kind, host, port in knocks
        ]

    def heard(self, hearing: Hearing) -> list[Heard]:
        """What of it the witness heard: its nonce, or anything at its own destinations."""
        own = {(6, host, port) for host, port in self.orders["tcp"]}
        own |= {(17, host, port) for host, port, *_ in self.orders["udp"]}
        own |= {(1, self.orders["ping"], None)}
        nonce = self.nonce.encode()
        return [
            r
            for r in hearing.records
            if (r.proto, r.dst, None if r.proto == 1 else r.dport) in own
            or nonce in r.payload.lower()
        ]
