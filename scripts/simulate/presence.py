"""The pages that vCPUs may touch, and who is stopped: in the place of the kernel's map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dest.placement import Fault
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, Span
from scripts.simulate.agenda import Processor
from scripts.simulate.model import Model

# Of a placement, as reports name it.
MODELLED = "modelled"


class Bytes:
    """Guest memory of which nobody looks at a byte."""

    def __getitem__(self, _: object) -> Bytes:
        """Return what is as good."""
        return self

    def __setitem__(self, _: object, value: object, /) -> None:
        """Write nothing."""


class Presence:
    """Which units vCPUs may touch, and which vCPU is stopped at which; stands in for the kernel.

    Attributes:
        name: As reports name it.
        present: By unit, in one row for all blocks, what may be touched.
        stopped: By vCPU, the unit that it is stopped at, and since when.
    """

    is_told_by_kernel = True
    name = MODELLED

    def __init__(self, units: Geometry, model: Model, processor: Processor) -> None:
        """Start with all of it touchable.

        Args:
            units: The guest in what is placed at once.
            model: What placing takes.
            processor: The destination's.
        """
        self.present = np.ones(units.page_count, np.bool_)
        self.stopped: dict[int, tuple[int, int]] = {}
        self.on_wake: Callable[[int, int], None] = lambda _vcpu, _since: None
        self._units = units
        self._model = model
        self._processor = processor
        self._bases = np.cumsum([0, *(block.page_count for block in units.blocks)])
        self._stopped_at: dict[int, list[int]] = {}
        self._faults: list[Fault] = []
        self._flat_bases = np.array(units.target_page_bases, np.int64)
        self._per_unit = np.array([block.target_pages_per_page for block in units.blocks])

    def unit_of(self, flat: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the unit of each flat target page."""
        if len(self._per_unit) == 1:
            return flat // int(self._per_unit[0])
        blocks = np.searchsorted(self._flat_bases, flat, side="right") - 1
        inside = (flat - self._flat_bases[blocks]) // self._per_unit[blocks]
        units: NDArray[np.int64] = self._bases[blocks] + inside
        return units

    def touch(self, vcpu: int, flat: int, unit: int, now_ns: int) -> None:
        """Stop a vCPU that touches what is missing."""
        self.stopped[vcpu] = unit, now_ns
        self._stopped_at.setdefault(unit, []).append(vcpu)
        self._faults.append((vcpu, flat))

    def discard(self, span: Span) -> None:
        """See `dest.placement`."""
        self.present[self._slice(span)] = False

    def place(self, span: Span) -> None:
        """See `dest.placement`; whoever is stopped there goes on."""
        self._processor.use(span.length // TARGET_PAGE_BYTES * self._model.map_ns)
        units = self._slice(span)
        self.present[units] = True
        stopped = self._stopped_at
        if not stopped:
            return
        first, stop = units.start, units.stop
        if stop - first > len(stopped):
            found = [unit for unit in stopped if first <= unit < stop]
        else:
            found = [unit for unit in range(first, stop) if unit in stopped]
        for unit in found:
            for vcpu in stopped.pop(unit):
                self._wake(vcpu)

    def wake(self, vcpu: int) -> None:
        """Do nothing: it goes on since its page was mapped."""

    def release(self, vcpu: int, span: Span) -> None:  # noqa: ARG002 - it waits for one unit
        """See `dest.placement`."""
        if vcpu in self.stopped:
            unit, _ = self.stopped[vcpu]
            self._stopped_at[unit].remove(vcpu)
            if not self._stopped_at[unit]:
                del self._stopped_at[unit]
            self._wake(vcpu)

    def take_faults(self) -> list[Fault]:
        """See `dest.placement`."""
        faults, self._faults = self._faults, []
        return faults

    def completed(self, span: Span) -> None:
        """Do nothing: there is no mapping to mend."""

    def _wake(self, vcpu: int) -> None:
        _, since_ns = self.stopped.pop(vcpu)
        self.on_wake(vcpu, since_ns)

    def _slice(self, span: Span) -> slice:
        unit_bytes = self._units.blocks[span.block].page_bytes
        base = int(self._bases[span.block])
        return slice(base + span.offset // unit_bytes, base + -(-span.end // unit_bytes))
