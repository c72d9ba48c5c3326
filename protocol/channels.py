"""The two connections of a migration."""

from __future__ import annotations

from enum import Enum


class Channel(Enum):
    """A connection by its role; the values are the roles of `Hello` and the report's names."""

    PRECOPY = "precopy"
    POSTCOPY = "postcopy"
