"""All vCPUs of a guest in its process, whatever runs them, and what the process does for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from guest import services
from guest.mapping import GuestMapping
from guest.thread import VcpuThread


class Crew:
    """All vCPUs of a guest, by their numbers.

    Attributes:
        needs_kernel: They can do neither without the kernel's help where pages are missing nor
            where writes are logged.
    """

    needs_kernel: ClassVar[bool] = False

    def __init__(self, vcpus: Sequence[VcpuThread], mapping: GuestMapping) -> None:
        """Take vCPUs that have not started, and what they touch."""
        self._vcpus = vcpus
        self._mapping = mapping

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._vcpus)

    def start(self, *, is_stopped_by_kernel: bool) -> list[int]:
        """Start all; return the kernel's numbers of their threads."""
        return [vcpu.start(is_stopped_by_kernel=is_stopped_by_kernel) for vcpu in self._vcpus]

    def touch(self, vcpu: int, flat_page: int) -> None:
        """Have one read a page."""
        self._vcpus[vcpu].touch(flat_page)

    def load(self, vcpu: int, state: bytes) -> None:
        """Have one take a state over; only while it is parked.

        Raises:
            GuestFailed: It cannot.
        """
        self._vcpus[vcpu].load(state)

    def provided(
        self, service: str, kinds: tuple[str, ...]
    ) -> AbstractContextManager[tuple[str, list[int]]]:
        """Set a service up, see `guest.services.provided`."""
        return services.provided(service, self._mapping, kinds)
