"""Bars of a timeline are few, as far as background that goes on can be put together."""

from scripts.views.bars import few_bars, joined
from scripts.views.records import BACKGROUND, URGENT, Send
from tests.stories import MS


def send(page: int, channel: str = "precopy", kind: str = BACKGROUND) -> Send:
    """Return a send of one page, which took a millisecond."""
    return Send(0, page, 1, channel, kind, page * MS, (page + 1) * MS, "page-sent", 1, None)


def test_bars_that_do_not_go_on_stay_apart() -> None:
    """A gap in the pages, another channel or a row's end begins a new bar."""
    sends = [send(0), send(1), send(3), send(4, "postcopy"), send(7), send(8)]
    assert [(bar.page, bar.pages, bar.bytes) for bar in joined(sends, 8)] == [
        (0, 2, 2), (3, 1, 1), (4, 1, 1), (7, 1, 1), (8, 1, 1)
    ]  # fmt: skip


def test_rows_grow_until_there_are_few_enough() -> None:
    """Eight pages a bar, then sixty-four; where all fit, each page has its own."""
    sends = [send(page) for page in range(128)]
    assert few_bars(sends, 128) == (sends, 1)
    bars, pages_per_bar = few_bars(sends, 16)
    assert ([bar.pages for bar in bars], pages_per_bar) == ([8] * 16, 8)
    bars, pages_per_bar = few_bars(sends, 15)
    assert ([bar.pages for bar in bars], pages_per_bar) == ([64, 64], 64)


def test_what_was_asked_for_is_never_put_together() -> None:
    """However few bars are wanted."""
    sends = [send(page, kind=URGENT) for page in range(9)]
    bars, _ = few_bars(sends, 2)
    assert len(bars) == 9
