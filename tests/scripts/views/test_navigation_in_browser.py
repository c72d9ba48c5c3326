"""Moving about in a page, in a real browser: pointer, keys, the address, and what is copied."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from protocol.report import STAGES
from tests.browser import Tab
from tests.run_pages import page_of, press
from tests.stories import PAGE_BYTES, Story, broken_once, half_sent

SPAN = "midstream.lines[0].x.map((tick) => midstream.lines[0].us(tick) / 1000)"
MIGRATION = "midstream.lines[0].migration"
# Where in the window a timeline has a moment, in milliseconds since the first page.
AT = """(line, ms, panel) => {
  line.canvas.scrollIntoView({ block: "center" });
  const box = line.canvas.getBoundingClientRect(), { top, height } = line.panels[panel];
  const tick = ms * 1000 / line.run.tick_us + line.run.begin;
  return [box.left + line.px(tick), box.top + top + height / 2];
}"""
FLAGS = """(() => {
  const line = midstream.lines[0], flags = [], own = line.flag;
  line.flag = (pen, words, ...more) => {
    flags.push(words);
    own.call(line, pen, words, ...more);
  };
  line.drawCursor(line.cursor);
  delete line.flag;
  return flags;
})()"""


def place(tab: Tab, ms: float, panel: str = "pages", line: int = 0) -> tuple[float, float]:
    """Return where in the window a moment is."""
    x, y = tab.run(f"({AT})(midstream.lines[{line}], {ms}, '{panel}')")
    return x, y


def test_dragging_zooms_to_a_stretch_of_time(tab: Tab, tmp_path: Path) -> None:
    """From where the button was pressed to where it was let go, and in either direction."""
    tab.open(page_of(tmp_path, half_sent()))
    for begin, end in ((10, 30), (25, 15)):
        tab.drag(*place(tab, begin), *place(tab, end))
        assert tab.run(SPAN) == pytest.approx(sorted((begin, end)), abs=0.1)
    # With Shift it moves what is shown, which stays as long.
    low, high = tab.run(SPAN)
    (x, y), (to_x, _) = place(tab, 20), place(tab, 18)
    tab.drag(x, y, to_x, y, shift=True)
    assert tab.run(SPAN) == pytest.approx([low + 2, high + 2], abs=0.1)
    # And nothing was chosen on the way.
    assert tab.run("midstream.chosen") is None
    # A hair's breadth is a click, and shows what is there.
    before = tab.run(SPAN)
    x, y = place(tab, 22, "vcpus")
    tab.drag(x, y - 5, x + 2, y - 5)
    assert tab.run(SPAN) == before
    assert tab.run("midstream.chosen.page") == 9
    assert tab.errors == []


def test_keys_zoom_and_move(tab: Tab, tmp_path: Path) -> None:
    """W and S zoom, A and D move, 0 shows all again; a field that is typed in keeps its letters."""
    tab.open(page_of(tmp_path, half_sent()))
    tab.run("midstream.lines[0].show([20000, 40000])")
    tab.key("w")
    narrow = tab.run("midstream.lines[0].x")
    assert narrow == pytest.approx([23_000, 37_000])
    tab.key("D")
    assert tab.run("midstream.lines[0].x") == pytest.approx([25_100, 39_100])
    tab.key("a")
    assert tab.run("midstream.lines[0].x") == pytest.approx(narrow)
    tab.key("s")
    assert tab.run("midstream.lines[0].x") == pytest.approx([20_200, 39_800])
    tab.run("document.getElementById('find0').focus()")
    tab.key("w")
    assert tab.run("document.getElementById('find0').value") == "w"
    assert tab.run("midstream.lines[0].x") == pytest.approx([20_200, 39_800])
    tab.run("document.getElementById('find0').blur()")
    tab.key("0")
    assert tab.run("midstream.lines[0].x") == tab.run(MIGRATION)
    assert tab.errors == []


def test_help_opens_and_closes(tab: Tab, tmp_path: Path) -> None:
    """By its key and by its button; while it is open no other key does anything."""
    tab.open(page_of(tmp_path, half_sent()))
    is_open = "document.getElementById('help').open"
    tab.key("?")
    tab.until(is_open)
    assert "zoom in and out" in tab.run("document.getElementById('help').innerText")
    tab.key("w")
    assert tab.run("midstream.lines[0].x") == tab.run(MIGRATION)
    tab.key("Escape")
    tab.until(f"!{is_open}")
    press(tab, "document.getElementById('helpbutton')")
    tab.until(is_open)
    press(tab, "document.querySelector('#help button')")
    tab.until(f"!{is_open}")
    assert tab.errors == []


def test_a_cursor_runs_through_all_panels(tab: Tab, tmp_path: Path) -> None:
    """It says the moment, what is missing, who waits and the rates; of all runs at once."""
    tab.open(page_of(tmp_path, half_sent(), broken_once()))
    tab.point(*place(tab, 10, "state"))
    tab.until("midstream.lines[0].cursor !== null")
    moment, missing, waiting, rates = tab.run(FLAGS)
    assert float(moment.removesuffix(" ms")) == pytest.approx(10, abs=0.5)
    assert missing == "31.5 MiB left to send"
    assert waiting == "2 waiting"
    assert rates.startswith("precopy 0 B/s, postcopy 15")
    assert tab.run("midstream.lines[1].cursor === midstream.lines[0].cursor")
    tab.point(5, place(tab, 10, "state")[1])
    tab.until("midstream.lines.every((line) => line.cursor === null)")
    assert tab.errors == []


def reopened(tab: Tab) -> str:
    """Open the page's present address anew, as one that was passed on; return it."""
    tab.until("location.hash.length > 1")
    # It is written a moment after what it tells of.
    tab.until("location.hash.slice(1) === addressOf(midstream)")
    address: str = tab.run("location.href")
    tab.open("about:blank")
    tab.open(address)
    return address.partition("#")[2]


