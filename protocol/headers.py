"""Messages as the plain lists that go on the wire, and back; every field is checked both ways."""

from __future__ import annotations

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import CHECKS, WORDS
from protocol.messages import BY_KIND, FIELD_TYPES, Message


def to_fields(message: Message) -> list[object]:
    """Return a message as the plain list that goes on the wire: kind, payload length, fields.

    Raises:
        LocalProtocolError: A field is out of its bounds.
    """
    names = FIELD_TYPES.get(type(message))
    if names is None:
        raise LocalProtocolError(f"{type(message).__name__} is no message of the protocol")
    values = {name: getattr(message, name) for name in names}
    problem = _problem(type(message), values)
    if problem:
        raise LocalProtocolError(f"cannot send {type(message).__name__}: {problem}")
    return [message.kind, *values.values()]


def from_fields(values: object) -> Message:
    """Return the message that a decoded header stands for.

    Raises:
        RemoteProtocolError: Not an array, an unknown kind, a wrong count, type or bound.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise RemoteProtocolError("a header is not a msgpack array with a kind")
    kind, *rest = values
    if type(kind) is not int:
        raise RemoteProtocolError(f"a message kind of type {type(kind).__name__}")
    message_type = BY_KIND.get(kind)
    if message_type is None:
        raise RemoteProtocolError(f"unknown message kind {kind}")
    names = FIELD_TYPES[message_type]
    if len(rest) != len(names):
        raise RemoteProtocolError(
            f"{message_type.__name__} has {len(names)} fields, not {len(rest)}"
        )
    named = dict(zip(names, rest, strict=True))
    problem = _problem(message_type, named)
    if problem:
        raise RemoteProtocolError(f"{message_type.__name__}: {problem}")
    return message_type(**named)


def _problem(message_type: type[Message], values: dict[str, object]) -> str:
    """Return what is wrong with the first bad field, or an empty string."""
    for name, expected in FIELD_TYPES[message_type].items():
        if not CHECKS[expected](values[name]):
            return f"{name} is not {WORDS[expected]}"
    payload_bytes = values["payload_bytes"]
    assert isinstance(payload_bytes, int)
    if payload_bytes > message_type.payload_bytes_max:
        return f"a payload of {payload_bytes} bytes is over {message_type.payload_bytes_max}"
    return ""
