"""The two connections of a migration."""

from __future__ import annotations

from enum import Enum


class Channel(Enum):
    """A connection by its role; the values are the roles of `Hello` and the report's names."""

    PRECOPY = "precopy"
    POSTCOPY = "postcopy"

    # Each is the only one of its kind.  Enum's own hash, that of a name, is Python code, and for
    # every frame it is looked up several times what its channel is about.
    __hash__ = object.__hash__