def test_the_address_holds_what_is_shown(tab: Tab, tmp_path: Path) -> None:
    """The time, what is chosen and the order of the waits are there again, and gone back to."""
    page = page_of(tmp_path, half_sent())
    tab.open(page)
    tab.run("midstream.tables[0].sort('page', false)")
    press(tab, "document.querySelector('.fall[data-page=\"5\"]')")
    tab.run("midstream.lines[0].show([10000, 30000])")
    begin = tab.run("midstream.runs[0].begin")
    told = reopened(tab)
    assert told == f"t={10_000 - begin},{30_000 - begin}&wait=0&sort=page,up"
    assert tab.run("midstream.lines[0].x") == [10_000, 30_000]
    assert tab.run("document.querySelector('[aria-pressed=\"true\"]').dataset.page") == "5"
    assert "page 5" in tab.run("document.querySelector('#timeline .why').textContent")
    assert tab.run("[midstream.tables[0].key, midstream.tables[0].down]") == ["page", False]
    # What nobody could have written leaves the page as it begins.
    for wrong in ("t=5,1&wait=99", "t=x&page=0:999&sort=nothing,up", "run=7&wait=0", "%"):
        tab.open("about:blank")
        tab.open(f"{page}#{wrong}")
        assert tab.run("midstream.lines[0].x") == tab.run(MIGRATION), wrong
        assert tab.run("midstream.chosen") is None, wrong
        assert tab.errors == []


def test_the_address_of_two_runs(tab: Tab, tmp_path: Path) -> None:
    """Each run's own time where they do not show the same, and which run's page is chosen."""
    tab.open(page_of(tmp_path, half_sent(), broken_once()))
    press(tab, "document.getElementById('together')")
    tab.run("midstream.lines[1].show([20000, 60000])")
    tab.run("midstream.select(midstream.runs[1], 0, 3, false)")
    begin = tab.run("midstream.runs[1].begin")
    told = reopened(tab)
    assert told == f"t1={20_000 - begin},{60_000 - begin}&run=1&page=0:3"
    assert tab.run("midstream.lines[1].x") == [20_000, 60_000]
    assert tab.run("midstream.lines[0].x") == tab.run(MIGRATION)
    assert tab.run("midstream.runs.indexOf(midstream.chosen.run)") == 1
    assert tab.errors == []


def copied(tab: Tab, section: str) -> list[dict[str, str]]:
    """Press a section's button that copies; return the rows that the clipboard got."""
    tab.run(
        "Object.defineProperty(navigator, 'clipboard', { configurable: true, value: {"
        " writeText: async (text) => { window.got = text; } } })"
    )
    buttons = f"Array.from(document.querySelectorAll('#{section} button'))"
    press(tab, f"{buttons}.find((one) => one.innerText === 'copy as CSV')")
    tab.until(f"{buttons}.some((one) => one.innerText === 'copied')")
    return list(csv.DictReader(io.StringIO(tab.run("window.got"), newline="")))


