"""Recorded accesses: a text file, one access a line; read, and made to compare policies on.

    # vCPU 0 reads the first target page of page 5 and writes the fourth, vCPU 1 reads page 0 of rom
    0 ram 5 r
    0 ram 5+3 w
    1 rom 0 r

    # the same at byte addresses, which no page size changes, and when each is due
    @0.000000 0 ram 0xa00000 r
    @0.000150 0 ram 0xa03000 w
    @0.020000 1 rom 0x0 r

A line is [@SECONDS] [VCPU] [BLOCK] PLACE [r|w]; all but the place may be left out.  SECONDS says
when the access is due, from the start of the program, to nanoseconds; either all lines say so, or
none does, and then --access-rate does.  The times of one vCPU do not go back.  VCPU counts from 0,
which is also what is meant without one.  BLOCK is a RAMBlock's name, without which PLACE counts in
the guest's memory, all blocks in their order; a name that begins with a number needs a VCPU before
it.  PLACE is PAGE[+TARGET_PAGE], a page index and the index of 4 KiB in that page, 0 when left out,
or 0xADDRESS, a byte address.  `w` reads and then writes, `r` or nothing reads.  Empty lines, and
what follows a `#` that begins a word, are skipped.

Each vCPU makes its own accesses in the order of the file; between vCPUs the file gives no order.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from guest.access_line import (
    LINE_CHARS_MAX,
    TIME_NS_MAX,
    Access,
    WrongLineError,
    locate,
    parse_access,
)
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import Geometry
from protocol.limits import GUEST_SPEC_BYTES_MAX

if TYPE_CHECKING:
    from pathlib import Path

# An access takes 10 bytes where it crosses: one for the vCPU, eight for the page, one for r or w.
TRACE_ACCESS_COUNT_MAX = 16 << 20
assert TRACE_ACCESS_COUNT_MAX * 10 < GUEST_SPEC_BYTES_MAX
# Eight more with its time.
TIMED_ACCESS_COUNT_MAX = 14 << 20
assert TIMED_ACCESS_COUNT_MAX * 18 < GUEST_SPEC_BYTES_MAX

# Half of a file may be remarks; one that has no end is no trace.
TRACE_LINE_COUNT_MAX = 2 * TRACE_ACCESS_COUNT_MAX


@dataclass(frozen=True, eq=False)
class Trace:
    """The accesses of all vCPUs in the order of the file, as arrays of the same length.

    Attributes:
        vcpus: Whose each is.
        flat_pages: The flat target page of each.
        is_write: Whether it writes after it has read.
        times_ns: When each is due, in nanoseconds from the start of the program, not going back for
            any vCPU; None if the trace does not say.
    """

    vcpus: NDArray[np.uint8]
    flat_pages: NDArray[np.uint64]
    is_write: NDArray[np.bool_]
    times_ns: NDArray[np.int64] | None = None

    @property
    def access_count(self) -> int:
        """How many accesses there are."""
        return len(self.vcpus)

    def left_after(self, steps: Sequence[int]) -> int:
        """Return how many accesses vCPUs have not made that stand at these steps, by number."""
        made = np.minimum(np.bincount(self.vcpus, minlength=len(steps))[: len(steps)], steps)
        return self.access_count - int(made.sum())

    def to_plain(self) -> dict[str, bytes]:
        """Return the trace as what msgpack can carry: little-endian arrays."""
        plain = {
            "vcpus": self.vcpus.astype("u1").tobytes(),
            "flat-pages": self.flat_pages.astype("<u8").tobytes(),
            "is-write": self.is_write.astype("u1").tobytes(),
        }
        # Who knows no times is told of none.
        return (
            plain
            if self.times_ns is None
            else plain | {_TIMES: self.times_ns.astype("<i8").tobytes()}
        )

    @classmethod
    def from_plain(cls, plain: object, geometry: Geometry, vcpu_count: int) -> Trace:
        """Return the trace that a peer sent for a guest.

        Raises:
            RemoteProtocolError: It is none, or names a vCPU, a page or a time that cannot be.
        """
        if not (isinstance(plain, dict) and plain.keys() - {_TIMES} == set(_FIELDS)):
            raise RemoteProtocolError("the guest's trace has not the fields that it must have")
        if not all(isinstance(array, bytes) for array in plain.values()):
            raise RemoteProtocolError("the guest's trace is not made of bytes")
        count, is_timed = len(plain["vcpus"]), _TIMES in plain
        if count > _count_max(is_timed=is_timed):
            raise RemoteProtocolError(f"the guest's trace has {count} accesses, too many")
        lengths = {"flat-pages": 8 * count, "is-write": count, _TIMES: 8 * count}
        if any(len(plain[field]) != lengths[field] for field in plain.keys() - {"vcpus"}):
            raise RemoteProtocolError("the arrays of the guest's trace differ in length")
        trace = cls(
            np.frombuffer(plain["vcpus"], dtype="u1"),
            np.frombuffer(plain["flat-pages"], dtype="<u8").astype(np.uint64),
            np.frombuffer(plain["is-write"], dtype="u1").astype(np.bool_),
            np.frombuffer(plain[_TIMES], dtype="<i8").astype(np.int64) if is_timed else None,
        )
        if np.any(trace.vcpus >= vcpu_count):
            raise RemoteProtocolError("the guest's trace names a vCPU that the guest has not")
        if np.any(trace.flat_pages >= geometry.target_page_count):
            raise RemoteProtocolError("the guest's trace names a page outside the guest")
        if not trace._times_can_be():
            raise RemoteProtocolError("the guest's trace has times that cannot be, or go back")
        return trace

    def _times_can_be(self) -> bool:
        if self.times_ns is None or not self.access_count:
            return True
        if self.times_ns.min() < 0 or self.times_ns.max() > TIME_NS_MAX:
            return False
        order = np.argsort(self.vcpus, kind="stable")
        vcpus, times_ns = self.vcpus[order], self.times_ns[order]
        return not np.any((np.diff(times_ns) < 0) & (vcpus[1:] == vcpus[:-1]))


_FIELDS = ("vcpus", "flat-pages", "is-write")
_TIMES = "times-ns"


def _count_max(*, is_timed: bool) -> int:
    return TIMED_ACCESS_COUNT_MAX if is_timed else TRACE_ACCESS_COUNT_MAX


def read_trace(path: str | Path, geometry: Geometry, vcpu_count: int) -> Trace:
    """Read a trace file for a guest.

    Raises:
        LocalProtocolError: The file cannot be read, or a line is wrong: "FILE:LINE: reason".
    """
    columns = _Columns(geometry, vcpu_count)
    for _ in read_accesses(path, columns.add):
        pass
    return columns.trace()


def read_accesses(
    path: str | Path, check: Callable[[Access], None] = lambda _: None
) -> Iterator[Access]:
    """Yield what the lines of a trace file say, in their order.

    Args:
        path: The file.
        check: Is given each access before it is yielded, and raises `WrongLineError` if it cannot
            be.

    Raises:
        LocalProtocolError: The file cannot be read, or a line is wrong: "FILE:LINE: reason".
    """
    # Imported late: guests know traces, but read no files.
    from pathlib import Path  # noqa: PLC0415

    number, count = 0, 0
    times = _Times()
    try:
        with Path(path).open(encoding="utf-8") as lines:
            while line := lines.readline(LINE_CHARS_MAX):
                number += 1
                if number > TRACE_LINE_COUNT_MAX:
                    raise WrongLineError(f"more than {TRACE_LINE_COUNT_MAX} lines")  # noqa: TRY301
                access = parse_access(line)
                if access is None:
                    continue
                _check_count(count, is_timed=access.time_ns is not None)
                check(access)
                times.check(access)
                count += 1
                yield access
    except OSError as error:
        raise LocalProtocolError(f"trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LocalProtocolError(f"trace {path}: not a text file") from error
    except WrongLineError as error:
        raise LocalProtocolError(f"{path}:{number}: {error}") from None


def _check_count(count: int, *, is_timed: bool) -> None:
    most = _count_max(is_timed=is_timed)
    if count == most:
        raise WrongLineError(f"more than {most} accesses")


class _Times:
    """Holds that all lines have a time or none, and that no vCPU's time goes back."""

    def __init__(self) -> None:
        self._are_there: bool | None = None
        self._last_ns: dict[int, int] = {}

    def check(self, access: Access) -> None:
        is_timed = access.time_ns is not None
        if self._are_there is not None and is_timed != self._are_there:
            raise WrongLineError(
                "it has a time, and the lines before have none"
                if is_timed
                else "it has no time, and the lines before have one"
            )
        self._are_there = is_timed
        if access.time_ns is None:
            return
        if access.time_ns < self._last_ns.get(access.vcpu, 0):
            raise WrongLineError(f"its time is before that of vCPU {access.vcpu}'s last access")
        self._last_ns[access.vcpu] = access.time_ns


