"""vCPUs of a simulated guest: what they touch is the program's, when is the model's.  Pure.

Only an access that stops a vCPU is an event.  All before it are found with NumPy, many at once, so
what a run costs grows with the faults, and with the accesses only by some nanoseconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from guest.latency import new_histogram, record_latencies, summarize
from guest.programs import Program
from guest.states import VcpuState, encode_states
from protocol.geometry import Geometry
from protocol.report import Summary
from scripts.simulate.agenda import Agenda
from scripts.simulate.presence import Presence

Times = NDArray[np.int64]

# As many accesses are looked at together at first, and at most.
_FEW, _MANY = 64, 1 << 14
# So many latencies are sorted in together.
_GATHERED = 1 << 16


class Accesses:
    """The accesses of one vCPU from a step on, in batches, and when each can be made.

    Attributes:
        vcpu: Whose.
        step: The next.
        access_ns: How long each takes.
    """

    def __init__(self, program: Program, vcpu: int, first_step: int, access_ns: int) -> None:
        """Begin before the first.

        Args:
            program: What the vCPU does.
            vcpu: Which.
            first_step: Where it stands.
            access_ns: How long an access takes.
        """
        self.step = first_step
        self._program = program
        self.vcpu = vcpu
        self.access_ns = access_ns
        self._first_step = first_step

    def next(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], Times | None]:
        """Return flat target pages, which of them are written to, and when each is due, if so.

        Fewer at the end of a trace; times count from when the vCPU began to run.
        """
        flat, _, writes = self._program.touches(self.vcpu, self.step, count)
        dues_ns = self._program.dues_ns(self.vcpu, self._first_step, self.step, len(flat))
        self.step += len(flat)
        return flat.astype(np.int64), writes, dues_ns

    def made_ns(self, free_ns: int, dues_ns: Times | None, count: int) -> Times:
        """Return when accesses are made that nothing stops, each after the one before.

        Args:
            free_ns: When the first can be.
            dues_ns: Before when each is not; None for as soon as can be.
            count: How many they are.
        """
        steps_ns = np.arange(count, dtype=np.int64) * self.access_ns
        if dues_ns is None:
            return free_ns + steps_ns
        return np.maximum.accumulate(np.maximum(dues_ns - steps_ns, free_ns)) + steps_ns


class SourceVcpus:
    """The guest at the source: what it writes to until it is stopped.

    Attributes:
        steps: Where each vCPU stands.
    """

    def __init__(self, program: Program, geometry: Geometry, access_ns: int) -> None:
        """Stand still.

        Args:
            program: What vCPUs do.
            geometry: The guest's blocks.
            access_ns: How long an access takes.
        """
        count = program.spec.vcpu_count
        self.steps = [0] * count
        self._program = program
        self._page_count = geometry.target_page_count
        self._access_ns = access_ns
        self._vcpus = [Accesses(program, vcpu, 0, access_ns) for vcpu in range(count)]
        self._rest: list[tuple[NDArray[np.int64], NDArray[np.bool_], Times]] = []
        self._free_ns: list[int] = []
        self._dirty: list[NDArray[np.int64]] = []
        self._began_ns: int | None = None

    def run(self, now_ns: int) -> None:
        """Let them run from now on."""
        self._began_ns = now_ns
        self._free_ns = [now_ns] * len(self.steps)
        nothing = np.zeros(0, np.int64)
        self._rest = [(nothing, nothing.astype(np.bool_), nothing)] * len(self.steps)

    def harvest(self, now_ns: int) -> NDArray[np.intp]:
        """Return the flat target pages written to since this was last asked, ascending."""
        self._go_on(now_ns)
        dirty, self._dirty = self._dirty, []
        if not dirty:
            return np.zeros(0, np.intp)
        found: NDArray[np.intp] = np.unique(np.concatenate(dirty)).astype(np.intp)
        return found

    def stop(self, now_ns: int) -> bytes:
        """Bring them to a stand; return the device state."""
        self._go_on(now_ns)
        self._began_ns = None
        return encode_states(tuple(VcpuState(vcpu, step) for vcpu, step in enumerate(self.steps)))

    @property
    def trace_left(self) -> int | None:
        """Accesses of a trace that were not made here; None without one."""
        trace = self._program.spec.trace
        return None if trace is None else trace.left_after(self.steps)

    def _go_on(self, now_ns: int) -> None:
        if self._began_ns is None:
            return
        for vcpu, accesses in enumerate(self._vcpus):
            flat, writes, made_ns = self._rest[vcpu]
            while True:
                count = int(np.searchsorted(made_ns, now_ns, side="right"))
                if count:
                    self._free_ns[vcpu] = int(made_ns[count - 1]) + self._access_ns
                    self.steps[vcpu] += count
                    self._note(flat[:count][writes[:count]])
                flat, writes, made_ns = flat[count:], writes[count:], made_ns[count:]
                if len(flat) or self._free_ns[vcpu] > now_ns:
                    break
                flat, writes, dues_ns = accesses.next(_MANY)
                if not len(flat):
                    break
                if dues_ns is not None:
                    dues_ns = dues_ns + self._began_ns
                made_ns = accesses.made_ns(self._free_ns[vcpu], dues_ns, len(flat))
            self._rest[vcpu] = flat, writes, made_ns

    def _note(self, flat: NDArray[np.int64]) -> None:
        self._dirty.append(np.unique(flat))
        # What is dirty already takes no room again.
        if sum(map(len, self._dirty)) > 2 * self._page_count:
            self._dirty = [np.unique(np.concatenate(self._dirty))]


class Latencies:
    """How long each access took, from when it was due."""

    def __init__(self) -> None:
        """Start with none."""
        self._histogram = new_histogram()
        self._gathered: list[Times] = []
        self._count = 0

    def add(self, latencies_ns: Times) -> None:
        """Count some."""
        self._gathered.append(latencies_ns)
        self._count += len(latencies_ns)
        if self._count > _GATHERED:
            self._sort_in()

    def add_alike(self, latency_ns: int, count: int) -> None:
        """Count some that took as long as each other."""
        self._histogram.record_value(latency_ns, count)

    def summary(self) -> Summary:
        """Return their figures."""
        self._sort_in()
        return summarize(self._histogram)

    def _sort_in(self) -> None:
        if self._gathered:
            record_latencies(self._histogram, np.concatenate(self._gathered))
        self._gathered.clear()
        self._count = 0


class Vcpu:
    """One vCPU at the destination, from one fault to the next."""

    def __init__(
        self,
        accesses: Accesses,
        agenda: Agenda,
        latencies: Latencies,
        touch: Callable[[int, int, int], None],
        presence: Presence,
        is_whole: Callable[[], bool],
    ) -> None:
        """Prepare; `begin` lets it run.

        Args:
            accesses: What it does from where it stands.
            agenda: The run's.
            latencies: Takes how long they took.
            touch: Called with the number, a flat target page and its unit: it is missing.
            presence: What is not missing.
            is_whole: Tells whether nothing is.
        """
        self._accesses = accesses
        self._number, self._access_ns = accesses.vcpu, accesses.access_ns
        self._agenda = agenda
        self._latencies = latencies
        self._touch = touch
        self._unit_of = presence.unit_of
        self._present = presence.present
        self._is_whole = is_whole
        self._flat = self._units = np.zeros(0, np.int64)
        self._dues_ns: Times | None = None
        # The next access of the batch, and since when it can be made.
        self._at = 0
        self._began_ns = self._free_ns = 0
        # When those before it are made that nothing stops, and were due.
        self._made_ns: Times = self._flat
        self._were_due_ns: Times = self._flat
        self._size = _FEW
        self._is_over = False

    def begin(self) -> None:
        """Run, from now on."""
        self._began_ns = self._free_ns = self._agenda.now_ns
        self._seek()

    def went_on(self) -> None:
        """Make the access that was stopped: its page is here."""
        now_ns = self._agenda.now_ns
        due_ns = self._free_ns if self._dues_ns is None else int(self._dues_ns[self._at])
        self._latencies.add(np.array([now_ns + self._access_ns - due_ns]))
        self._at += 1
        self._free_ns = now_ns + self._access_ns
        self._seek()

    def stop(self) -> None:
        """Stand still: what would have been made later is not."""
        self._is_over = True
        self._count(int(np.searchsorted(self._made_ns, self._agenda.now_ns, side="right")))

    def _seek(self) -> None:
        """Find the next access that may stop it, and be there."""
        if self._at >= len(self._flat) and not self._take_batch():
            return
        count = self._count_present()
        dues_ns = None if self._dues_ns is None else self._dues_ns[self._at : self._at + count + 1]
        self._at += count
        if count:
            made_ns = self._accesses.made_ns(
                self._free_ns, dues_ns, count + 1 if dues_ns is None else len(dues_ns)
            )
            self._made_ns = made_ns[:count]
            self._were_due_ns = made_ns[:count] if dues_ns is None else dues_ns[:count]
            if count < len(made_ns):
                self._free_ns = int(made_ns[count])
            else:
                self._free_ns = int(made_ns[-1]) + self._access_ns
        elif dues_ns is not None:
            self._free_ns = max(self._free_ns, int(dues_ns[0]))
        self._agenda.at(max(self._free_ns, self._agenda.now_ns), self._arrive)

    def _count_present(self) -> int:
        """Return how many of the batch's accesses from the next on nothing stops."""
        present, units = self._present, self._units
        # Where much is missing the first is near, however long the batch.
        at, width = self._at, _FEW
        while at < len(units):
            are_here = present[units[at : at + width]]
            first = int(are_here.argmin())
            if not are_here[first]:
                return at + first - self._at
            at, width = at + width, 4 * width
        return len(units) - self._at

    def _take_batch(self) -> bool:
        self._flat, _, dues_ns = self._accesses.next(self._size)
        self._dues_ns = None if dues_ns is None else dues_ns + self._began_ns
        self._units = self._unit_of(self._flat)
        self._at = 0
        self._size = min(self._size * 2, _MANY)
        return len(self._flat) > 0

    def _arrive(self) -> None:
        if self._is_over:
            return
        self._count(len(self._made_ns))
        if self._is_whole():
            # Nothing stops it any more.
            return
        if self._at < len(self._flat) and not self._present[self._units[self._at]]:
            self._touch(self._number, int(self._flat[self._at]), int(self._units[self._at]))
        else:
            self._seek()

    def _count(self, count: int) -> None:
        """Count the first of the accesses that nothing has stopped."""
        if count and self._dues_ns is None:
            self._latencies.add_alike(self._access_ns, count)
        elif count:
            made_ns, due_ns = self._made_ns[:count], self._were_due_ns[:count]
            self._latencies.add(made_ns + self._access_ns - due_ns)
        self._made_ns = self._made_ns[:0]


def vcpus_of(steps: Sequence[int], program: Program, access_ns: int) -> list[Accesses]:
    """Return what each vCPU does from where it stands."""
    return [Accesses(program, vcpu, step, access_ns) for vcpu, step in enumerate(steps)]
