"""KVM's dirty log: asked by the guest's process, which alone may, for the engine.

A thread of the process waits for one-letter orders on a socket.  KVM writes a bit for each target
page into memory that both share, block after block, each beginning on a word.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from guest import libc
from guest.kvm.machine import Machine
from protocol.errors import GuestFailed
from protocol.geometry import Geometry

_START, _HARVEST, _STOP = b"s", b"h", b"e"
_DONE = b"d"

_WORD_PAGES = 64

# What an answer may take; some tenths of a millisecond are usual.  A process that has been stopped
# from outside gives none.
_ANSWER_SECONDS_MAX = 30.0

_REASON_BYTES_MAX = 200


class _Bitmaps:
    """The bits of all blocks, in shared memory.

    Attributes:
        words: All of them, 64 pages each.
        parts: The words of each block.
    """

    def __init__(self, geometry: Geometry, fd: int) -> None:
        counts = [-(-block.target_page_count // _WORD_PAGES) for block in geometry.blocks]
        length = bitmap_bytes(geometry)
        # Not by Python's mmap, which would keep a descriptor of its own.
        address = libc.map_shared(fd, length)
        words = (ctypes.c_uint64 * sum(counts)).from_address(address)
        # With the last array that shows it; what still does when the interpreter ends may go on.
        weakref.finalize(words, libc.unmap, address, length).atexit = False
        self.words: NDArray[np.uint64] = np.ctypeslib.as_array(words)
        ends = np.cumsum(counts)
        self.parts = np.split(self.words, ends[:-1])


def bitmap_bytes(geometry: Geometry) -> int:
    """Return how long the shared memory is."""
    return sum(-(-block.target_page_count // _WORD_PAGES) for block in geometry.blocks) * 8


@contextmanager
def serve_log(machine: Machine, geometry: Geometry) -> Iterator[list[int]]:
    """Serve a machine's log from now on; give the descriptors that the engine is to have.

    They are closed at the end of the block: the engine has them then.

    Raises:
        OSError: There is no memory or thread for it.
    """
    fd = os.memfd_create("midstream-dirty-log", os.MFD_CLOEXEC)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.ftruncate(fd, bitmap_bytes(geometry))
        server = _LogServer(machine, geometry, fd, near)
        threading.Thread(target=server.work, name="dirty-log", daemon=True).start()
        yield [far.fileno(), fd]
    finally:
        far.close()
        os.close(fd)


class _LogServer:
    """Does what the engine orders."""

    def __init__(
        self, machine: Machine, geometry: Geometry, fd: int, orders: socket.socket
    ) -> None:
        self._machine = machine
        self._page_counts = [block.target_page_count for block in geometry.blocks]
        self._bitmaps = _Bitmaps(geometry, fd)
        self._orders = orders
        self._by_hand = machine.vm.protect_by_hand()

    def work(self) -> None:
        """Serve until the engine goes."""
        while order := self._orders.recv(1):
            try:
                self._do(order)
                answer = _DONE
            except OSError as error:
                answer = (error.strerror or "?").encode()[:_REASON_BYTES_MAX]
            try:
                self._orders.send(answer)
            except OSError:
                return

    def _do(self, order: bytes) -> None:
        if order == _START:
            self._machine.log_writes(on=False)
            self._machine.log_writes(on=True)
            # To begin with all is written to, or whatever was since the log was on.
            self._harvest()
        elif order == _HARVEST:
            self._harvest()
        else:
            self._machine.log_writes(on=False)

    def _harvest(self) -> None:
        # Nothing is lost.  A page that is told of is protected anew before the engine reads it: by
        # `clear_dirty_log`, or by `get_dirty_log` itself.  A write before that is in memory; one
        # after it faults, and is noted for the next harvest.
        vm = self._machine.vm
        for index, words in enumerate(self._bitmaps.parts):
            slot = self._machine.block_slot(index)
            vm.get_dirty_log(slot, words.ctypes.data)
            dirty = np.flatnonzero(words)
            if not self._by_hand or not len(dirty):
                continue
            first, end = int(dirty[0]), int(dirty[-1]) + 1
            page_count = min(end * _WORD_PAGES, self._page_counts[index]) - first * _WORD_PAGES
            address = words[first:].ctypes.data
            vm.clear_dirty_log(slot, first * _WORD_PAGES, page_count, address)


class KvmDirtyLog:
    """What KVM tells of the pages that vCPUs of a virtual machine write to (guest/dirty_log.py).

    It tells 4 KiB apart whatever memory is made of, pages of hugetlb too.
    """

    name = "kvm"

    def __init__(self, geometry: Geometry, socket_fd: int, memory_fd: int) -> None:
        """Take the descriptors of the service KVM_LOG; they stay the guest's to close."""
        self._bitmaps = _Bitmaps(geometry, memory_fd)
        self._bases = geometry.target_page_bases
        self._fd = socket_fd
        self._answered = select.poll()
        self._answered.register(socket_fd, select.POLLIN)

    def start(self) -> None:
        """Forget all that was written so far.

        Raises:
            GuestFailed: The guest process is gone, or KVM refuses.
        """
        self._order(_START)

    def harvest(self) -> NDArray[np.int64]:
        """Return the flat target pages written to since the last harvest, ascending.

        Raises:
            GuestFailed: KVM does not tell any more.
        """
        self._order(_HARVEST)
        return np.concatenate(
            [
                _pages_of(words, base)
                for words, base in zip(self._bitmaps.parts, self._bases, strict=True)
            ]
        )

    def stop(self) -> None:
        """Have KVM note nothing any more.

        Raises:
            GuestFailed: The guest process is gone, or KVM refuses.
        """
        self._order(_STOP)

    def _order(self, order: bytes) -> None:
        try:
            os.write(self._fd, order)
            if self._answered.poll(_ANSWER_SECONDS_MAX * 1000):
                answer = os.read(self._fd, _REASON_BYTES_MAX)
            else:
                answer = f"no answer in {_ANSWER_SECONDS_MAX:g} s".encode()
        except OSError as error:
            answer = (error.strerror or "?").encode()
        if answer != _DONE:
            reason = answer.decode(errors="replace") or "the guest process is gone"
            raise GuestFailed(f"KVM's dirty log: {reason}")


def _pages_of(words: NDArray[np.uint64], base: int) -> NDArray[np.int64]:
    """Return the flat target pages whose bits are set, of a block whose first one is `base`."""
    dirty = np.flatnonzero(words)
    bits = np.unpackbits(words[dirty].view(np.uint8), bitorder="little").reshape(-1, _WORD_PAGES)
    rows, columns = np.nonzero(bits)
    pages: NDArray[np.int64] = dirty[rows] * _WORD_PAGES + columns + base
    return pages
