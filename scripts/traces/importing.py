"""Makes a trace of another tool's file: reads it within bounds, and maps what it says into a guest.

Times count from the first access, which keeps what lies between them; accesses are put in the order
of their times, and in the order of the file where they have none or the same.  However large a file
is, no more is kept than a trace may have: 27 bytes an access.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from guest.access_line import TIME_NS_MAX, Access, WrongLineError, format_access, parse_access
from guest.trace import TIMED_ACCESS_COUNT_MAX, TRACE_LINE_COUNT_MAX
from protocol.errors import LocalProtocolError
from protocol.limits import BLOCK_COUNT_MAX, BLOCK_NAME_CHARS_MAX, GUEST_BYTES_MAX, VCPU_COUNT_MAX
from scripts.traces.csv_table import import_csv
from scripts.traces.damon import import_damon
from scripts.traces.found import ADDRESS_MAX, LINE_CHARS_MAX, Found, Importer, Wishes
from scripts.traces.own_events import import_events
from scripts.traces.perf_script import import_perf
from scripts.traces.qemu_log import import_qemu

IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        "csv": import_csv,
        "perf": import_perf,
        "damon": import_damon,
        "qemu": import_qemu,
        "events": import_events,
    }
)


@dataclass(frozen=True)
class Window:
    """Which addresses of another tool are the guest's, and where they are in it.

    Attributes:
        base: What is the guest's first byte.
        length_bytes: How much from there on; what lies outside is passed over.
        block: The RAMBlock that the guest's addresses count in, where the file names none.
        pack_bytes: Lay the touched pieces of this size one behind the other, in the order of their
            addresses, so that a sparse address space makes a small guest; 0: leave them apart.
    """

    base: int = 0
    length_bytes: int = ADDRESS_MAX + 1
    block: str = ""
    pack_bytes: int = 0


@dataclass
class Imported:
    """A file's accesses, arrays of one length in the order of their times.

    Attributes:
        block_names: The RAMBlocks that are named, in the order in which they appeared.
        blocks: Of each access which of them.
        addresses: Of each the byte address in that.
        vcpus: Whose each is.
        is_write: Whether it writes.
        times_ns: From the first of them; None if the file tells none.
        outside_count: How many lay outside the window and were passed over.
    """

    block_names: list[str]
    blocks: NDArray[np.uint8]
    addresses: NDArray[np.uint64]
    vcpus: NDArray[np.uint8]
    is_write: NDArray[np.bool_]
    times_ns: NDArray[np.int64] | None
    outside_count: int

    def lines(self) -> Iterator[str]:
        """Yield the lines of the trace."""
        times_ns = [None] * len(self.vcpus) if self.times_ns is None else self.times_ns.tolist()
        columns = (self.vcpus, self.blocks, self.addresses, self.is_write)
        for time_ns, vcpu, block, address, is_write in zip(
            times_ns, *(column.tolist() for column in columns), strict=True
        ):
            yield format_access(
                Access(
                    time_ns=time_ns, vcpu=vcpu, block=self.block_names[block], address=address,
                    is_write=is_write,
                )
            )  # fmt: skip

    def ends(self) -> dict[str, int]:
        """Return for each block the first address behind all accesses."""
        return {
            name: int(self.addresses[self.blocks == block].max()) + 1
            for block, name in enumerate(self.block_names)
        }


def import_file(path: str | Path, kind: str, wishes: Wishes, window: Window) -> Imported:
    """Read a file.

    Args:
        path: The file.
        kind: One of IMPORTERS.
        wishes: What it does not say itself.
        window: What of it is the guest's.

    Raises:
        LocalProtocolError: It cannot be read, tells of no access, or a line is wrong: "FILE:LINE:
            reason".
    """
    gathered = _Gathered(window)
    lines: _Lines | None = None
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as text:
            lines = _Lines(text)
            for found in IMPORTERS[kind](iter(lines), wishes):
                gathered.add(found)
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    except WrongLineError as error:
        number = lines.number if lines is not None else 0
        raise LocalProtocolError(f"{path}:{number}: {error}") from None
    if not gathered.count:
        outside = f", and {gathered.outside_count} outside --base and --size"
        raise LocalProtocolError(
            f"{path} tells of no access{outside if gathered.outside_count else ''}"
        )
    try:
        return gathered.imported()
    except WrongLineError as error:
        raise LocalProtocolError(f"{path}: {error}") from None


class _Lines:
    """The lines of a file, none longer than it may be.

    Attributes:
        number: Of the last line that was taken, from 1.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(LINE_CHARS_MAX + 1):
            self.number += 1
            if len(line) > LINE_CHARS_MAX:
                raise WrongLineError(f"longer than {LINE_CHARS_MAX} characters")
            if "\0" in line:
                raise WrongLineError("not a text file")
            yield line


