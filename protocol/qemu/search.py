"""The search for a place from which a stream can be read again, through what comes meanwhile."""

from __future__ import annotations

from protocol.channels import Channel
from protocol.qemu.known import Known
from protocol.qemu.messages import QemuMessage
from protocol.qemu.pieces import DeviceSection, Found, Part
from protocol.qemu.resync import (
    TAIL_BYTES,
    Pending,
    Place,
    find_footer,
    find_record,
    find_section_end,
)

# The type and the section's number.
_FOOTER_BYTES = 5


class Search:
    """Looks for the end of a device's state, or of bytes that make no sense; `feed` it.

    Attributes:
        part: What the bytes are that it is fed.
    """

    def __init__(
        self, channel: Channel, known: Known, *, section_id: int | None = None, held: bytes = b""
    ) -> None:
        """Begin behind a section's head, or at the byte from which nothing can be read.

        Args:
            channel: Of which connection.
            known: What is known of the guest.
            section_id: The device's section, None where bytes make no sense.
            held: What has been fed to somebody else already, that byte first.
        """
        self.part = Part.UNREAD if section_id is None else Part.DEVICES
        self._channel = channel
        self._known = known
        self._section_id = section_id
        self._window = bytearray(held)
        # Where bytes make no sense, the first itself would only be found once more.
        self._start = 1 if section_id is None else 0
        self._skipped_bytes = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept, to be looked at again."""
        return len(self._window)

    def feed(self, data: memoryview, *, ended: bool) -> tuple[Place | None, bytes]:
        """Look for a place to read on; return it and all that is behind it.

        Args:
            data: What has come.
            ended: Nothing that can be read comes any more.
        """
        window = self._window
        window += data
        place = self._look(ended=ended)
        if isinstance(place, Place):
            self._skipped_bytes += place.at
            return place, bytes(window[place.at :])
        kept = place.at if place is not None else max(len(window) - TAIL_BYTES, 0)
        self._start = max(self._start - kept, 0)
        self._skipped_bytes += kept
        del window[:kept]
        return None, b""

    def says(self, place: Place) -> QemuMessage:
        """Return what it means that this place was found."""
        if self._section_id is None:
            return Found(by=place.by, skipped_bytes=self._skipped_bytes)
        # The footer is none of its state.
        return DeviceSection(
            name=self._known.sections[self._section_id],
            body_bytes=self._skipped_bytes - _FOOTER_BYTES,
        )

    def _look(self, *, ended: bool) -> Place | Pending | None:
        known, window, start = self._known, self._window, self._start
        if self._section_id is not None:
            return find_footer(window, start, self._section_id, known.sections)
        if ended:
            return None
        places = [find_record(window, start, known.blocks)]
        if self._channel is Channel.PRECOPY:
            if known.ram_id is not None:
                places.append(find_section_end(window, start, known.ram_id, known.sections))
            places += [
                find_footer(window, start, each, known.sections)
                for each in known.sections
                if each != known.ram_id
            ]
        found = [place for place in places if place is not None]
        return min(found, key=lambda place: place.at, default=None)
