"""What an engine and its guest process tell each other: small msgpack arrays, a packet each.

Two sockets (AF_UNIX, SOCK_SEQPACKET) connect them.  On the *control* socket:

    engine -> guest   start   [vcpu_count, kinds, block_count, service], with all descriptors
                      touch   [vcpu, flat_page]           "scripted" programs only
                      load    [vcpu, state]               virtual machines only, while paused
                      discard [ranges]                    unmap these, the bytes stay
                      collapse [ranges]                   map these by huge pages, without haste
    guest -> engine   ready   [service, reason, addresses, thread_ids], with the service's
                              descriptors                 after start (guest/services.py)
                      refused [reason]                    or, there can be no such guest here
                      parked  [vcpu, generation, state]   each vCPU, after each pause
                      loaded  []                          after each load
                      discarded []                        after each discard
                      failed  [reason]                    the process is about to exit

A vCPU of a virtual machine is told to stop, wherever it is, by the signal KICK to its thread.

And on the *events* socket, from guest to engine, the fields of the dataclasses below.  To run and
to pause, the engine writes the board's run generation and wakes the vCPUs: no message stands in the
way.  The two are processes of one user and one version; what they say is trusted.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import msgpack

from protocol.errors import GuestFailed, shortage_of

MESSAGE_BYTES_MAX = 32 * 1024

# Has a vCPU leave the guest, also one that the kernel has stopped at a page.
KICK = signal.SIGUSR1

# Where one read finds wrong memory thousands will.  A few reports of each guest are enough, and
# they always find room in the events socket: a guest can be paused though nobody receives.
MISMATCH_REPORT_COUNT_MAX = 32

# Ranges of the guest mapping that one order names, as pairs of int64: begin and length.
ORDER_RANGE_COUNT_MAX = 4096
_RANGE = struct.Struct("=QQ")
ORDER_BYTES_MAX = ORDER_RANGE_COUNT_MAX * _RANGE.size + MESSAGE_BYTES_MAX

# The kernel counts nearly a kilobyte for the smallest packet.  A mismatch report, a fault and a
# wake-up of each of 64 vCPUs must fit, so that they can be paused though nobody receives; the usual
# 208 KiB would just do.  The kernel gives what its limit allows.
_SEND_BUFFER_BYTES = 512 << 10


@dataclass(frozen=True)
class Faulted:
    """A vCPU sleeps until a flat target page is present.  Times are of CLOCK_MONOTONIC.

    Where the kernel stops vCPUs, the userfaultfd tells instead.

    The page may have become present while this was under way: then wake the vCPU at once, nobody
    else will.  `Woke` follows, unless the guest is paused before that.
    """

    vcpu: int
    flat_page: int
    t_fault_ns: int


@dataclass(frozen=True)
class Woke:
    """A vCPU that had faulted goes on: the page is present.

    Where the kernel stops vCPUs, one says so if the engine has marked it as stopped.
    """

    vcpu: int
    flat_page: int
    t_fault_ns: int
    t_woke_ns: int


@dataclass(frozen=True)
class Mismatch:
    """A vCPU read what must not be there; the first few of each vCPU, the rest is only counted."""

    vcpu: int
    flat_page: int
    step: int
    expected: int
    seen: int


@dataclass(frozen=True)
class Touched:
    """A vCPU has done what `GuestHandle.touch` asked for."""

    vcpu: int
    flat_page: int


@dataclass(frozen=True)
class Collapsed:
    """The kernel was asked to map ranges by huge pages, and did not do so with some of them."""

    range_count: int
    failed_count: int


GuestEvent = Faulted | Woke | Mismatch | Touched | Collapsed

_EVENT_KINDS: dict[str, type[GuestEvent]] = {
    "faulted": Faulted,
    "woke": Woke,
    "mismatch": Mismatch,
    "touched": Touched,
    "collapsed": Collapsed,
}
_KIND_NAMES = {kind: name for name, kind in _EVENT_KINDS.items()}


def encode_event(event: GuestEvent) -> bytes:
    """Return the packet that carries an event."""
    return pack(_KIND_NAMES[type(event)], *astuple(event))


def decode_event(data: bytes) -> GuestEvent:
    """Return the event that a packet carries."""
    name, *values = unpack(data)
    return _EVENT_KINDS[name](*values)


def pack_ranges(ranges: Sequence[tuple[int, int]]) -> bytes:
    """Return ranges of addresses, each (begin, length), as an order carries them."""
    assert len(ranges) <= ORDER_RANGE_COUNT_MAX
    return b"".join(_RANGE.pack(*each) for each in ranges)


def unpack_ranges(data: bytes) -> list[tuple[int, int]]:
    """Return the ranges that an order carries."""
    return list(_RANGE.iter_unpack(data))


def pack(*message: object) -> bytes:
    """Return the packet of a control message: its name, then its values."""
    data: bytes = msgpack.packb(message)
    return data


def unpack(data: bytes) -> list[Any]:
    """Return the name and values that a packet carries."""
    message: list[Any] = msgpack.unpackb(data)
    return message


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep packets whole and report the other's end."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return pair


def check_passed(fds: Sequence[int], flags: int) -> None:
    """Refuse a packet of whose descriptors some are missing, because no more may be open here.

    Args:
        fds: Those that came; they are closed then.
        flags: What the socket said of the packet.

    Raises:
        GuestFailed: Some are missing; says which limit to raise.
    """
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise GuestFailed(shortage_of(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
