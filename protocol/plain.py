"""Small msgpack values from the peer, never more containers than their kind can have.

An empty array is one byte on the wire and sixty in memory, and arrays may nest.  So besides their
lengths their number is bounded; what is over it ends the reading at once.
"""

from __future__ import annotations

from typing import Any

import msgpack

from protocol.errors import RemoteProtocolError


def unpack_plain(
    payload: bytes | bytearray, what: str, *, arrays_max: int, maps_max: int, items_max: int
) -> object:
    """Return what a payload holds: arrays as lists, maps as dicts, no extension types.

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
