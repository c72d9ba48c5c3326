"""Messages as the plain lists that go on the wire, and back; every field is checked both ways."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import CHECKS, INTEGER_MAX, WORDS
from protocol.messages import BY_KIND, FIELD_TYPES, Message


class _Layout:
    """What a kind of message looks like on the wire: found out once, and asked for each frame.

    Attributes:
        message_type: The message.
        names: Its fields, in their order.
    """

    def __init__(self, message_type: type[Message]) -> None:
        """Look at the fields of a message."""
        types = FIELD_TYPES[message_type]
        self.message_type = message_type
        self.names = tuple(types)
        self._types = tuple(types.values())
        # Most have numbers and truth values alone, and are checked as a whole.
        self._is_plain = set(self._types) <= {int, bool}
        self._values_of = attrgetter("kind", *self.names)

    def values_of(self, message: Message) -> tuple[object, ...]:
        """Return a message's kind, and the values of its fields."""
        values: tuple[object, ...] = self._values_of(message)
        return values

    def problem(self, values: tuple[Any, ...]) -> str:
        """Return what is wrong with the first bad field, or an empty string.

        Args:
            values: The fields' values, as many as there are fields.
        """
        is_right = (
            self._is_plain
            and tuple(map(type, values)) == self._types
            and min(values) >= 0
            and max(values) <= INTEGER_MAX
        )
        if not is_right:
            for name, expected, value in zip(self.names, self._types, values, strict=True):
                if not CHECKS[expected](value):
                    return f"{name} is not {WORDS[expected]}"
        payload_bytes: int = values[0]
        if payload_bytes > self.message_type.payload_bytes_max:
            return (
                f"a payload of {payload_bytes} bytes is over {self.message_type.payload_bytes_max}"
            )
        return ""


_LAYOUTS = {message_type: _Layout(message_type) for message_type in BY_KIND.values()}
_LAYOUT_BY_KIND = {kind: _LAYOUTS[message_type] for kind, message_type in BY_KIND.items()}
assert all(layout.names[0] == "payload_bytes" for layout in _LAYOUTS.values())


def to_fields(message: Message) -> tuple[object, ...]:
    """Return a message as the plain array that goes on the wire: kind, payload length, fields.

    Raises:
        LocalProtocolError: A field is out of its bounds.
    """
    layout = _LAYOUTS.get(type(message))
    if layout is None:
        raise LocalProtocolError(f"{type(message).__name__} is no message of the protocol")
    values = layout.values_of(message)
    problem = layout.problem(values[1:])
    if problem:
        raise LocalProtocolError(f"cannot send {type(message).__name__}: {problem}")
    return values


def from_fields(values: object) -> Message:
    """Return the message that a decoded header stands for.

    Raises:
        RemoteProtocolError: Not an array, an unknown kind, a wrong count, type or bound.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise RemoteProtocolError("a header is not a msgpack array with a kind")
    kind = values[0]
    if type(kind) is not int:
        raise RemoteProtocolError(f"a message kind of type {type(kind).__name__}")
    layout = _LAYOUT_BY_KIND.get(kind)
    if layout is None:
        raise RemoteProtocolError(f"unknown message kind {kind}")
    message_type, names = layout.message_type, layout.names
    if len(values) != len(names) + 1:
        raise RemoteProtocolError(
            f"{message_type.__name__} has {len(names)} fields, not {len(values) - 1}"
        )
    rest = tuple(values[1:])
    problem = layout.problem(rest)
    if problem:
        raise RemoteProtocolError(f"{message_type.__name__}: {problem}")
    # What a frozen dataclass's own constructor does, which makes a call for each field.  None is
    # left out here, and of those that are right none is changed.
    message = object.__new__(message_type)
    vars(message).update(zip(names, rest, strict=True))
    return message
