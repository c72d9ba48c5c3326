"""Shape of an event and of whoever takes events; types and bounds of events' fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Protocol

from msgspec import Meta, Struct

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import (
    BLOCK_COUNT_MAX,
    CHUNK_BYTES_MAX,
    GUEST_BYTES_MAX,
    MODELLED_VCPU_COUNT_MAX,
)
from protocol.report import STAGES

SOURCE: Literal["source"] = "source"
DEST: Literal["dest"] = "dest"
# What runs a scenario; it tells of its own steps.
INJECT: Literal["inject"] = "inject"
# What stands between a QEMU and its destination; it tells what it sees pass.
RELAY: Literal["relay"] = "relay"
_BOTH = (SOURCE, DEST)

# No number is negative, or larger.
_NUMBER_MAX = (1 << 63) - 1


def _below(end: int) -> Meta:
    return Meta(ge=0, le=end - 1)


Count = Annotated[int, Meta(ge=0, le=_NUMBER_MAX)]
Number = Annotated[float, Meta(ge=0, le=_NUMBER_MAX)]
BlockIndex = Annotated[int, _below(BLOCK_COUNT_MAX)]
PageIndex = Annotated[int, _below(GUEST_BYTES_MAX // TARGET_PAGE_BYTES)]
# As many as one frame carries.
PageCount = Annotated[int, _below(CHUNK_BYTES_MAX // TARGET_PAGE_BYTES + 1)]
BlockBytes = Annotated[int, _below(GUEST_BYTES_MAX + 1)]
VcpuIndex = Annotated[int, _below(MODELLED_VCPU_COUNT_MAX)]
VcpuCount = Annotated[int, _below(MODELLED_VCPU_COUNT_MAX + 1)]
# Of a text the whole must be as its pattern says.
ChannelName = Annotated[str, Meta(pattern="|".join(channel.value for channel in Channel))]
Way = Annotated[str, Meta(pattern="forward|backward")]
# BLOCK:PAGE, with spaces between.
PageNames = Annotated[str, Meta(pattern=r"[0-9]{1,3}:[0-9]{1,15}(?: [0-9]{1,3}:[0-9]{1,15}){0,63}")]
# STAGE MICROSECONDS, with commas between.
_PART = rf"(?:{'|'.join(STAGES)}) [0-9]{{1,15}}\.[0-9]{{3}}"
StageParts = Annotated[str, Meta(pattern=f"{_PART}(?:, {_PART})*")]


def _kebab(name: str) -> str:
    return re.sub(r"(?<=.)([A-Z])", r"-\1", name).lower()


class Event(
    Struct, frozen=True, kw_only=True, gc=False, rename="kebab", tag_field="event", tag=_kebab
):
    """Something that happened; a field that is UNSET does not stand in the file.

    Attributes:
        event: Its name in the events file.
        sides: Who tells it.
    """

    event: ClassVar[str]
    sides: ClassVar[tuple[str, ...]] = _BOTH

    def __init_subclass__(cls, **options: Any) -> None:  # type: ignore[explicit-override] # noqa: ANN401
        """Give the class its name in the file."""
        super().__init_subclass__(**options)
        cls.event = _kebab(cls.__name__)


class Emit(Protocol):
    """Takes an event; must be cheap and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Receive one event."""


def ignore(event: Event, /) -> None:
    """Ignore an event."""


def is_heard(emit: Emit) -> bool:
    """Whether anybody may hear of events: if not, those on a fault's way need not be made.

    It holds from the beginning to the end.  An `Emit` that can say so has it as `is_heard`.
    """
    return bool(getattr(emit, "is_heard", emit is not ignore))
