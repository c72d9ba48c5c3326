"""What every message is: a kind, and fields; what it carries beside them is its payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Message:
    """Base of all messages; `payload_bytes` is 0 for those that carry no bulk."""

    kind: ClassVar[int]
    payload_bytes_max: ClassVar[int] = 0
    payload_bytes: int = 0
