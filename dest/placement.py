"""Making received pages touchable for vCPUs."""

from __future__ import annotations

from typing import Protocol

from guest.handle import GuestHandle
from protocol.geometry import Geometry, Span


class Placement(Protocol):
    """Where pages become the guest's: after `place`, its vCPUs may touch them."""

    name: str

    def discard(self, span: Span) -> None:
        """Make vCPUs fault on a stretch; only while the guest stands still."""

    def place(self, span: Span) -> None:
        """Let vCPUs touch a stretch whose bytes are all in memory."""


class SimulatedPlacement:
    """Placement without the kernel: vCPUs look at a shared map before they touch."""

    name = "simulated"

    def __init__(self, geometry: Geometry, guest: GuestHandle) -> None:
        """Start with every page touchable."""
        self._geometry = geometry
        self._board = guest.board
        self._board.set_present(slice(None))

    def discard(self, span: Span) -> None:
        """Make vCPUs fault on a stretch; only while the guest stands still."""
        self._board.clear_present(self._flat(span))

    def place(self, span: Span) -> None:
        """Let vCPUs touch a stretch whose bytes are all in memory."""
        self._board.set_present(self._flat(span))

    def _flat(self, span: Span) -> slice:
        base = self._geometry.target_page_bases[span.block]
        return slice(base + span.target_pages.start, base + span.target_pages.stop)
