"""Msgpack payloads: records, checked field by field when they come from the peer, and plain values.

Records are frozen dataclasses, for the bulk that ends a session (accounts, statistics).  Fields may
be int, float, str, bool, bytes, tuples of those, optional ones, and dataclasses again; a float is
finite, a str one line.

Plain values are small, and never have more containers than their kind can have: an empty array is
one byte on the wire and sixty in memory, and arrays may nest.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from protocol.errors import RemoteProtocolError
from protocol.text import is_one_line

R = TypeVar("R")


def pack_record(record: object) -> bytes:
    """Return a dataclass instance as a payload."""
    assert dataclasses.is_dataclass(record)
    assert not isinstance(record, type)
    packed: bytes = msgpack.packb(dataclasses.asdict(record))
    return packed


def unpack_record(record_type: type[R], payload: bytes) -> R:
    """Return the instance that a payload holds.

    What comes is read under the guidance of the type, so nothing is built that does not belong in
    it: a few bytes of nested claims cannot become a mountain of containers.

    Raises:
        RemoteProtocolError: It is not exactly one, by names and types of the fields.
    """
    reader = _Reader(payload)
    try:
        built = reader.read(record_type, record_type.__name__)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(
            f"{record_type.__name__} is cut short, not msgpack, or has a container out of place"
        ) from error
    if not reader.at_end:
        raise RemoteProtocolError(f"{record_type.__name__} has bytes after its end")
    assert isinstance(built, record_type)
    return built


_NIL = 0xC0


class _Reader:
    """Reads values of expected types off a payload, one after the other."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        # Containers are entered by their headers; none may come where a plain value is due.
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=len(payload), max_array_len=0, max_map_len=0, max_ext_len=0
        )
        self._unpacker.feed(payload)

    @property
    def at_end(self) -> bool:
        return bool(self._unpacker.tell() == len(self._payload))

    def read(self, expected: Any, where: str) -> object:  # noqa: ANN401 - a type expression
        """Read one value; `where` names it in errors."""
        if dataclasses.is_dataclass(expected):
            return self._read_dataclass(expected, where)
        origin, arguments = typing.get_origin(expected), typing.get_args(expected)
        if origin is types.UnionType:
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return None if self._skip_nil() else self.read(inner, where)
        if origin is tuple:
            count = _entered(self._unpacker.read_array_header, where, "array")
            return tuple(self.read(arguments[0], where) for _ in range(count))
        return _checked(expected, self._unpacker.unpack(), where)

    def _read_dataclass(self, expected: Any, where: str) -> object:  # noqa: ANN401
        hints = typing.get_type_hints(expected)
        values: dict[str, object] = {}
        for _ in range(_entered(self._unpacker.read_map_header, where, "map")):
            name = self._unpacker.unpack()
            if type(name) is not str or name not in hints or name in values:
                raise RemoteProtocolError(f"{where} has a field that is wrong or there twice")
            values[name] = self.read(hints[name], f"{where}.{name}")
        if len(values) != len(hints):
            missing = next(name for name in hints if name not in values)
            raise RemoteProtocolError(f"{where} has no {missing}")
        return expected(**values)

    def _skip_nil(self) -> bool:
        position: int = self._unpacker.tell()
        is_nil = position < len(self._payload) and self._payload[position] == _NIL
        if is_nil:
            self._unpacker.skip()
        return is_nil


def _entered(read_header: Callable[[], int], where: str, what: str) -> int:
    """Return how many items the container has that is due here."""
    try:
        return read_header()
    except ValueError as error:
        raise RemoteProtocolError(f"{where} is no {what}") from error


def _checked(expected: type, value: object, where: str) -> object:
    # A float that happens to be whole may come as an integer; a bool is never a number.
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise RemoteProtocolError(f"{where} is not of type {expected.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RemoteProtocolError(f"{where} is no finite number")
    if isinstance(value, str) and not is_one_line(value):
        raise RemoteProtocolError(f"{where} is no line of printable text")
    return value


def unpack_plain(
    payload: bytes | bytearray, what: str, *, arrays_max: int, maps_max: int, items_max: int
) -> object:
    """Return what a payload holds: arrays as lists, maps as dicts, no extension types.

    Besides their lengths the number of containers is bounded; what is over it ends the reading.

    Args:
        payload: Its length is bounded by the message that it came with.
        what: For the error.
        arrays_max: How many arrays there may be, at whatever depth.
        maps_max: The same for maps.
        items_max: The most items that one of either has.

    Raises:
        RemoteProtocolError: It is not msgpack, or has more than that.
    """
    left = {"array": arrays_max, "map": maps_max}

    def count(container: str, value: Any) -> Any:  # noqa: ANN401 - whatever msgpack made
        left[container] -= 1
        if left[container] < 0:
            raise RemoteProtocolError(f"{what} has too many {container}s in it")
        return value

    try:
        return msgpack.unpackb(
            payload,
            max_array_len=items_max,
            max_map_len=items_max,
            max_ext_len=0,
            list_hook=lambda value: count("array", value),
            object_hook=lambda value: count("map", value),
        )
    except (ValueError, msgpack.UnpackException, TypeError, RecursionError) as error:
        raise RemoteProtocolError(f"{what} is not msgpack") from error