class _Columns:
    """Gathers the accesses of a trace: 18 bytes each."""

    def __init__(self, geometry: Geometry, vcpu_count: int) -> None:
        self._geometry = geometry
        self._vcpu_count = vcpu_count
        self._blocks = {block.name: index for index, block in enumerate(geometry.blocks)}
        self._vcpus, self._flat_pages, self._is_write = array("B"), array("Q"), array("B")
        self._times_ns = array("q")

    def add(self, access: Access) -> None:
        self._flat_pages.append(locate(access, self._geometry, self._blocks, self._vcpu_count))
        self._vcpus.append(access.vcpu)
        self._is_write.append(access.is_write)
        if access.time_ns is not None:
            self._times_ns.append(access.time_ns)

    def trace(self) -> Trace:
        return Trace(
            np.array(self._vcpus, dtype=np.uint8),
            np.array(self._flat_pages, dtype=np.uint64),
            np.array(self._is_write, dtype=np.bool_),
            np.array(self._times_ns, dtype=np.int64) if self._times_ns else None,
        )


def write_trace(path: Path, geometry: Geometry, vcpu_count: int, seed: int) -> None:
    """Write a trace in which each vCPU reads one target page of every page, in an order of its own.

    As long as pages are missing, a vCPU that makes its accesses without pause faults without pause.

    Args:
        path: The file to write.
        geometry: The guest's blocks.
        vcpu_count: How many vCPUs there are.
        seed: The same seed gives the same trace.
    """
    chance = random.Random(seed)
    lines = [f"# every page once for each of {vcpu_count} vCPUs, seed {seed}\n"]
    pages = [
        (block.name, page, block.target_pages_per_page)
        for block in geometry.blocks
        for page in range(block.page_count)
    ]
    for vcpu in range(vcpu_count):
        chance.shuffle(pages)
        lines += [
            f"{vcpu} {name} {page}+{chance.randrange(target_pages)} r\n"
            for name, page, target_pages in pages
        ]
    path.write_text("".join(lines), encoding="utf-8")
