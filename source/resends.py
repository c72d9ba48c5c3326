"""Frames that came changed: counted, confirmed, and sent again until none has.  Pure.

Where frames go with checksums the destination says which of them came changed.  Until the guest is
handed over these are dirty, as what the guest writes is; then they go again as what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol import events
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import Geometry
from protocol.limits import CLOSING_SECONDS_MAX, RESEND_COUNT_MAX
from protocol.messages import PassAck, PassEnd, Resend
from protocol.pageset import PageSet
from protocol.runs import unpack_runs
from source.scheduler import Scheduler
from source.steps import Drain, Say, Steps, expect


class Resends:
    """Knows what came changed and has to go again.

    Attributes:
        checked: Checksums go with the frames of the present connections.
    """

    def __init__(self, geometry: Geometry, scheduler: Scheduler, emit: Emit) -> None:
        """Prepare; no frame has gone.

        Args:
            geometry: The guest's blocks.
            scheduler: Takes what goes again after the switch-over, and counts all of it.
            emit: Takes an event about each frame.
        """
        self.checked = False
        self._geometry = geometry
        self._scheduler = scheduler
        self._emit = emit
        self._confirmations = 0
        # What came changed before the switch-over.
        self._changed = PageSet(geometry)

    def hear(self, resend: Resend, *, handed_over: bool) -> None:
        """Take the destination's word that a frame came changed.

        Args:
            resend: That.
            handed_over: The guest is not this side's any more: it goes again as what is missing.

        Raises:
            RemoteProtocolError: That cannot be, or is too often so.
        """
        runs, _ = unpack_runs(resend.block, resend.offset, resend.runs)
        if not self.checked or not self._geometry.has_span(runs.hull):
            raise RemoteProtocolError("Resend came for what cannot have gone")
        counts = self._scheduler.counts
        counts.changed_frames += 1
        counts.changed_bytes += runs.length
        if counts.changed_frames > RESEND_COUNT_MAX:
            raise RemoteProtocolError(f"more than {RESEND_COUNT_MAX} frames came changed")
        self._emit(events.FrameChanged(block=runs.block, offset=runs.offset, bytes=runs.length))
        if handed_over:
            self._scheduler.send_again(runs)
        else:
            self._changed.add(runs)

    def take_changed(self) -> PageSet:
        """Return what came changed before the switch-over, since this was last asked."""
        changed, self._changed = self._changed, PageSet(self._geometry)
        return changed

    def confirm(self, channels: Iterable[Channel]) -> Steps[None]:
        """Hear that all that went over some channels has come and was looked at.

        Raises:
            ConnectionLost: The connection broke.
            RemoteProtocolError: The destination says something else.
        """
        self._confirmations += 1
        channels = list(channels)
        for channel in channels:
            yield Say(PassEnd(index=self._confirmations), channel=channel)
        for _ in channels:
            acked = yield from expect(PassAck, CLOSING_SECONDS_MAX)
            if acked.message.index != self._confirmations:
                raise RemoteProtocolError(
                    f"{acked.message.index} was acknowledged, not {self._confirmations}"
                )

    def drain(self, channels: Iterable[Channel]) -> Steps[None]:
        """Send again what came changed since the switch-over, until nothing has.

        Args:
            channels: All that there are; all else has gone.

        Raises:
            ConnectionLost, RemoteProtocolError: As `confirm`.
        """
        while True:
            yield from self.confirm(channels)
            if not self._scheduler.remaining_bytes:
                return
            yield Drain()
