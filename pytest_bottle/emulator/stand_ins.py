"""Programs that run on the emulated Mac when a fault is switched on; standard library only."""

from __future__ import annotations

from typing import Final

#: Answers names at every address, UDP and TCP, as the far side's own server does: the lab's, which
#: has every public address, or the guest's that has this one (``internet=guest``).
RESOLVER: Final = """
import socket, threading
FAR = ("192.88.99.53", 53)

def relay(a, b):
    while part := a.recv(65535):
        b.sendall(part)

def serve_tcp():
    door = socket.create_server(("0.0.0.0", 53))
    while True:
        visitor, _ = door.accept()
        up = socket.create_connection(FAR, 5)
        for pair in ((visitor, up), (up, visitor)):
            threading.Thread(target=relay, args=pair, daemon=True).start()

threading.Thread(target=serve_tcp, daemon=True).start()
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from the address that was asked
door.bind(("0.0.0.0", 53))
while True:
    data, ancillary, _, peer = door.recvmsg(65535, 64)
    asked = socket.inet_ntoa(ancillary[0][2][8:12])

    def one(data=data, peer=peer, asked=asked):
        info = b"\\0" * 4 + socket.inet_aton(asked) + b"\\0" * 4
        up = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        up.settimeout(5)
        up.connect(FAR)
        up.send(data)
        door.sendmsg([up.recv(65535)], [(socket.IPPROTO_IP, 8, info)], 0, peer)

    threading.Thread(target=one, daemon=True).start()
"""

#: Accepts on its standard input, a listening socket, and on an address of its own; resets at once.
RESETTER: Final = """
import socket, struct, sys, threading

def slam(door):
    while True:
        visitor, _ = door.accept()
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.close()

inner = socket.create_server((sys.argv[1], int(sys.argv[2])))
threading.Thread(target=slam, args=(inner,), daemon=True).start()
slam(socket.socket(fileno=0))
"""
