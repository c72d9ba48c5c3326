"""The structs of guest/native/program.c, filled for a vCPU from what the guest is to do.

Their fields are those of the C source, in its order; all are 64 bits wide.  Addresses are what the
program sees: a thread the process's own, a virtual machine its own.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guest.bands import Bands
from guest.board import Board
from guest.native.code import Told
from guest.pattern import Pattern, key_of, rectangle_of
from guest.programs import RATIO_BITS, record
from guest.spec import ProgramSpec
from protocol.geometry import Geometry
from protocol.limits import BLOCK_COUNT_MAX

__all__ = ["ACCESS_WORDS", "Addresses", "ProgramData", "StateData", "Told", "accesses_of", "fill"]

_BANDS, _TRACE, _SCRIPTED = range(3)

# zipf has a band for each power of two of target pages; hotspot's schedule has ten places.
_BAND_COUNT_MAX = 48
_PLACE_COUNT_MAX = 64

# A trace's access: page, version, whether it writes, its time.
ACCESS_WORDS = 4

# No vCPU gets so far (guest/states.py).
_NEVER = 1 << 62

# How finely the time between two accesses is told, in ns; the longest, 1000 s, then has 60 bits.
_INTERVAL_BITS = 20

_U64 = ctypes.c_uint64


class _Band(ctypes.Structure):
    _fields_ = [(name, _U64) for name in ("size", "weight", "start", "rows", "columns", "key")]


class _Block(ctypes.Structure):
    _fields_ = [(name, _U64) for name in ("first_page", "page_count", "address")]


class ProgramData(ctypes.Structure):
    """`struct program`: what a vCPU is to do, and where it finds what, on one host."""

    _fields_ = [
        *(
            (name, _U64)
            for name in (
                "vcpu", "kind", "page_count", "ratio", "share", "is_sequential", "is_scattered",
                "is_image", "vcpu_key", "slot_key", "page_key", "scatter_key", "rows", "columns",
                "period", "access_count", "interval", "last_step", "is_timed",
                "clock_version", "clock_tsc", "clock_ns", "clock_scale",
                "generation", "kernel_logs", "anywhere",
                "words", "bins", "stopped", "present", "marks", "accesses",
            )
        ),
        ("schedule", _U64 * _PLACE_COUNT_MAX),
        ("earlier", _U64 * _PLACE_COUNT_MAX),
        ("bands", _Band * _BAND_COUNT_MAX),
        ("blocks", _Block * BLOCK_COUNT_MAX),
        ("template", _U64 * 512),
    ]  # fmt: skip


class StateData(ctypes.Structure):
    """`struct state`: all of a vCPU that is not in its registers and on its stack."""

    _fields_ = [
        (name, _U64)
        for name in (
            "step", "ended", "due", "start", "first_step", "page", "before", "after", "expected",
            "seen", "is_told", "is_idle", "asks_clock", "read_ns", "read_version",
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class Addresses:
    """Where the program finds what it works with.

    Attributes:
        blocks: The first byte of each RAMBlock.
        board: The first byte of the board.
        accesses: Of this vCPU's part of a trace, as `accesses_of` makes it; 0 for other programs.
    """

    blocks: tuple[int, ...]
    board: int
    accesses: int = 0


def accesses_of(spec: ProgramSpec, vcpu: int) -> NDArray[np.uint64]:
    """Return a vCPU's accesses of a trace, shape (accesses, ACCESS_WORDS); none without a trace."""
    if spec.trace is None:
        return np.zeros((0, ACCESS_WORDS), np.uint64)
    own = record(spec.trace, vcpu)
    times_ns = np.zeros(len(own.flat_pages)) if own.times_ns is None else own.times_ns
    columns = (own.flat_pages, own.versions, own.is_write, times_ns)
    return np.stack([column.astype(np.uint64) for column in columns], axis=1)


def fill(
    spec: ProgramSpec,
    geometry: Geometry,
    vcpu: int,
    board: Board,
    addresses: Addresses,
    *,
    is_thread: bool,
    last_step: int = _NEVER,
) -> ProgramData:
    """Return a vCPU's program; its clock is still to be set.

    Args:
        spec: What the guest's vCPUs do.
        geometry: Its blocks.
        vcpu: Which vCPU.
        board: The guest's.
        addresses: As this vCPU sees them.
        is_thread: It looks at the map of present pages before it touches one, marks what it writes
            unless the kernel does, and stops between two accesses alone; a virtual machine's does
            none of these.
        last_step: Before which access it parks for good.
    """
    data = ProgramData(vcpu=vcpu, page_count=geometry.target_page_count, last_step=last_step)
    data.ratio = round(spec.write_ratio * (1 << RATIO_BITS))
    data.is_image = spec.image
    rate = spec.access_rate(vcpu)
    data.interval = round((1e9 / rate) * (1 << _INTERVAL_BITS)) if rate else 0
    data.vcpu_key = int(key_of(spec.seed, 5, vcpu))
    data.slot_key = int(key_of(spec.seed, 4))
    pattern = Pattern(spec.seed)
    data.page_key = int(pattern.page_key)
    data.template[:] = pattern.template.tolist()
    if spec.name == "scripted":
        data.kind = _SCRIPTED
    elif spec.trace is not None:
        data.kind = _TRACE
        data.access_count = int(np.count_nonzero(spec.trace.vcpus == vcpu))
        data.accesses = addresses.accesses
        data.is_timed = spec.trace.times_ns is not None
    else:
        data.kind = _BANDS
        _fill_bands(data, Bands(spec.name, geometry.target_page_count, spec.vcpu_count, spec.seed))
    blocks = zip(geometry.target_page_bases, geometry.blocks, addresses.blocks, strict=True)
    for index, (base, block, address) in enumerate(blocks):
        data.blocks[index] = _Block(base, block.target_page_count, address)
    for name, offset in board.offsets(vcpu).items():
        setattr(data, name, addresses.board + offset)
    if is_thread:
        data.anywhere = 0
    else:
        data.present = data.marks = 0
    return data


def _fill_bands(data: ProgramData, bands: Bands) -> None:
    vcpu, page_count = data.vcpu, data.page_count
    data.is_sequential = bands.is_sequential
    data.is_scattered = bands.is_scattered
    data.share = bands.share(vcpu)
    data.scatter_key = int(bands.scatter_key)
    data.rows, data.columns = rectangle_of(page_count)
    data.period = len(bands.schedule)
    data.schedule[: data.period] = bands.schedule.tolist()
    data.earlier[: data.period] = bands.earlier.tolist()
    sizes, weights, starts = bands.sizes.tolist(), bands.weights.tolist(), bands.starts.tolist()
    for index, key in enumerate(bands.keys[vcpu].tolist()):
        rows, columns = rectangle_of(sizes[index])
        data.bands[index] = _Band(sizes[index], weights[index], starts[index], rows, columns, key)
