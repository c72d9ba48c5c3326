"""The payloads of the closing exchange: the destination's account of the guest it holds."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.report import DestPart


@dataclass(frozen=True, kw_only=True)
class AccountRecord:
    """The payload of `Account`.

    Attributes:
        states: The device state at the very end, when the guest stands still.
        digests: For each block, the hashes of its stretches, see `guest.digest`.
        first_mismatch: The first wrong read that a vCPU saw, for a person; empty if none.
        part: The destination's statistics.
    """

    states: bytes
    digests: tuple[bytes, ...]
    first_mismatch: str
    part: DestPart
