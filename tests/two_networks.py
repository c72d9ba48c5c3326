"""`python -m tests.two_networks source|dest`: both ends of a crowded link, for `test_overtaking`.

The source fills its queue with background of one channel and then has an urgent page go over the
other, as channels of this project do.  The destination tells in which order packets came: as the
kernel saw them, so that it does not matter when anybody reads.
"""

from __future__ import annotations

import fcntl
import json
import select
import socket
import struct
import sys
import termios
from typing import NamedTuple

import trio

from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.messages import PageData
from source.channel import OutChannel
from source.outlet import Frame

PORTS = {Channel.PRECOPY: 4001, Channel.POSTCOPY: 4002}
URGENT_BYTES = 4096
BACKGROUND_BYTES = 24 * 1024
BOUND_SECONDS = 60.0

# Sent, and not acknowledged: so much of the first packets is surely in the queue.
CROWDED_BYTES = 8 * 1448
# Of that, what must still be there behind the urgent page's being handed over.
LEFT_BYTES_MIN = 4 * 1448

# <linux/sockios.h>: what TCP has not handed on.
_SIOCOUTQNSD = 0x894B
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4


class Segment(NamedTuple):
    """A packet with bytes of a channel: where they are in it, from 0, and how many they are."""

    channel: Channel
    offset: int
    length: int


class Sent(NamedTuple):
    """What the source knows.

    Attributes:
        in_queue_bytes: Of the background, all before this was with the queue, or gone, when the
            urgent page was handed over.
        left_bytes: Of that, what had not been acknowledged then: it was in the queue for certain.
        priority: What came of asking for one.
        overtakes: Whether the urgent channel was expected to overtake the other.
    """

    in_queue_bytes: int
    left_bytes: int
    priority: str
    overtakes: bool


def send(address: str, *, prioritized: bool) -> Sent:
    """Fill the queue, then have an urgent page go; return what was before it."""
    socks = {
        channel: socket.create_connection((address, port), BOUND_SECONDS)
        for channel, port in PORTS.items()
    }
    channels = {}
    for name, sock in socks.items():
        sock.setblocking(False)
        channels[name] = OutChannel(name, TcpStream(trio.socket.from_stdlib_socket(sock)))
    urgent = channels[Channel.POSTCOPY]
    priority = urgent.prioritize() if prioritized else ""
    overtakes = urgent.overtakes()
    below, page = (_frame(count) for count in (BACKGROUND_BYTES, URGENT_BYTES))
    sock = socks[Channel.PRECOPY]
    # The other end reads all of it: the link is all that is slow.
    taken = 0
    while True:
        taken += channels[Channel.PRECOPY].send_now(below, below.length)
        unacknowledged, unsent = _count(sock, termios.TIOCOUTQ), _count(sock, _SIOCOUTQNSD)
        if unacknowledged - unsent >= CROWDED_BYTES:
            break
        select.select([], [], [], 0.001)
    in_queue_bytes = taken - unsent
    while not page.done:
        urgent.send_now(page, page.length)
    left_bytes = in_queue_bytes - (taken - _count(sock, termios.TIOCOUTQ))
    while not below.done:
        select.select([], [sock], [], BOUND_SECONDS)
        channels[Channel.PRECOPY].send_now(below, below.length)
    for each in socks.values():
        each.setblocking(True)
        each.shutdown(socket.SHUT_WR)
    # The other end closes neither before it has both.
    for each in socks.values():
        each.recv(1)
        each.close()
    return Sent(in_queue_bytes, left_bytes, priority, overtakes)


def _frame(count: int) -> Frame:
    return Frame(PageData(payload_bytes=count, block=0, offset=0), bytes(count))


def _count(sock: socket.socket, request: int) -> int:
    return int.from_bytes(fcntl.ioctl(sock, request, bytes(4)), sys.byteorder)


def receive(address: str) -> list[Segment]:
    """Take both connections to their ends; return the packets in the order in which they came."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as capture:
        capture.bind(("mig", _ETH_P_ALL))
        servers = [socket.create_server((address, port)) for port in PORTS.values()]
        sys.stdout.write("here\n")
        sys.stdout.flush()
        socks = []
        for server in servers:
            server.settimeout(BOUND_SECONDS)
            socks.append(server.accept()[0])
        # Both are drained as they fill: neither may hold the other up.
        open_socks = list(socks)
        while open_socks:
            ready, _, _ = select.select(open_socks, [], [], BOUND_SECONDS)
            for sock in ready:
                if not sock.recv(1 << 16):
                    open_socks.remove(sock)
        for sock in [*socks, *servers]:
            sock.close()
        return _segments(capture)


def _segments(capture: socket.socket) -> list[Segment]:
    capture.setblocking(False)
    begins: dict[int, int] = {}
    names = {port: channel for channel, port in PORTS.items()}
    found: list[Segment] = []
    while True:
        try:
            packet, origin = capture.recvfrom(1 << 16)
        except BlockingIOError:
            return found
        ip = packet[14:]
        if origin[2] == _PACKET_OUTGOING or origin[1] != 0x0800 or ip[9] != socket.IPPROTO_TCP:
            continue
        tcp = ip[4 * (ip[0] & 15) :]
        _, port, number = struct.unpack_from("!HHI", tcp)
        if port not in names:
            continue
        if tcp[13] & 2:
            begins[port] = number + 1
            continue
        total = struct.unpack_from("!H", ip, 2)[0]
        length = total - 4 * (ip[0] & 15) - 4 * (tcp[12] >> 4)
        if length:
            found.append(Segment(names[port], (number - begins[port]) % 2**32, length))


def main() -> None:
    """Be one end; what it knows goes to standard output as JSON."""
    side, address, *more = sys.argv[1:]
    if side == "dest":
        told: object = [[each.channel.value, each.offset, each.length] for each in receive(address)]
    else:
        told = send(address, prioritized="prioritized" in more)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
