"""What a vCPU does: deterministic programs whose whole state is one step number.

Every vCPU owns one 8-byte slot in every target page and touches no other word: no two vCPUs race
for a word though all share all pages.  An access reads the vCPU's slot, compares it with what
must be there, and sometimes writes a new value.  The values that a slot goes through are its
*versions*: version 0 is what the guest was filled with, version v what the v-th write of its vCPU
put there.

Which version a slot has at step n follows from n alone.  Bands (guest/bands.py) say how often the
vCPU was at this page before, r times; and of its first r visits to a page it writes in
floor(r * write_ratio + phase), with a phase from 0 to 1 that is the page's own.  So the state that
crosses in a migration is the number n, and the destination knows what every read must find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guest.bands import BAND_PROGRAMS, Bands
from guest.mixing import Words, chain, key_of
from guest.pattern import WORDS_PER_TARGET_PAGE, Pattern
from guest.states import STEP_MAX
from guest.trace import Trace
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import Geometry
from protocol.limits import VCPU_COUNT_MAX

PROGRAM_NAMES = (*BAND_PROGRAMS, "trace", "scripted")

# Ten times what a thread of this interpreter can do.
ACCESS_RATE_MAX = 1_000_000

# Write ratios and phases count in units of 2**-24: visits times ratio then fits in 64 bits.
_RATIO_BITS = 24
_RATIO_SHIFT = np.uint64(_RATIO_BITS)
_PHASE_SHIFT = np.uint64(64 - _RATIO_BITS)
assert ((STEP_MAX + 2) << _RATIO_BITS).bit_length() <= 64

_SLOT_BYTES = 64
_SLOT_WORDS = np.uint64(_SLOT_BYTES // 8)
assert VCPU_COUNT_MAX * int(_SLOT_WORDS) == WORDS_PER_TARGET_PAGE

_ONE = np.uint64(1)


@dataclass(frozen=True)
class ProgramSpec:
    """What the source says about the guest's program; the destination learns it in the handshake.

    Attributes:
        name: One of PROGRAM_NAMES.  "scripted" vCPUs touch only what `GuestHandle.touch` says.
        vcpu_count: 1 to VCPU_COUNT_MAX.
        access_rates: Accesses a second, one rate for all vCPUs or one each; 0: without pause.
        write_ratio: The share of accesses that also write, 0 to 1; a trace has its own.
        seed: 0 to 2**64 - 1; of the pattern and of all pseudo-random choices.
        image: The guest was filled from a file, not with the pattern, so that the first value of a
            word is unknown and reading it checks nothing.
        trace: The recorded accesses, for "trace" and only for it.

    Raises:
        LocalProtocolError: A value that no guest can have.
    """

    name: str = "scripted"
    vcpu_count: int = 1
    access_rates: tuple[float, ...] = (0.0,)
    write_ratio: float = 0.0
    seed: int = 0
    image: bool = False
    trace: Trace | None = None

    def __post_init__(self) -> None:
        """Check every value's range."""
        if self.name not in PROGRAM_NAMES:
            raise LocalProtocolError(
                f"program {self.name!r} is not one of {', '.join(PROGRAM_NAMES)}"
            )
        if (self.trace is not None) != (self.name == "trace"):
            raise LocalProtocolError("a trace belongs to the program 'trace' and only to it")
        if not 1 <= self.vcpu_count <= VCPU_COUNT_MAX:
            raise LocalProtocolError(
                f"a guest has 1 to {VCPU_COUNT_MAX} vCPUs, not {self.vcpu_count}"
            )
        if len(self.access_rates) not in {1, self.vcpu_count}:
            raise LocalProtocolError(
                f"{len(self.access_rates)} access rates are neither one nor one for each vCPU"
            )
        for rate in self.access_rates:
            if not 0 <= rate <= ACCESS_RATE_MAX:
                raise LocalProtocolError(
                    f"an access rate of {rate} is not from 0 to {ACCESS_RATE_MAX}"
                )
        if not 0 <= self.write_ratio <= 1:
            raise LocalProtocolError(f"a write ratio of {self.write_ratio} is not from 0 to 1")
        if not 0 <= self.seed < 1 << 64:
            raise LocalProtocolError(f"seed {self.seed} is not from 0 to 2**64 - 1")

    def access_rate(self, vcpu: int) -> float:
        """Return a vCPU's accesses a second; 0: without pause."""
        return self.access_rates[vcpu if len(self.access_rates) > 1 else 0]

    def to_plain(self) -> dict[str, Any]:
        """Return the spec as a dict of what msgpack can carry."""
        return {
            "name": self.name,
            "vcpu-count": self.vcpu_count,
            "access-rates": [float(rate) for rate in self.access_rates],
            "write-ratio": float(self.write_ratio),
            "seed": self.seed,
            "image": self.image,
            "trace": self.trace.to_plain() if self.trace else None,
        }

    @classmethod
    def from_plain(cls, plain: object, geometry: Geometry) -> ProgramSpec:
        """Return the spec that a peer sent, as `to_plain` made it, for a guest.

        Raises:
            RemoteProtocolError: It is none, or not one for this guest.
        """
        if not (isinstance(plain, dict) and plain.keys() == _PLAIN_TYPES.keys()):
            raise RemoteProtocolError("the guest's program has not the fields that it must have")
        for field, types in _PLAIN_TYPES.items():
            if type(plain[field]) not in types:
                raise RemoteProtocolError(f"the guest's program: {field} has the wrong type")
        trace = plain["trace"]
        if trace is not None:
            trace = Trace.from_plain(trace, geometry, plain["vcpu-count"])
        try:
            return cls(
                plain["name"],
                plain["vcpu-count"],
                _rates(plain["access-rates"]),
                plain["write-ratio"],
                plain["seed"],
                plain["image"],
                trace,
            )
        except LocalProtocolError as error:
            raise RemoteProtocolError(f"the guest's program: {error}") from error


