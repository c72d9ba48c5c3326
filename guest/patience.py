"""Waits for a peer, but not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from protocol.errors import MidstreamError


@contextmanager
def patience(seconds: float, complaint: str, error: type[MidstreamError]) -> Iterator[None]:
    """Give what is done inside so many seconds.

    Args:
        seconds: How long.
        complaint: What did not happen meanwhile.
        error: What that is.

    Raises:
        error: It took longer.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise error(f"{complaint} in {seconds:g} s") from None