@dataclass
class _Gathered:
    """Takes accesses one by one, within bounds."""

    window: Window
    outside_count: int = 0
    _blocks: array[int] = field(default_factory=lambda: array("B"))
    _addresses: array[int] = field(default_factory=lambda: array("Q"))
    _vcpus: array[int] = field(default_factory=lambda: array("B"))
    _is_write: array[int] = field(default_factory=lambda: array("B"))
    _times_ns: array[int] = field(default_factory=lambda: array("q"))
    _block_numbers: dict[str, int] = field(default_factory=dict)
    _vcpu_numbers: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self._vcpus)

    def add(self, found: Found) -> None:
        address = found.address - self.window.base
        if not 0 <= address < self.window.length_bytes:
            self.outside_count += 1
            if self.outside_count > TRACE_LINE_COUNT_MAX:
                raise WrongLineError(f"more than {TRACE_LINE_COUNT_MAX} accesses outside")
            return
        if self.count == TIMED_ACCESS_COUNT_MAX:
            raise WrongLineError(f"more than {TIMED_ACCESS_COUNT_MAX} accesses")
        if address >= GUEST_BYTES_MAX and not self.window.pack_bytes:
            raise WrongLineError(
                f"{address:#x} is past what a guest can have; --base and --size say what is the "
                "guest's, or --pack lays what was touched together"
            )
        if self.count and bool(self._times_ns) != (found.time_ns is not None):
            raise WrongLineError("some accesses have a time, and others none")
        self._blocks.append(self._block(found.block or self.window.block))
        self._vcpus.append(self._vcpu(found.owner))
        self._addresses.append(address)
        self._is_write.append(found.is_write)
        if found.time_ns is not None:
            self._times_ns.append(found.time_ns)

    def _block(self, name: str) -> int:
        if name not in self._block_numbers:
            if len(self._block_numbers) == BLOCK_COUNT_MAX:
                raise WrongLineError(f"more than {BLOCK_COUNT_MAX} RAMBlocks")
            access = Access(block=name)
            is_one = name.isascii() and name.isprintable() and len(name) <= BLOCK_NAME_CHARS_MAX
            if not is_one or parse_access(format_access(access)) != access:
                raise WrongLineError(
                    f"no trace can name a RAMBlock {name[:BLOCK_NAME_CHARS_MAX]!r}"
                )
            self._block_numbers[name] = len(self._block_numbers)
        return self._block_numbers[name]

    def _vcpu(self, owner: int | str) -> int:
        if isinstance(owner, int):
            return owner
        if owner not in self._vcpu_numbers:
            if len(self._vcpu_numbers) == VCPU_COUNT_MAX:
                raise WrongLineError(
                    f"{owner} is one more than a guest's {VCPU_COUNT_MAX} vCPUs; have fewer told"
                )
            self._vcpu_numbers[owner] = len(self._vcpu_numbers)
        return self._vcpu_numbers[owner]

    def imported(self) -> Imported:
        """Return what was taken, in the order of time.

        Raises:
            WrongLineError: It takes longer than a trace may, or more memory than a guest has.
        """
        names, blocks = list(self._block_numbers), np.array(self._blocks, np.uint8)
        addresses = np.array(self._addresses, np.uint64)
        if self.window.pack_bytes:
            names, blocks, addresses = self._packed(blocks, addresses)
        vcpus, is_write = np.array(self._vcpus, np.uint8), np.array(self._is_write, np.bool_)
        times_ns = None
        if self._times_ns:
            clock_ns = np.array(self._times_ns, np.int64)
            order = np.argsort(clock_ns, kind="stable")
            times_ns = clock_ns[order] - clock_ns[order[0]]
            if times_ns[-1] > TIME_NS_MAX:
                raise WrongLineError("its times are more than thirty years apart")
            blocks, addresses = blocks[order], addresses[order]
            vcpus, is_write = vcpus[order], is_write[order]
        return Imported(names, blocks, addresses, vcpus, is_write, times_ns, self.outside_count)

    def _packed(
        self, blocks: NDArray[np.uint8], addresses: NDArray[np.uint64]
    ) -> tuple[list[str], NDArray[np.uint8], NDArray[np.uint64]]:
        """Return the accesses with what was touched of all blocks laid together, in one."""
        unit = np.uint64(self.window.pack_bytes)
        pieces, offsets = np.divmod(addresses, unit)
        # A piece is of 4 KiB at least: 52 bits number all there can be of 64-bit addresses.
        keys = (blocks.astype(np.uint64) << np.uint64(52)) | pieces
        _, numbers = np.unique(keys, return_inverse=True)
        packed = numbers.astype(np.uint64) * unit + offsets
        if int(packed.max()) >= GUEST_BYTES_MAX:
            raise WrongLineError("what was touched is more than a guest can have; --pack less")
        return [self.window.block], np.zeros(len(blocks), np.uint8), packed