def test_waits_are_copied(tab: Tab, tmp_path: Path) -> None:
    """All of them in the table's order, in microseconds, with stages and the sentence."""
    tab.open(page_of(tmp_path, half_sent()))
    rows = copied(tab, "faults")
    assert [row["page"] for row in rows] == ["5", "9"]
    assert [float(row["wait_us"]) for row in rows] == [28_800, 17_000]
    for row in rows:
        whole = sum(float(row[f"{stage}_us"]) for stage in STAGES)
        assert whole == pytest.approx(float(row["wait_us"]), abs=0.02)
    assert rows[0]["answer"] == "boosted"
    assert rows[0]["why"].startswith("vCPU 1 waited 28.8 ms for page 5: it lay half-sent")
    assert tab.errors == []


def test_events_are_copied_as_filtered(tab: Tab, tmp_path: Path) -> None:
    """Those that the filter leaves, with texts that hold the format's own signs."""
    story = Story()
    story.tell(5, "source", "state", state="failed", reason='it said "no",\nand left')
    tab.open(page_of(tmp_path, story.events))
    tab.run(
        "(() => { const field = document.getElementById('kind'); field.value = 'state';"
        " field.dispatchEvent(new Event('input')); })()"
    )
    (row,) = copied(tab, "events")
    assert row["what"] == 'state failed, reason it said "no",\nand left'
    assert tab.errors == []


def test_copying_without_leave_takes_the_old_way_or_says_so(tab: Tab, tmp_path: Path) -> None:
    """A browser that keeps the clipboard to itself is not said to have copied."""
    tab.open(page_of(tmp_path, half_sent()))
    tab.run(
        "Object.defineProperty(navigator, 'clipboard', { configurable: true, value: undefined });"
        "document.execCommand = () => false;"
    )
    buttons = "Array.from(document.querySelectorAll('#faults button'))"
    press(tab, f"{buttons}.find((one) => one.innerText === 'copy as CSV')")
    tab.until(f"{buttons}.some((one) => one.innerText === 'the browser does not allow it')")
    assert tab.errors == []


def test_two_runs_share_their_scales(tab: Tab, tmp_path: Path) -> None:
    """Both begin with the same time, and follow each other; curves and bars are of one scale."""
    late: list[dict[str, Any]] = [
        event | ({"t-ns": event["t-ns"] + 5_000_000} if event["event"] != "run" else {})
        for event in half_sent()
    ]
    tab.open(page_of(tmp_path, late, broken_once()))
    spans = "midstream.lines.map((line) => line.x.map((tick) => Math.round(line.us(tick))))"
    first, second = tab.run(spans)
    assert first == second
    assert first[1] > 190_000
    tab.drag(*place(tab, 30, line=1), *place(tab, 60, line=1))
    first, second = tab.run(spans)
    assert first == second == pytest.approx([30_000, 60_000], abs=300)
    most = tab.run("midstream.tables.map((table) => table.most)")
    assert most == pytest.approx([97_000, 97_000])
    # Apart, each goes its own way.
    press(tab, "document.getElementById('together')")
    tab.run("midstream.lines[0].show([20000, 25000])")
    first, second = tab.run(spans)
    assert first != second
    assert tab.errors == []


def test_curves_of_two_runs_are_of_one_scale(tab: Tab, tmp_path: Path) -> None:
    """What is missing is drawn against the most that any run missed."""
    larger = Story(pages=64)
    larger.start(10, 1, "precopy")
    larger.end(20, 1, "precopy", PAGE_BYTES)
    tab.open(page_of(tmp_path, half_sent(), larger.events))
    scales = tab.run("midstream.lines.map((line) => line.scale.missing)")
    assert scales == [64 * PAGE_BYTES] * 2
    assert tab.errors == []


def test_differences_of_two_runs(tab: Tab, tmp_path: Path) -> None:
    """What the second came to against the first, and how many times as much; alike is said."""
    tab.open(page_of(tmp_path, half_sent(), broken_once()))
    rows = {
        row[0]: row[-1].replace("\u00a0", " ")
        for row in tab.run(
            "Array.from(document.querySelectorAll('#summary tr, #faults tr'), (row) =>"
            " Array.from(row.cells, (cell) => cell.innerText))"
        )
    }
    assert rows["longest wait"] == "+68.3 ms (3.37 times)"
    assert rows["waits"] == "\u22121 (\u221250 %)"
    assert rows["preempted pages"] == "\u22121"
    assert rows["page requests"] == "the same"
    assert rows["queue: waiting for its turn"].startswith("+8.23 ms (4.24 times)")
    tab.open(page_of(tmp_path, half_sent()))
    assert "against" not in tab.run("document.getElementById('summary').innerText")
    assert tab.errors == []
