"""Target pages that come twice: over each channel once, but where one came changed."""

from __future__ import annotations

import numpy as np
import pytest

from dest.copies import Copies
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.runs import Runs

BASE = TARGET_PAGE_BYTES
PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
GUEST = Geometry((RamBlock("one", 8 * BASE, BASE), RamBlock("two", 8 * BASE, BASE)))


def again(copies: Copies, channel: Channel, *pages: int, block: int = 1) -> bool:
    """Have target pages come that are not missing; return whether they may."""
    try:
        copies.come_again(channel, block, np.array(pages))
    except RemoteProtocolError:
        return False
    return True


def pages(first: int, count: int = 1) -> Span:
    """Return target pages of the second block."""
    return Span(1, first * BASE, count * BASE)


@pytest.mark.parametrize("span", [pages(3), pages(2, 3), Runs.of_span(pages(2, 3))])
def test_once_over_each_channel(span: Span | Runs) -> None:
    """Whichever comes first, the other may come behind it, and then none."""
    copies = Copies(GUEST)
    copies.came(POST, span)
    assert not again(copies, POST, 3)
    assert not again(copies, PRE, 3, block=0)
    assert again(copies, PRE, 3)
    assert not again(copies, PRE, 3)
    assert not again(copies, POST, 3)
    copies.came(PRE, pages(6))
    assert not again(copies, PRE, 6)
    assert again(copies, POST, 6)
    assert not again(copies, POST, 6)


def test_of_a_frame_all_may_or_none() -> None:
    """What is refused has changed nothing."""
    copies = Copies(GUEST)
    copies.came(POST, pages(3))
    with pytest.raises(RemoteProtocolError, match="block 1 came again over the precopy channel"):
        copies.come_again(PRE, 1, np.array([3, 4]))
    assert again(copies, PRE, 3)


def test_a_break_begins_anew() -> None:
    """What is missing then comes once more over either channel, and may be overtaken."""
    copies = Copies(GUEST)
    copies.came(POST, pages(3))
    copies.restart()
    assert not again(copies, PRE, 3)
    assert again(copies, POST, 3)


def test_what_came_changed_may_come_as_often_as_the_source_likes() -> None:
    """It does not know which copies are still on their way."""
    copies = Copies(GUEST)
    copies.came(POST, pages(3))
    copies.reopen(Runs.of_span(pages(3)))
    copies.came(POST, pages(3))
    for channel in (PRE, POST, PRE):
        assert again(copies, channel, 3)
    assert not again(copies, PRE, 4)