def _rates(plain: list[Any]) -> tuple[float, ...]:
    if any(type(rate) is not float for rate in plain):
        raise RemoteProtocolError("the guest's program: access-rates are not numbers")
    return tuple(plain)


_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "vcpu-count": (int,),
    "access-rates": (list,),
    "write-ratio": (float,),
    "seed": (int,),
    "image": (bool,),
    "trace": (dict, type(None)),
}


@dataclass(frozen=True, eq=False)
class AccessBatch:
    """Consecutive accesses of one vCPU, as arrays of the same length.

    Attributes:
        flat_pages: The flat target page of each access.
        slot_offsets: The byte offset in that target page of the vCPU's 8-byte slot.
        is_write: Whether the access writes `new_values` after it has read.
        expected: What the slot must hold before the access.
        has_expected: False where that is unknown (an image guest, not written yet).
        new_values: What the slot holds after the access, where `is_write`.
    """

    flat_pages: Words
    slot_offsets: Words
    is_write: NDArray[np.bool_]
    expected: Words
    has_expected: NDArray[np.bool_]
    new_values: Words

    def __len__(self) -> int:
        """Return how many accesses these are."""
        return len(self.flat_pages)


class Program:
    """A program over a guest: arithmetic only, no memory is touched."""

    def __init__(self, spec: ProgramSpec, geometry: Geometry) -> None:
        """Prepare to tell the accesses of the vCPUs of such a guest."""
        self.spec = spec
        self._pattern = Pattern(spec.seed)
        self._slot_key = key_of(spec.seed, 4)
        self._vcpu_keys = [key_of(spec.seed, 5, vcpu) for vcpu in range(spec.vcpu_count)]
        self._ratio = np.uint64(round(spec.write_ratio * (1 << _RATIO_BITS)))
        self._bands: Bands | None = None
        self._recorded: list[_Recorded] = []
        if spec.trace is not None:
            self._recorded = [_record(spec.trace, vcpu) for vcpu in range(spec.vcpu_count)]
        elif spec.name != "scripted":
            self._bands = Bands(spec.name, geometry.target_page_count, spec.vcpu_count, spec.seed)

    def batch(self, vcpu: int, first_step: int, count: int) -> AccessBatch:
        """Return the accesses first_step to first_step + count - 1 of a vCPU.

        Fewer at the end of a trace, and none for "scripted".
        """
        if self._bands is not None:
            visits = self._bands.visits(vcpu, first_step, count)
            keys = chain(self._vcpu_keys[vcpu], visits.flat_pages)
            scaled = visits.rounds * self._ratio + (keys >> _PHASE_SHIFT)
            before, after = scaled >> _RATIO_SHIFT, (scaled + self._ratio) >> _RATIO_SHIFT
            return self._accesses(vcpu, visits.flat_pages, before, after > before)
        if self._recorded:
            recorded = self._recorded[vcpu]
            part = slice(first_step, first_step + count)
            return self._accesses(
                vcpu, recorded.flat_pages[part], recorded.versions[part], recorded.is_write[part]
            )
        nothing = np.zeros(0, dtype=np.uint64)
        return self._accesses(vcpu, nothing, nothing, nothing.astype(np.bool_))

    def first_reads(self, vcpu: int, flat_pages: Words) -> AccessBatch:
        """Return reads of slots that their vCPU has never written: what "scripted" vCPUs do."""
        versions = np.zeros(len(flat_pages), dtype=np.uint64)
        return self._accesses(vcpu, flat_pages, versions, versions.astype(np.bool_))

    def _accesses(
        self, vcpu: int, flat_pages: Words, versions: Words, is_write: NDArray[np.bool_]
    ) -> AccessBatch:
        """Return accesses to these pages, whose slots have these versions before."""
        slots = (chain(self._slot_key, flat_pages) + np.uint64(vcpu)) % np.uint64(VCPU_COUNT_MAX)
        keys = chain(self._vcpu_keys[vcpu], flat_pages)
        first = self._pattern.initial_values(flat_pages, slots * _SLOT_WORDS)
        is_first = versions == 0
        return AccessBatch(
            flat_pages=flat_pages,
            slot_offsets=slots * np.uint64(_SLOT_BYTES),
            is_write=is_write,
            expected=np.where(is_first, first, chain(keys, versions)),
            has_expected=np.logical_not(is_first & self.spec.image),
            new_values=chain(keys, versions + _ONE),
        )


@dataclass(frozen=True, eq=False)
class _Recorded:
    """One vCPU's accesses of a trace, and the version that each finds."""

    flat_pages: Words
    versions: Words
    is_write: NDArray[np.bool_]


def _record(trace: Trace, vcpu: int) -> _Recorded:
    own = trace.vcpus == vcpu
    flat_pages, is_write = trace.flat_pages[own], trace.is_write[own]
    # The version that an access finds is the number of earlier writes to its page.  Sorted by page,
    # stably, that is a running count of writes minus what it was at the page's first access.
    order = np.argsort(flat_pages, kind="stable")
    writes = is_write[order].astype(np.uint64)
    earlier = np.cumsum(writes) - writes
    _, starts, lengths = np.unique(flat_pages[order], return_index=True, return_counts=True)
    versions = np.empty(len(flat_pages), dtype=np.uint64)
    versions[order] = earlier - np.repeat(earlier[starts], lengths)
    return _Recorded(flat_pages, versions, is_write)
