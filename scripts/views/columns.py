"""A file of events as columns: what NumPy and data frames take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.views.saved import read_all

Columns = dict[str, NDArray[Any]]


def columns_of(path: Path) -> Columns:
    """Return the fields of a file's events, each as an array with a place for every event.

    Raises:
        LocalProtocolError: The file cannot be read, or a line is no event: which, and why.
    """
    events = list(read_all(path))
    # Those that every event has come first.
    names = dict.fromkeys(("t-ns", "side", "event", *(name for event in events for name in event)))
    return {name: _array([event.get(name) for event in events]) for name in names}


def _array(values: list[Any]) -> NDArray[Any]:
    """Return values as an array; nanoseconds stay whole, of what is missing NaN or None is left."""
    kinds = {type(value) for value in values}
    if kinds <= {int}:
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
