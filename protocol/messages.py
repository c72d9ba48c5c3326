"""Every message, as a frozen dataclass: its fields, its kind number, its bounds.

A message travels as one frame (`protocol.wire`).  Page bytes, bitmaps and other bulk are not part
of the message: a message that has some says how long they are in `payload_bytes`, and the frame
carries them after the header.  `protocol/README.md` shows who sends what, when.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from protocol.fields import Message
from protocol.page_messages import (
    Checksum,
    Discard,
    PageData,
    PageRequest,
    PassAck,
    PassEnd,
    RequestAnswer,
    Resend,
    RunData,
    SourceTime,
    ZeroData,
)
from protocol.recovery_messages import (
    HeldPart,
    MissingMap,
    PageRest,
    Standing,
)
from protocol.session_messages import (
    Abort,
    Hello,
    Ping,
    Ready,
    Resume,
    Setup,
    Welcome,
)
from protocol.switch_messages import (
    Account,
    Bye,
    End,
    Finished,
    Running,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    Verdict,
)

__all__ = [
    "BY_KIND",
    "FIELD_TYPES",
    "MESSAGE_TYPES",
    "PROTOCOL_VERSION",
    "Abort",
    "Account",
    "Bye",
    "Checksum",
    "Discard",
    "End",
    "Finished",
    "HeldPart",
    "Hello",
    "Message",
    "MissingMap",
    "PageData",
    "PageRequest",
    "PageRest",
    "PassAck",
    "PassEnd",
    "Ping",
    "Ready",
    "RequestAnswer",
    "Resend",
    "Resume",
    "RunData",
    "Running",
    "Setup",
    "SourceTime",
    "Standing",
    "SwitchOver",
    "SwitchOverAck",
    "SwitchOverAhead",
    "Verdict",
    "Welcome",
    "ZeroData",
]

PROTOCOL_VERSION = 2

MESSAGE_TYPES: tuple[type[Message], ...] = tuple(
    sorted(Message.__subclasses__(), key=lambda message_type: message_type.kind)
)
BY_KIND = {message_type.kind: message_type for message_type in MESSAGE_TYPES}
assert len(BY_KIND) == len(MESSAGE_TYPES)


def _field_types(message_type: type[Message]) -> dict[str, Any]:
    hints = get_type_hints(message_type)
    return {field.name: hints[field.name] for field in fields(message_type)}


FIELD_TYPES = {message_type: _field_types(message_type) for message_type in MESSAGE_TYPES}
