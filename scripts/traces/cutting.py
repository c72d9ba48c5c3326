"""Cuts a part out of a trace: some of its time, or of its accesses, or of its vCPUs.

What is left stands as it stood, with its places as they were written.  Times count from where the
cut begins, and vCPUs are numbered anew in their order, so that the part is a trace of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from guest.access_line import Access, format_access
from protocol.errors import LocalProtocolError
from protocol.limits import VCPU_COUNT_MAX
from protocol.units import parse_duration_ms

_NUMBER = re.compile(r"[0-9]{1,18}")
_VCPUS = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


@dataclass(frozen=True)
class Mark:
    """A place in a trace.

    Attributes:
        access: How many accesses of the file lie before it; None if it is a time.
        time_ns: What it is then.
    """

    access: int | None
    time_ns: int = 0

    def is_at_or_before(self, number: int, access: Access) -> bool:
        """Whether an access, the `number`th from 0, lies behind the mark."""
        if self.access is not None:
            return number >= self.access
        assert access.time_ns is not None
        return access.time_ns >= self.time_ns


def parse_mark(text: str) -> Mark:
    """Return a place: `2.5s` is a time, `1000` is before the access of that number, from 0.

    Raises:
        LocalProtocolError: It is neither.
    """
    if _NUMBER.fullmatch(text):
        return Mark(int(text))
    return Mark(None, round(parse_duration_ms(text) * 1e6))


def parse_vcpus(text: str) -> tuple[int, ...]:
    """Return vCPU numbers in their order, of `0,2-4`.

    Raises:
        LocalProtocolError: It is no list of them.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = _VCPUS.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < VCPU_COUNT_MAX:
            raise LocalProtocolError(
                f"{part.strip()!r} is not a vCPU from 0 to {VCPU_COUNT_MAX - 1}, or several as 2-4"
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


@dataclass(frozen=True)
class Cut:
    """Which accesses of a trace stay.

    Attributes:
        start: What lies before it goes; None for nothing.
        stop: What lies behind it goes; None for nothing.
        vcpus: Whose stay; None for all.
    """

    start: Mark | None = None
    stop: Mark | None = None
    vcpus: tuple[int, ...] | None = None

    @property
    def needs_times(self) -> bool:
        """Whether a mark is a time, which only a trace with times has."""
        return any(mark is not None and mark.access is None for mark in (self.start, self.stop))

    def kept(self, accesses: Iterable[Access]) -> Iterator[Access]:
        """Yield what stays, as it stood."""
        for number, access in enumerate(accesses):
            if self.start is not None and not self.start.is_at_or_before(number, access):
                continue
            if self.stop is not None and self.stop.is_at_or_before(number, access):
                continue
            if self.vcpus is None or access.vcpu in self.vcpus:
                yield access

    def lines(self, accesses: Callable[[], Iterable[Access]]) -> Iterator[str]:
        """Yield the lines of the part; `accesses` is called twice where times have to be found."""
        began_ns = 0
        if self.start is not None and self.start.access is None:
            began_ns = self.start.time_ns
        elif self.start is not None:
            times_ns = (access.time_ns for access in self.kept(accesses()))
            began_ns = min((time_ns for time_ns in times_ns if time_ns is not None), default=0)
        for access in self.kept(accesses()):
            time_ns = None if access.time_ns is None else access.time_ns - began_ns
            vcpu = access.vcpu if self.vcpus is None else self.vcpus.index(access.vcpu)
            yield format_access(access._replace(time_ns=time_ns, vcpu=vcpu))
