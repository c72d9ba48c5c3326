"""`python -m scripts.links.relay DELAY LOSS DEST_PREFIX...`: carries packets over, late or never.

A kernel may have no module that delays packets or loses some (netem).  So each of two networks has
a TUN device in the place of its end of a veth pair, and this process holds both: what one sends it
hands to the other so much later, or never.  The rate, and the queue in front of it, are the
device's, as for a veth pair.  Packets cross as the kernel makes them, up to 64 KiB in one, so that
a gigabit is some thousand of them a second.

It is started in the source's network, makes the device there, and becomes the same program in the
destination's, with that device's descriptor.  With this process both devices are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from guest.libc import die_with_parent, use_precise_timeouts
from scripts.runtime.parent import PARENT_VARIABLE

DEVICE = "/dev/net/tun"
NAME = "mig"

# <linux/if_tun.h>: _IOW('T', 202, int) and _IOW('T', 208, unsigned int).
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 0x01, 0x02, 0x04
_IFREQ = struct.Struct("16sH22x")

# A packet of 64 KiB and what the kernel says of it (struct virtio_net_hdr).
_PACKET_BYTES_MAX = (1 << 16) + 64
# So many are read at once: others, which are due, have their turn.
_READ_COUNT_MAX = 32


class Delay:
    """Packets of one direction on their way."""

    def __init__(self, seconds: float, loss: float, rng: random.Random) -> None:
        """Start with none.

        Args:
            seconds: How long each takes.
            loss: Which share of them never comes.
            rng: Draws which.
        """
        self._seconds, self._loss, self._rng = seconds, loss, rng
        self._flying: deque[tuple[float, bytes]] = deque()

    @property
    def due_at(self) -> float:
        """When the next packet arrives; infinite without any."""
        return self._flying[0][0] if self._flying else float("inf")

    def take(self, packet: bytes, now: float) -> None:
        """Have a packet arrive in time, or be lost."""
        if not self._loss or self._rng.random() >= self._loss:
            self._flying.append((now + self._seconds, packet))

    def arrived(self, now: float) -> list[bytes]:
        """Return the packets that have arrived by now, in the order in which they were taken."""
        found = []
        while self._flying and self._flying[0][0] <= now:
            found.append(self._flying.popleft()[1])
        return found


def carry(
    ends: tuple[int, int], ways: tuple[Delay, Delay], is_over: Callable[[], bool], over_fd: int
) -> None:
    """Carry packets both ways.

    Args:
        ends: Descriptors of both devices.
        ways: From the first to the second, and back.
        is_over: Asked when `over_fd` can be read: true to end.
        over_fd: See there.
    """
    lines = list(zip(ends, reversed(ends), ways, strict=True))
    while True:
        now = time.monotonic()
        due_at = min(way.due_at for way in ways)
        timeout = None if due_at == float("inf") else max(due_at - now, 0)
        ready, _, _ = select.select([*ends, over_fd], [], [], timeout)
        if over_fd in ready and is_over():
            return
        now = time.monotonic()
        for near, far, way in lines:
            if near in ready:
                _read(near, way, now)
            for packet in way.arrived(now):
                _write(far, packet)


def _read(fd: int, way: Delay, now: float) -> None:
    for _ in range(_READ_COUNT_MAX):
        try:
            way.take(os.read(fd, _PACKET_BYTES_MAX), now)
        except BlockingIOError:
            return


def _write(fd: int, packet: bytes) -> None:
    # What a device does not take (it is not up yet) is lost, as on any link.
    with contextlib.suppress(OSError):
        os.write(fd, packet)


def make_device(*, whole: bool) -> int:
    """Make a device in this process's network; return its descriptor, with which it is gone.

    Args:
        whole: Large packets come as they are, and not cut to what a link carries.

    Raises:
        OSError: It cannot be had here.
    """
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(NAME.encode(), flags))
    offloads = _TUN_F_CSUM | (_TUN_F_TSO4 | _TUN_F_TSO6 if whole else 0)
    fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)
    return fd


def main() -> None:
    """Make both devices, say so, and carry packets until standard input ends."""
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    delay, loss, *rest = sys.argv[1:]
    try:
        fd = make_device(whole=not float(loss))
    except OSError as error:
        sys.exit(f"{DEVICE}: {error.strerror}")
    if rest[0] != "-":
        # From here on in the other network.
        os.set_inheritable(fd, True)
        module = [sys.executable, "-P", "-m", "scripts.links.relay", delay, loss, "-", str(fd)]
        os.execv(rest[0], [*rest, *module])
    first = int(rest[1])
    use_precise_timeouts()
    rng = random.Random(0)
    ways = (Delay(float(delay), float(loss), rng), Delay(float(delay), float(loss), rng))
    sys.stdout.write("here\n")
    sys.stdout.flush()
    over = sys.stdin.fileno()
    carry((first, fd), ways, lambda: not os.read(over, 1), over)


if __name__ == "__main__":
    main()
