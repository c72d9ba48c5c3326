"""Every message, as a frozen record: its fields, its kind number, its bounds.

A message travels as one frame (`protocol.wire`).  Page bytes, bitmaps and other bulk are not part
of the message: a message that has some says how long they are in `payload_bytes`, and the frame
carries them after the header.  `protocol/README.md` shows who sends what, when.
"""

from __future__ import annotations

from typing import Any, get_type_hints

from protocol.fields import Message
from protocol.page_messages import (
    Checksum,
    Discard,
    HeldPart,
    MissingMap,
    PageData,
    PageRequest,
    PageRest,
    PassAck,
    PassEnd,
    RequestAnswer,
    Resend,
    RunData,
    SourceTime,
    Standing,
    ZeroData,
)
from protocol.session_messages import (
    Abort,
    Account,
    Bye,
    End,
    Finished,
    Hello,
    Ping,
    Ready,
    Resume,
    Running,
    Setup,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    Verdict,
    Welcome,
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

for _message_type in Message.__subclasses__():
    _tag = _message_type.__struct_config__.tag
    assert isinstance(_tag, int)
    _message_type.kind = _tag

MESSAGE_TYPES: tuple[type[Message], ...] = tuple(
    sorted(Message.__subclasses__(), key=lambda message_type: message_type.kind)
)
BY_KIND = {message_type.kind: message_type for message_type in MESSAGE_TYPES}


def _field_types(message_type: type[Message]) -> dict[str, Any]:
    hints = get_type_hints(message_type)
    return {name: hints[name] for name in message_type.__struct_fields__}


# The plain type of each field, without its bounds.
FIELD_TYPES = {message_type: _field_types(message_type) for message_type in MESSAGE_TYPES}
