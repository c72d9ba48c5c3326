"""The waits of a page in a real browser: each says why it was so long, and they can be sorted."""

import re
from pathlib import Path
from typing import Any

import pytest

from protocol.page_messages import ANSWERS
from protocol.report import STAGES
from tests.browser import Tab
from tests.run_pages import page_of, press
from tests.stories import MS, PAGE_BYTES, ZERO_NS, Story, broken_once, half_sent

WHY = "document.querySelector('#timeline .why').textContent"
ROWS = (
    "Array.from(document.querySelectorAll('.waittable tbody tr'), (row) =>"
    " Array.from(row.cells, (cell) => cell.innerText))"
)


def stages(**ms: float) -> dict[str, float]:
    """Return a wait's stages; those that are not named took no time."""
    return {f"{stage}-us": ms.get(stage, 0.0) * 1000 for stage in STAGES}


def retold(events: list[dict[str, Any]], page: int, **ms: float) -> list[dict[str, Any]]:
    """Return a story in which the wait for a page was made of these stages."""
    return [
        event | stages(**ms)
        if (event["event"], event.get("page")) == ("vcpu-wake", page)
        else event
        for event in events
    ]


def one_wait(answer: str | None, wait_ms: float, **said: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the story of one wait of vCPU 1, for page 4, that was answered so."""
    story = Story(pages=8)
    story.state(1, "active")
    story.state(2, "postcopy-active")
    story.start(3, 4, "precopy")
    story.wait(10, 1, 4)
    story.end(20, 4, "precopy", PAGE_BYTES)
    answered = {} if answer is None else {"answer": answer}
    story.wake(10 + wait_ms, 1, 4, wait_ms, **answered, **said)
    story.state(500, "completed")
    return story.events


def sentence(tab: Tab, folder: Path, events: list[dict[str, Any]], page: int) -> str:
    """Return what a page says when the wait for that page is pressed."""
    tab.open(page_of(folder, events))
    press(tab, f'.fall[data-page="{page}"]'.join(("document.querySelector('", "')")))
    tab.until(f"{WHY} !== ''")
    said: str = tab.run(WHY)
    # Numbers are not parted from their units.
    assert not re.search(r"[0-9] (?:ms|us|%|MiB)", said)
    said = said.replace("\u00a0", " ")
    # The story below has the same.
    assert (
        tab.run("document.querySelector('#story .why').textContent.replaceAll('\\u00a0', ' ')")
        == said
    )
    assert tab.errors == []
    return said


def test_why_a_boosted_wait_was_long(tab: Tab, tmp_path: Path) -> None:
    """Its page lay half-sent, and went on behind the page that had interrupted it."""
    events = retold(half_sent(), 5, detect=0.1, request=0.2, queue=14.5, send=12, receive=2)
    assert sentence(tab, tmp_path, events, 5) == (
        "vCPU 1 waited 28.8 ms for page 5: it lay half-sent when the request came, and its rest "
        "was sent on request, behind page 9; the longest part: waiting for its turn (14.5 ms, "
        "50 %)."
    )


def test_why_a_postponed_wait_was_long(tab: Tab, tmp_path: Path) -> None:
    """The policy put it off, and how many pages went meanwhile is counted in the sends."""
    story = Story(pages=8)
    story.state(1, "active")
    story.start(3, 4, "precopy")
    story.wait(10, 1, 4)
    story.end(20, 4, "precopy", PAGE_BYTES // 2, "preempt")
    for number, page in enumerate((1, 2, 1)):
        story.start(20 + 30 * number, page, "postcopy", urgent=True)
        story.end(50 + 30 * number, page, "postcopy", PAGE_BYTES, urgent=True)
    story.start(200, 4, "precopy")
    story.end(208, 4, "precopy", PAGE_BYTES // 2)
    told = stages(request=1, postponed=180, send=10, receive=9)
    story.wake(210, 1, 4, 200, answer="postponed", **told)
    # What comes after it did not hold it up.
    story.start(220, 6, "postcopy", urgent=True)
    story.end(230, 6, "postcopy", PAGE_BYTES, urgent=True)
    assert sentence(tab, tmp_path, story.events, 4) == (
        "vCPU 1 waited 200 ms for page 4: the background had begun it when the request came, and "
        "the policy put the request off, until 2 other pages had been sent on request; the longest "
        "part: put off by the policy (180 ms, 90 %)."
    )


def test_why_an_already_sent_wait_was_long(tab: Tab, tmp_path: Path) -> None:
    """Nothing had to be sent; with the link's rate it says what the link needs for the page."""
    events = one_wait("already-sent", 20, **stages(detect=1, receive=19))
    link = {"t-ns": ZERO_NS, "side": "source", "event": "link", "kind": "shaped"}
    events.append({**link, "bytes-per-second": 125_000_000})
    assert sentence(tab, tmp_path, events, 4) == (
        "vCPU 1 waited 20 ms for page 4: all of it was with the socket before the request came, "
        "so nothing had to be sent; the longest part: remaining transfer (19 ms, 95 %), of which "
        "the link needs 16.8 ms for 2 MiB."
    )


def test_the_link_is_not_blamed_for_a_part_of_a_page(tab: Tab, tmp_path: Path) -> None:
    """Where a page went in parts nobody knows which was waited for, so no part is timed."""
    events = one_wait("already-sent", 20, **stages(detect=1, receive=19))
    for event in events:
        if event["event"] == "page-sent":
            event["channel-bytes"] //= 2
    link = {"t-ns": ZERO_NS, "side": "source", "event": "link", "kind": "shaped"}
    said = sentence(tab, tmp_path, [*events, {**link, "bytes-per-second": 125_000_000}], 4)
    assert said.endswith("remaining transfer (19 ms, 95 %).")


def test_why_a_broken_wait_was_long(tab: Tab, tmp_path: Path) -> None:
    """A connection broke: for how long there was none, and what came of the second request."""
    events = retold(broken_once(), 3, detect=0.1, request=1.9, broken=60, queue=35)
    assert sentence(tab, tmp_path, events, 3) == (
        "vCPU 0 waited 97 ms for page 3: it was sent on request, and no other page went before "
        "it; a connection broke meanwhile, and it was requested again after 60 ms "
        "without one; the longest part: no connection (60 ms, 62 %)."
    )


def test_why_a_wait_was_long_whose_bytes_changed(tab: Tab, tmp_path: Path) -> None:
    """Stages that were gone through twice without a break are those of bytes that came again."""
    parts = "request 1000.000, send 3000.000, receive 5000.000, send 3000.000, receive 8000.000"
    told = stages(request=1, send=6, receive=13)
    events = one_wait("queued", 20, behind="0:2 0:3", behind_count=2, parts_us=parts, **told)
    assert sentence(tab, tmp_path, events, 4) == (
        "vCPU 1 waited 20 ms for page 4: it was sent in its turn, behind 2 pages (2 and 3); its "
        "bytes came changed, and were sent again; the longest part: remaining transfer (13 ms, "
        "65 %)."
    )


def test_every_answer_has_words(tab: Tab, tmp_path: Path) -> None:
    """All that a source can answer is put in words of its own, and none at all, too."""
    told = [*ANSWERS, None]
    words = []
    for answer in told:
        events = one_wait(answer, 10, **stages(receive=10))
        words.append(sentence(tab, tmp_path, events, 4).split(": ", 1)[1])
    assert len(set(words)) == len(told)
    # What nobody told is inferred from what came, and not made up.
    assert words[-1].startswith("it came as background, precopy channel;")


def test_a_wait_without_an_end(tab: Tab, tmp_path: Path) -> None:
    """Of a vCPU that still waits it is said for how long it had."""
    story = Story()
    story.state(1, "active")
    story.wait(10, 1, 4)
    story.state(40, "failed")
    assert sentence(tab, tmp_path, story.events, 4) == (
        "vCPU 1 had waited 30 ms for page 4 when the events end."
    )


def three_waits() -> list[dict[str, Any]]:
    """Return the story of waits that each order puts in another row."""
    story = Story(vcpus=3, pages=16)
    story.state(1, "active")
    waits = ((10, 2, 7, 30, "queued"), (20, 0, 3, 50, "boosted"), (30, 1, 11, 40, "already-sent"))
    for at_ms, vcpu, page, _, _ in waits:
        story.wait(at_ms, vcpu, page)
    for at_ms, vcpu, page, wait_ms, answer in sorted(waits, key=lambda wait: wait[0] + wait[3]):
        story.wake(at_ms + wait_ms, vcpu, page, wait_ms, answer=answer)
    story.state(100, "completed")
    return story.events


@pytest.mark.parametrize(
    ("column", "pages"),
    [
        ("page", ["3", "7", "11"]), ("vCPU", ["3", "11", "7"]), ("at, ms", ["7", "3", "11"]),
        ("answer", ["11", "3", "7"]), ("wait", ["7", "11", "3"]),
    ],
)  # fmt: skip
def test_waits_are_sorted_by_any_column(
    tab: Tab, tmp_path: Path, column: str, pages: list[str]
) -> None:
    """The longest come first; a column's name sorts by it, and again the other way round."""
    tab.open(page_of(tmp_path, three_waits()))
    assert [row[0] for row in tab.run(ROWS)] == ["3", "11", "7"]
    heads = "Array.from(document.querySelectorAll('.waittable .sort'))"
    head = f"{heads}.find((one) => one.textContent === '{column}')"
    orders = []
    for _ in range(2):
        press(tab, head)
        orders.append([row[0] for row in tab.run(ROWS)])
        sorted_by = "document.querySelectorAll('.waittable [aria-sort]')"
        sorts = f"Array.from({sorted_by}, (one) => one.innerText)"
        assert [each.strip(" ▲▼") for each in tab.run(sorts)] == [column]
    assert orders in ([pages, pages[::-1]], [pages[::-1], pages])
    assert tab.errors == []


def test_a_wait_beyond_the_rows_shown_is_turned_to(tab: Tab, tmp_path: Path) -> None:
    """What is chosen in the timeline is among the rows of the table; the others are turned over."""
    story = Story(vcpus=1, pages=64)
    story.state(1, "active")
    for number in range(50):
        at_ms = 10 + 100 * number
        story.wait(at_ms, 0, number)
        story.wake(at_ms + 50 - number / 2, 0, number, 50 - number / 2)
    tab.open(page_of(tmp_path, story.events))
    assert len(tab.run(ROWS)) == 30
    tab.run("midstream.lines[0].select(midstream.runs[0], 0, 44, false, 44)")
    shown = [row[0] for row in tab.run(ROWS)]
    assert shown == [str(page) for page in range(30, 50)]
    pressed = "document.querySelector('.waittable [aria-pressed=\"true\"]').dataset.page"
    assert tab.run(pressed) == "44"
    buttons = "Array.from(document.querySelectorAll('#faults button'))"
    press(tab, f"{buttons}.find((one) => one.innerText === 'previous')")
    assert [row[0] for row in tab.run(ROWS)] == [str(page) for page in range(30)]
    assert tab.errors == []


def test_a_request_between_two_qemus_is_no_vcpus_wait(tab: Tab, tmp_path: Path) -> None:
    """Where only requests are seen nobody knows of vCPUs: the sentence says what is known."""
    events = [
        {"t-ns": ZERO_NS, "side": "relay", "event": "run", "policy": "qemu", "chunk-bytes": 0,
         "vcpus": 0, "program": "unknown", "blocks": 0},
        {"t-ns": ZERO_NS + 50 * MS, "side": "relay", "event": "request-served", "block": 0,
         "page": 4, "channel": "postcopy", "latency-us": 12_000.0, "begun-bytes": 0, "lane": 0,
         "behind": "0:7", "behind-count": 1},
    ]  # fmt: skip
    assert sentence(tab, tmp_path, events, 4) == (
        "A request for page 4 took 12 ms: it came behind page 7."
    )
