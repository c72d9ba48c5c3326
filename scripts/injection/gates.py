"""The gate of one channel in one direction of the proxy: hold, slow, delay, corrupt."""

from __future__ import annotations

import random

import trio

from scripts.injection.actions import NetworkAction
from scripts.injection.tap import Part
from scripts.links.throttle import Bucket


class Gate:
    """The state of one channel in one direction; pipes look at it before every byte.

    It is there before the channel is, so that a network can be bad from the start.
    """

    def __init__(self, seed: int, link: Bucket | None = None) -> None:
        """Let everything through.

        Args:
            seed: What decides which bits are flipped.
            link: The link between the sides, which nothing heals; None for no limit.
        """
        # Pipes that wait for a change of anything here.
        self.changed = trio.lowlevel.ParkingLot()
        self._random = random.Random(seed)
        self._stands = False
        self._stall: NetworkAction | None = None
        self._delay: NetworkAction | None = None
        self._throttle: NetworkAction | None = None
        self._bucket: Bucket | None = None
        self._link = link
        self._flips: dict[Part, int] = {}

    @property
    def stalled(self) -> bool:
        """Whether a scenario wants nothing to go."""
        return self._stall is not None

    @property
    def stands(self) -> bool:
        """Whether nothing may go because the network stands still."""
        return self._stands

    @property
    def shut(self) -> bool:
        """Whether nothing may go."""
        return self.stalled or self._stands

    def stand(self, stands: bool) -> None:
        """Let nothing through, or no longer for that reason; no action changes it."""
        if stands != self._stands:
            self._stands = stands
            self.changed.unpark_all()

    @property
    def delay_seconds(self) -> float:
        """How much later everything arrives."""
        return self._delay.by_ms / 1000 if self._delay else 0.0

    async def take_turn(self, count: int) -> int:
        """Wait for the rate; return how many of so many bytes may go, 0 if anything has changed."""
        buckets = [bucket for bucket in (self._bucket, self._link) if bucket is not None]
        count = min([count, *(bucket.piece_bytes for bucket in buckets)])
        now = trio.current_time()
        starts_at = max((bucket.take(count, now) for bucket in buckets), default=now)
        if starts_at <= now:
            return count
        with trio.move_on_at(starts_at):
            await self.changed.park()
            return 0
        return count

    def apply(self, action: NetworkAction, bucket: Bucket | None) -> None:
        """Do what an action says from the next byte on."""
        match action.do:
            case "stall":
                self._stall = action
            case "delay":
                self._delay = action
            case "throttle":
                self._throttle, self._bucket = action, bucket
            case "corrupt":
                self._flips[action.part] = self._flips.get(action.part, 0) + action.bits
            case "heal":
                self._stall = self._delay = self._throttle = self._bucket = None
                self._flips.clear()
        self.changed.unpark_all()

    def undo(self, action: NetworkAction) -> None:
        """End an action when its time is over, unless another has taken its place."""
        if self._stall is action:
            self._stall = None
        if self._delay is action:
            self._delay = None
        if self._throttle is action:
            self._throttle = self._bucket = None
        self.changed.unpark_all()

    def corrupts(self, part: Part) -> bool:
        """Return whether the next bytes of that part are to be spoiled."""
        return self._flips.get(part, 0) > 0

    def corrupt(self, part: Part, data: memoryview) -> memoryview:
        """Return bytes with as many bits flipped as are due, one in each byte from the first."""
        spoiled = bytearray(data)
        count = min(self._flips[part], len(spoiled))
        for index in range(count):
            spoiled[index] ^= 1 << self._random.randrange(8)
        self._flips[part] -= count
        return memoryview(spoiled)
