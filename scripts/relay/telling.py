"""What is told of a message that passes between two QEMUs: one event, with what it says.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from protocol import events
from protocol.qemu.messages import (
    Advise,
    AskReceived,
    Blocks,
    Configuration,
    DiscardRanges,
    Package,
    Ping,
    QemuMessage,
)
from protocol.qemu.pieces import Description, DeviceSection, OtherCommand, PackageEnd
from protocol.qemu.returned import (
    PageAsked,
    Pong,
    ReceivedBitmap,
    ResumeAck,
    Returned,
    Shut,
    Unnamed,
)

FORWARD, BACKWARD = "forward", "backward"

# By the name of the class where that in kebab case is not what it is called.
_NAMES = {
    "AskReceived": "ask-recv-bitmap",
    "DeviceSection": "device",
    "DiscardRanges": "discard",
    "EndOfSection": "preempt-end",
    "Package": "package-begin",
    "PackageEnd": "package",
    "PageAsked": "page-request",
    "ReceivedBitmap": "recv-bitmap",
}

# What each says, as fields of the event; a RAMBlock goes by its name here.
_Fields = dict[str, Any]


def message_name(message: QemuMessage | Returned) -> str:
    """Return what a message is called, in the log and in steps."""
    if isinstance(message, OtherCommand):
        return f"command-{message.number}"
    if isinstance(message, Unnamed):
        return f"kind-{message.kind}"
    name = type(message).__name__
    kebab = "".join(f"-{char.lower()}" if char.isupper() else char for char in name)
    return _NAMES.get(name, kebab.removeprefix("-"))


def block_name(message: QemuMessage | Returned) -> str | None:
    """Return the name of the RAMBlock that a message is about, None if it is about none."""
    if isinstance(message, (DiscardRanges, AskReceived, ReceivedBitmap, PageAsked)):
        return message.block
    return None


def message_event(
    connection: int, message: QemuMessage | Returned, indices: Mapping[str, int]
) -> events.PeerMessage:
    """Return the event that tells of a message.

    Args:
        connection: The connection's number.
        message: What has passed.
        indices: The RAMBlocks' numbers by their names.
    """
    is_forward = isinstance(message, QemuMessage)
    fields = _forward_fields(message) if is_forward else _backward_fields(message)
    block = block_name(message)
    if block is not None:
        # One that is not known is told by its name.
        fields |= {"block": indices[block]} if block in indices else {"text": block}
    return events.PeerMessage(
        connection=connection,
        direction=FORWARD if is_forward else BACKWARD,
        name=message_name(message),
        **{name: value for name, value in fields.items() if value is not UNSET},
    )


def _forward_fields(message: QemuMessage | Returned) -> _Fields:  # noqa: PLR0911 - a table
    match message:
        case Configuration(machine=text):
            return {"text": text}
        case Ping(value=value) | Advise(page_sizes=value):
            return {"value": value}
        case Blocks(blocks=blocks):
            return {"count": len(blocks)}
        case DiscardRanges(ranges=ranges):
            return {"bytes": sum(length for _, length in ranges), "count": len(ranges)}
        case Package(package_bytes=count) | PackageEnd(package_bytes=count):
            return {"bytes": count}
        case Description(description_bytes=count) | OtherCommand(length=count):
            return {"bytes": count}
        case DeviceSection():
            return {"bytes": message.body_bytes, "text": message.name}
    return {}


def _backward_fields(message: QemuMessage | Returned) -> _Fields:
    match message:
        case Pong(value) | ResumeAck(value):
            return {"value": value}
        case ReceivedBitmap():
            return {"bytes": message.bitmap_bytes, "count": message.set_count}
        case Shut(failed):
            return {"value": int(failed)}
        case Unnamed(length=count):
            return {"bytes": count}
        case PageAsked(offset=value, length=count):
            return {"value": value, "bytes": count}
    return {}
