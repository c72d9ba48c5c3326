"""What a run with a QEMU comes to, from events and saved memories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protocol.channels import Channel
from protocol.geometry import PageId
from scripts.injection.checks import MemoryEqual
from scripts.injection.outcome import Outcome
from scripts.injection.qemu_results import carriers_told, differing_target_pages, early_pages

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


def placed(page: int, channel: Channel, pages: int = 1, block: int = 0) -> dict[str, Any]:
    """Return the event of placed pages."""
    place = {"block": block, "page": page, "pages": pages}
    return {"event": "page-placed", "channel": channel.value, **place}


def test_the_destination_tells_what_brought_a_page() -> None:
    """A page's channel is the one that completed it, be it alone or in a run."""
    told = [placed(3, PRE, pages=4), {"event": "state"}, placed(9, POST), placed(5, POST, block=1)]
    pages = [PageId(0, 5), PageId(0, 9), PageId(0, 7)]
    assert carriers_told(pages, told) == {pages[0]: [PRE], pages[1]: [POST], pages[2]: []}


def test_memories_are_compared_page_by_page(tmp_path: Path) -> None:
    """The source's bytes must stand at the beginning of the destination's; none is told."""
    source, dest = tmp_path / "source", tmp_path / "dest"
    source.write_bytes(b"a" * 4096 * 3)
    assert differing_target_pages(source, dest) is None
    dest.write_bytes(b"a" * 4096 * 2)
    assert differing_target_pages(source, dest) is None
    dest.write_bytes(b"a" * 4096 * 3 + b"rom!" * 1024)
    assert differing_target_pages(source, dest) == 0
    dest.write_bytes(b"a" * 4096 + b"a" * 4095 + b"b" + b"c" * 4096)
    assert differing_target_pages(source, dest) == 2


def test_memory_that_differs_is_a_failure() -> None:
    """Equal memory alone is as expected."""
    statuses = {"source": 0, "dest": 0}
    assert MemoryEqual().failure(Outcome(statuses, differing_target_pages=0)) is None
    for count, words in ((2, "2 target pages differ"), (None, "nothing to compare")):
        failure = MemoryEqual().failure(Outcome(statuses, differing_target_pages=count))
        assert failure is not None
        assert failure.seen == words


def test_a_page_that_was_in_the_socket_is_found() -> None:
    """Placed before the first of those asked for before it, a page was on its way already."""
    one, four, five = PageId(0, 1), PageId(0, 4), PageId(0, 5)
    steps = [(one, (four, one, five))]
    assert early_pages(steps, [one, four, five]) == [one]
    assert early_pages(steps, [one]) == [one]
    assert early_pages(steps, [four, one, five]) == []
    assert early_pages(steps, [four, five, one]) == []
    assert early_pages(steps, []) == []
    assert early_pages([(one, (one, four))], [one, four]) == []
