"""Frames that came changed: counted, confirmed, and sent again until none has.

Where frames go with checksums the destination says which of them came changed.  Until the guest is
handed over these are dirty, as what the guest writes is; then they go again as what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol import events
from protocol.errors import RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import Geometry
from protocol.limits import CLOSING_SECONDS_MAX, RESEND_COUNT_MAX
from protocol.messages import PassAck, PassEnd, Resend
from protocol.pageset import PageSet
from protocol.runs import unpack_runs
from source.channel import OutChannel
from source.returns import Inbox
from source.scheduler import Scheduler
from source.sender import Sender


class Resends:
    """Knows what came changed and has to go again.

    Attributes:
        checked: Checksums go with frames.
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

    def begin_epoch(self, *, checked: bool) -> None:
        """Note whether checksums go with the frames of new connections."""
        self.checked = checked

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

    async def confirm(self, inbox: Inbox, outs: Sequence[OutChannel]) -> None:
        """Hear that all that went over some channels has come and was looked at.

        Args:
            inbox: Brings the destination's word.
            outs: The channels.

        Raises:
            ConnectionLost: The connection broke.
            RemoteProtocolError: The destination says something else.
        """
        self._confirmations += 1
        for out in outs:
            await out.send(PassEnd(index=self._confirmations))
        for _ in outs:
            acked = await inbox.expect(PassAck, CLOSING_SECONDS_MAX)
            if acked.message.index != self._confirmations:
                raise RemoteProtocolError(
                    f"{acked.message.index} was acknowledged, not {self._confirmations}"
                )

    async def drain(self, sender: Sender, inbox: Inbox, outs: Sequence[OutChannel]) -> None:
        """Send again what came changed since the switch-over, until nothing has.

        Args:
            sender: Has sent all else.
            inbox: Brings the destination's word.
            outs: All channels.

        Raises:
            ConnectionLost, RemoteProtocolError: As `confirm`.
        """
        while True:
            await self.confirm(inbox, outs)
            if not self._scheduler.remaining_bytes:
                return
            await sender.drain()
