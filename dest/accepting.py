"""Accepts connections, whatever befalls single ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

# When the system is out of something, it needs a moment to have it again.
_PAUSE_SECONDS = 0.1


async def accept(
    sock: trio.socket.SocketType, complain: Callable[[str], None]
) -> tuple[trio.socket.SocketType, tuple[Any, ...]]:
    """Wait for a connection; return it and where it is from.

    Args:
        sock: Listens.
        complain: Takes a line about each that could not be accepted.
    """
    while True:
        try:
            return await sock.accept()
        except OSError as error:
            # Out of descriptors, or a client that gave up: none of that is ours to die of.
            complain(f"a connection could not be accepted: {error.strerror or error}")
            await trio.sleep(_PAUSE_SECONDS)
