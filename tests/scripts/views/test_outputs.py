"""A page is one file that fetches nothing, runs no script but its own, and holds what it shows."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from scripts.views import embed as module
from scripts.views.embed import embed
from scripts.views.outputs import fill, history_of, run_page
from tests.stories import PAGE_BYTES, Story, half_sent

Plain = dict[str, Any]


class Elements(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        """Parse it."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._within = ""
        self.feed(page)

    def handle_starttag(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:  # type: ignore[explicit-override] # as above
        """Note the text that follows a tag."""
        self.texts.setdefault(self._within, []).append(data)


def column(part: Plain, name: str, kind: str) -> list[float]:
    """Return a column as a page's script has it."""
    values: list[float] = np.frombuffer(base64.b64decode(part[name]), f"<{kind}").tolist()
    return values


def story(**run: Any) -> Plain:  # noqa: ANN401
    """Return what is embedded of the story of the half-sent page."""
    events = half_sent()
    events[0] |= run
    return embed(history_of(events), "a run")


def test_the_columns_hold_every_send() -> None:
    """Places, times, channels, kinds and ends are as the events told."""
    plain = story()
    sends = plain["sends"]
    assert column(sends, "page", "f8") == [5, 9, 5, 7]
    kinds = [int(bits) for bits in column(sends, "kind", "u1")]
    assert [plain["kinds"][bits & 3] for bits in kinds] == [
        "background", "urgent", "boosted", "background"
    ]  # fmt: skip
    assert [plain["channels"][bits >> 2 & 1] for bits in kinds] == [
        "precopy", "postcopy", "precopy", "precopy"
    ]  # fmt: skip
    assert [plain["ends"][bits >> 3] for bits in kinds] == ["preempt", *["page-sent"] * 3]
    assert column(sends, "start", "u4") == [14_000, 16_000, 30_000, 45_000]
    assert column(sends, "bytes", "f4")[0] == PAGE_BYTES / 4


def test_the_waits_come_with_their_stages_longest_first() -> None:
    """Each wait has its stages, and the number of the send that ended it."""
    waits = story()["waits"]
    assert column(waits, "page", "f8") == [5, 9]
    assert column(waits, "send", "u4") == [2, 1]
    stages = np.reshape(column(waits, "stages", "f4"), (2, 9))
    assert stages.sum(axis=1) == pytest.approx(column(waits, "latency", "f4"))


def test_lines_over_time_have_the_right_area() -> None:
    """The mean number of waiting vCPUs over all stretches sums up to the total."""
    plain = story()
    points = np.array(plain["waiting"])
    width = points[1, 0] - points[0, 0]
    assert points[:, 1].sum() * width == pytest.approx(plain["waited_us"], rel=1e-3)


def test_what_is_too_much_for_a_page_is_put_together_or_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Background that goes on is joined, what was asked for keeps its bars, and it is said so."""
    monkeypatch.setattr(module, "BARS_MAX", 11)
    tale = Story(pages=100)
    for page in range(80):
        tale.start(page, page, "precopy")
        urgent = page == 41
        tale.end(page + 1, page, "precopy", PAGE_BYTES, urgent=urgent)
    plain = embed(history_of(tale.events), "long")
    assert plain["pages_per_bar"] == 64
    pages = column(plain["sends"], "page", "f8")
    counts = column(plain["sends"], "pages", "u4")
    assert sum(counts) == 80
    assert dict(zip(pages, counts, strict=True))[41] == 1
    assert len(pages) <= 11
    monkeypatch.setattr(module, "WAITS_MAX", 1)
    left_out = story()["left_out"]
    assert left_out["waits"] == 1
    # Nobody can say more than what was there.
    monkeypatch.setattr(module, "BARS_MAX", 1)
    assert story()["left_out"]["sends"] == 3


def test_a_run_of_days_fits_its_columns() -> None:
    """Times are counted in ticks that become longer with the run."""
    tale = Story()
    tale.start(0, 1, "precopy")
    day_ms = 24 * 3600 * 1000
    tale.end(day_ms, 1, "precopy", PAGE_BYTES)
    plain = embed(history_of(tale.events), "long")
    (end,) = column(plain["sends"], "end", "u4")
    assert end * plain["tick_us"] == pytest.approx(day_ms * 1000, rel=1e-6)


def test_a_page_fetches_nothing() -> None:
    """No element names an address, and the policy allows this script alone."""
    page = run_page([story()], "a title")
    found = Elements(page)
    for tag, attributes in found.tags:
        assert not {"src", "href", "data", "action"} & attributes.keys(), tag
    (policy,) = [
        attributes["content"]
        for tag, attributes in found.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_events_say_ends_no_element() -> None:
    """Texts out of a file of events, and a title, stay texts, whatever signs are in them."""
    nasty = "</script><script>alert(1)</script><!-- \u2028 & 'quotes\" @@DATA@@"
    page = run_page([story(policy=nasty)], nasty)
    found = Elements(page)
    assert [tag for tag, _ in found.tags].count("script") == 2
    block = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(block[0])["runs"][0]["run"]["policy"] == nasty
    assert "<title>&lt;/script&gt;" in page


def test_a_template_is_filled_once() -> None:
    """What is put in is not looked at again."""
    assert fill("a @@X@@ b @@Y@@", {"X": "@@Y@@", "Y": "y"}) == "a @@Y@@ b y"
