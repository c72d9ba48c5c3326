"""What a benchmark is to measure, as its command line says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.links.link import LOOPBACK, Link
from scripts.qemu.against import Peer


class LeftOut(Exception):
    """A section cannot be measured on this machine; says why."""


@dataclass(frozen=True)
class Plan:
    """What the sections of a benchmark need to know.

    Attributes:
        quick: Measure only what takes a minute in all.
        runs: How often each figure is measured, neighbours in turn.
        length_bytes: Memory of each run of the stream and of its cost.
        page_sizes: Of the stream.
        chunk_size: As in `--chunk-size`.
        link: What lies between both ends; where there is a choice, the only one.
        say: Tells a person what is under way.
        against: A real QEMU to measure beside midstream; None for none.
    """

    quick: bool
    runs: int
    length_bytes: int
    page_sizes: tuple[str, ...]
    chunk_size: str
    link: Link
    say: Callable[[str], None]
    against: Peer | None = None

    @property
    def has_link(self) -> bool:
        """Whether the user wants everything measured on a link of a rate."""
        return self.link is not LOOPBACK

    def shape(self, page_size: str) -> dict[str, str]:
        """Return the options of `midstream migrate` for memory of pages of a size."""
        return {
            "size": str(self.length_bytes),
            "page-size": page_size,
            "chunk-size": self.chunk_size,
            "link": self.link.option,
        }
