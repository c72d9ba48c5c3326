"""The guest's own clock: the time stamp counter, made nanoseconds by each host for itself.

A vCPU reads the counter and scales it by what its host has put into its program: a base, in ticks
and in nanoseconds, and nanoseconds per tick, as paravirtual clocks do (pvclock).  Its zero is that
of the wall clock.  Whoever takes a vCPU over sets the base anew, so that the guest's time goes on
by what has passed, and counts the version up: who was stopped while he looked looks again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from guest.native.code import functions
from guest.native.layout import ProgramData, StateData

_SCALE_BITS = 32

# Over so long two clocks are compared: what reading both costs, 50 ns, is 3 of a million of it.
_CALIBRATION_NS = 20_000_000
_TRIES = 8


@dataclass(frozen=True)
class Moment:
    """The same moment by two clocks: the host's time stamp counter, and nanoseconds of another."""

    ticks: int
    ns: int

    @classmethod
    def monotonic(cls) -> Moment:
        """Look at the counter and at CLOCK_MONOTONIC."""
        return cls._of(time.CLOCK_MONOTONIC)

    @classmethod
    def wall(cls) -> Moment:
        """Look at the counter and at CLOCK_REALTIME."""
        return cls._of(time.CLOCK_REALTIME)

    @classmethod
    def _of(cls, clock: int) -> Moment:
        """Look at both as close to each other as can be had in some tries."""
        counter = functions().counter
        best = (1 << 62, 0, 0)
        for _ in range(_TRIES):
            before = counter()
            ns = time.clock_gettime_ns(clock)
            after = counter()
            best = min(best, (after - before, (before + after) // 2, ns))
        return cls(best[1], best[2])


class Calibration:
    """Measures how fast the time stamp counter goes, from when it is made until it is asked."""

    def __init__(self) -> None:
        """Begin.

        Raises:
            GuestFailed: This machine runs no such code.
        """
        self._began = Moment.monotonic()

    def ticks_per_second(self) -> float:
        """Return that; waits until there is something to go by."""
        left_ns = self._began.ns + _CALIBRATION_NS - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        now = Moment.monotonic()
        return (now.ticks - self._began.ticks) * 1e9 / (now.ns - self._began.ns)


class GuestClock:
    """The clock of one vCPU, as its host sets and reads it."""

    def __init__(
        self, program: ProgramData, state: StateData, ticks_per_second: float, offset: int = 0
    ) -> None:
        """Take a vCPU whose clock is to be kept; `start` or `resume` it before it runs.

        Args:
            program: The vCPU's, where its clock stands.
            state: Its own, where it notes when it last looked.
            ticks_per_second: How fast its counter goes.
            offset: What its counter shows more than the host's.
        """
        self._program = program
        self._state = state
        self._offset = offset
        program.clock_scale = round(1e9 / ticks_per_second * (1 << _SCALE_BITS))

    def start(self) -> None:
        """Begin with the wall clock's time: nothing has come before."""
        wall = Moment.wall()
        self._set(wall.ticks, wall.ns)
        self._state.read_ns = wall.ns
        self._state.read_version = self._program.clock_version
        self._state.ended = 0
        # How long it has not looked since then says nothing.
        self._state.is_idle = 1

    def resume(self, guest_ns: int, wall_ns: int) -> None:
        """Go on from where another host's clock was.

        Args:
            guest_ns: What the guest's clock showed there.
            wall_ns: What the wall clock showed at that moment.
        """
        wall = Moment.wall()
        # Where the wall clocks of two hosts differ the guest's does not go back.
        self._set(wall.ticks, guest_ns + max(wall.ns - wall_ns, 0))

    def read(self) -> tuple[int, int]:
        """Return what the guest's clock shows, and the wall clock at the same moment, in ns."""
        wall = Moment.wall()
        return self._ns(wall.ticks), wall.ns

    def monotonic_ns(self, guest_ns: int) -> int:
        """Return what CLOCK_MONOTONIC showed at a moment not long ago of the guest's clock."""
        now = Moment.monotonic()
        return now.ns - (self._ns(now.ticks) - guest_ns)

    def guest_ns(self, monotonic_ns: int) -> int:
        """Return what the guest's clock showed at a moment not long ago of CLOCK_MONOTONIC."""
        now = Moment.monotonic()
        return self._ns(now.ticks) - (now.ns - monotonic_ns)

    def now_ns(self) -> int:
        """Return what the guest's clock shows."""
        return self._ns(functions().counter())

    def _ns(self, host_ticks: int) -> int:
        program = self._program
        ticks: int = host_ticks + self._offset - program.clock_tsc
        return int(program.clock_ns + (ticks * program.clock_scale >> _SCALE_BITS))

    def _set(self, host_ticks: int, guest_ns: int) -> None:
        program = self._program
        program.clock_tsc = host_ticks + self._offset
        program.clock_ns = guest_ns
        # Greater than whatever its vCPU has seen, here or elsewhere.
        program.clock_version = max(program.clock_version, self._state.read_version) + 1
