"""Credentials: a side proves itself with them, and wants the other side to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # It takes longer to load than most commands take to read their options.
    import ssl


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A secret, certificates, both or nothing.

    Attributes:
        secret: Both sides' secret; it is in no text that is made of this.
        tls: The context of this side, which demands the other side's certificate; None for a plain
            connection.
        server_name: A source's: the name or address that the destination's certificate must be for,
            where that is not the one it is connected to; None for that one.
    """

    secret: bytes | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str | None = None

    @property
    def demanding(self) -> bool:
        """Whether the other side has to prove anything."""
        return self.secret is not None or self.tls is not None


NOTHING = Credentials()
