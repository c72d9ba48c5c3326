"""Recorded accesses: a text file, one access a line; read, and made to compare policies on.

    # vCPU 0 reads the first target page of page 5 and writes the fourth, vCPU 1 reads page 0 of rom
    0 ram 5 r
    0 ram 5+3 w
    1 rom 0 r

A line is VCPU BLOCK PAGE[+TARGET_PAGE] r|w: VCPU counts from 0, BLOCK is a RAMBlock's name, PAGE a
page index in that block and TARGET_PAGE the index of 4 KiB in that page, 0 when left out.  `w`
reads and then writes.  Empty lines, and what follows a `#` that begins a word, are skipped.  Each
vCPU makes its own accesses in the order of the file; between vCPUs the file gives no order.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import Geometry, PageId
from protocol.limits import GUEST_SPEC_BYTES_MAX

if TYPE_CHECKING:
    from pathlib import Path
import random

# An access takes 10 bytes where it crosses: one for the vCPU, eight for the page, one for r or w.
TRACE_ACCESS_COUNT_MAX = 16 << 20
assert TRACE_ACCESS_COUNT_MAX * 10 < GUEST_SPEC_BYTES_MAX

# Half of a file may be remarks; one that has no end is no trace.
TRACE_LINE_COUNT_MAX = 2 * TRACE_ACCESS_COUNT_MAX

# Enough for a RAMBlock's name and a remark; and a file without line ends is no trace.
_LINE_CHARS_MAX = 1000

_COMMENT = re.compile(r"(^|\s)#.*")
_PAGE = re.compile(r"([0-9]{1,18})(?:\+([0-9]{1,18}))?")
_VCPU = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, eq=False)
class Trace:
    """The accesses of all vCPUs in the order of the file, as arrays of the same length."""

    vcpus: NDArray[np.uint8]
    flat_pages: NDArray[np.uint64]
    is_write: NDArray[np.bool_]

    def to_plain(self) -> dict[str, bytes]:
        """Return the trace as what msgpack can carry: little-endian arrays."""
        return {
            "vcpus": self.vcpus.astype("u1").tobytes(),
            "flat-pages": self.flat_pages.astype("<u8").tobytes(),
            "is-write": self.is_write.astype("u1").tobytes(),
        }

    @classmethod
    def from_plain(cls, plain: object, geometry: Geometry, vcpu_count: int) -> Trace:
        """Return the trace that a peer sent for a guest.

        Raises:
            RemoteProtocolError: It is none, or names a vCPU or page that the guest has not.
        """
        fields = ("vcpus", "flat-pages", "is-write")
        if not (isinstance(plain, dict) and plain.keys() == set(fields)):
            raise RemoteProtocolError("the guest's trace has not the fields that it must have")
        if not all(isinstance(plain[field], bytes) for field in fields):
            raise RemoteProtocolError("the guest's trace is not made of bytes")
        count = len(plain["vcpus"])
        if count > TRACE_ACCESS_COUNT_MAX:
            raise RemoteProtocolError(f"the guest's trace has {count} accesses, too many")
        if len(plain["flat-pages"]) != 8 * count or len(plain["is-write"]) != count:
            raise RemoteProtocolError("the arrays of the guest's trace differ in length")
        trace = cls(
            np.frombuffer(plain["vcpus"], dtype="u1"),
            np.frombuffer(plain["flat-pages"], dtype="<u8").astype(np.uint64),
            np.frombuffer(plain["is-write"], dtype="u1").astype(np.bool_),
        )
        if np.any(trace.vcpus >= vcpu_count):
            raise RemoteProtocolError("the guest's trace names a vCPU that the guest has not")
        if np.any(trace.flat_pages >= geometry.target_page_count):
            raise RemoteProtocolError("the guest's trace names a page outside the guest")
        return trace


def read_trace(path: str | Path, geometry: Geometry, vcpu_count: int) -> Trace:
    """Read a trace file for a guest.

    Raises:
        LocalProtocolError: The file cannot be read, or a line is wrong: "FILE:LINE: reason".
    """
    # Imported late: guests know traces, but read no files.
    from pathlib import Path  # noqa: PLC0415

    vcpus, flat_pages, is_write = array("B"), array("Q"), array("B")
    blocks = {block.name: index for index, block in enumerate(geometry.blocks)}
    number = 0
    try:
        with Path(path).open(encoding="utf-8") as lines:
            while line := lines.readline(_LINE_CHARS_MAX):
                number += 1
                _check_line_count(number)
                access = _parse_line(line, geometry, blocks, vcpu_count)
                if access is None:
                    continue
                _check_count(len(vcpus))
                vcpus.append(access[0])
                flat_pages.append(access[1])
                is_write.append(access[2])
    except OSError as error:
        raise LocalProtocolError(f"trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LocalProtocolError(f"trace {path}: not a text file") from error
    except _WrongLineError as error:
        raise LocalProtocolError(f"{path}:{number}: {error}") from None
    return Trace(
        np.array(vcpus, dtype=np.uint8),
        np.array(flat_pages, dtype=np.uint64),
        np.array(is_write, dtype=np.bool_),
    )


class _WrongLineError(Exception):
    """Says what is wrong with a line; the reader adds where."""


def _check_line_count(number: int) -> None:
    if number > TRACE_LINE_COUNT_MAX:
        raise _WrongLineError(f"more than {TRACE_LINE_COUNT_MAX} lines")


def _check_count(count: int) -> None:
    if count == TRACE_ACCESS_COUNT_MAX:
        raise _WrongLineError(f"more than {TRACE_ACCESS_COUNT_MAX} accesses")


def _parse_line(
    line: str, geometry: Geometry, blocks: dict[str, int], vcpu_count: int
) -> tuple[int, int, bool] | None:
    """Return (vCPU, flat target page, whether it writes), or None for an empty line."""
    if len(line) == _LINE_CHARS_MAX:
        raise _WrongLineError(f"longer than {_LINE_CHARS_MAX} characters")
    words = _COMMENT.sub("", line).split()
    if not words:
        return None
    if len(words) < 4:
        raise _WrongLineError("an access is: VCPU BLOCK PAGE[+TARGET_PAGE] r|w")
    # A RAMBlock's name may hold spaces.
    vcpu, name, page, kind = words[0], " ".join(words[1:-2]), words[-2], words[-1]
    if not _VCPU.fullmatch(vcpu) or int(vcpu) >= vcpu_count:
        raise _WrongLineError(f"{vcpu!r} is not a vCPU from 0 to {vcpu_count - 1}")
    if name not in blocks:
        raise _WrongLineError(f"no RAMBlock is named {name!r}; there is {', '.join(blocks)}")
    if kind not in ("r", "w"):
        raise _WrongLineError(f"{kind!r} is neither r nor w")
    return int(vcpu), _parse_page(page, geometry, blocks[name]), kind == "w"


def _parse_page(text: str, geometry: Geometry, block: int) -> int:
    """Return the flat target page that PAGE[+TARGET_PAGE] names in a block."""
    match = _PAGE.fullmatch(text)
    if not match:
        raise _WrongLineError(f"{text!r} is not PAGE or PAGE+TARGET_PAGE")
    page = PageId(block, int(match[1]))
    target_page = int(match[2] or 0)
    shape = geometry.blocks[block]
    if not geometry.has_page(page):
        raise _WrongLineError(
            f"page {page.index} is outside RAMBlock {shape.name!r} of {shape.page_count} pages"
        )
    if target_page >= shape.target_pages_per_page:
        raise _WrongLineError(
            f"target page {target_page} is outside a page of {shape.target_pages_per_page}"
        )
    return geometry.flat_target_page(block, page.index * shape.target_pages_per_page + target_page)


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
