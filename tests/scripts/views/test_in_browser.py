"""The pages in a real browser: they are drawn, answer, and complain of nothing."""

import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from scripts.screen.words import time_us
from scripts.views.embed import embed
from scripts.views.live import LiveState
from scripts.views.outputs import history_of, run_page
from scripts.views.serve import Server
from tests.browser import Tab
from tests.run_pages import page_of, press
from tests.stories import PAGE_BYTES, ZERO_NS, Story, broken_once, half_sent

# Where in the timeline's canvas a page is at a time (ms), and the colour that is there.
PLACE = """(page, ms) => {
  const line = midstream.lines[0];
  const box = line.canvas.getBoundingClientRect();
  const x = line.px(ms * 1000), y = line.py((page + 0.75) * line.run.blocks[0].page_bytes);
  // A pattern may lie over it: the colour is the one that most of the place has.
  const data = line.canvas.getContext("2d").getImageData(x - 4, y - 2, 9, 5).data, counts = {};
  for (let i = 0; i < data.length; i += 4) {
    const name = `rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  const [[colour]] = Object.entries(counts).sort((one, other) => other[1] - one[1]);
  return { x: box.left + x, y: box.top + y, colour };
}"""
COLOUR = """(name) => {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}"""
ROWS = "Array.from(document.querySelectorAll('#events tbody tr'), (row) => row.innerText)"
SHOW = "Array.from(document.querySelectorAll('button')).find((one) => one.innerText === 'show')"
TIP = "document.getElementById('tip').textContent"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page about the half-sent page."""
    path = tmp_path_factory.mktemp("page") / "run.html"
    plain = embed(history_of(half_sent()), "a run")
    path.write_text(run_page([plain], "midstream run"), encoding="utf-8")
    return path.as_uri()


def test_the_half_sent_page_is_found(tab: Tab, address: str) -> None:
    """Page 5 is seen in the map as background, broken off, and as boosted; its wait has stages."""
    tab.open(address)
    for page, ms, name in (
        (5, 15.0, "--background"),
        (5, 36.0, "--boosted"),
        (9, 20.0, "--urgent"),
    ):
        assert tab.run(f"({PLACE})({page}, {ms})")["colour"] == tab.run(f"({COLOUR})('{name}')")
    # A fault that is pointed at tells its stages.
    box = tab.run(
        "(() => { const fall = document.querySelector('.fall[data-page=\"5\"]');"
        "fall.scrollIntoView(); const box = fall.getBoundingClientRect();"
        "return [box.left + 5, box.top + box.height / 2]; })()"
    )
    tab.point(*box)
    tab.until(f"{TIP} !== ''")
    told = tab.run(TIP)
    assert told.startswith("vCPU 1 waits for page 5: 28.8 ms")
    assert "served by: rest of a half-sent page" in told
    assert all(f"{stage}: 3.2 ms" in told for stage in ("detect", "queue", "send", "wake"))
    assert "answered: boosted, behind page 9" in told
    # And one that is chosen tells the page's story.
    tab.point(*box, click=True)
    story = "document.getElementById('story').innerText"
    tab.until(f"{story}.includes('Page 5')")
    words = tab.run(story)
    order = ["interrupted (preempted)", "boosted: goes on urgently", "all of it is sent", "placed"]
    assert [words.index(each) for each in order] == sorted(words.index(each) for each in order)
    # Of that wait alone, in whole microseconds, and how long after the line before.
    rows = "Array.from(document.querySelectorAll('#story tbody tr'), (row) => row.innerText)"
    assert tab.run(rows)[:3] == [
        "5,200\t\tvCPU 1 touches it and waits",
        "5,350\t+150\trequested",
        "5,500\t+150\tthe source has the request: queued",
    ]
    assert tab.run(rows)[-1] == "34,000\t+50\tvCPU 1 runs again after 28.8 ms"
    tab.run("document.querySelector('#story button').click()")
    assert tab.run(rows)[0].startswith("4,000\t\tsend begins")
    assert tab.errors == []


def test_the_map_answers_the_pointer(tab: Tab, address: str) -> None:
    """What lies under the pointer is told, and a click chooses it."""
    tab.open(address)
    tab.run("midstream.lines[0].canvas.scrollIntoView()")
    place = tab.run(f"({PLACE})(9, 20)")
    tab.point(place["x"], place["y"])
    tab.until(f"{TIP}.startsWith('page 9: sent on request, postcopy channel')")
    tab.point(place["x"], place["y"], click=True)
    tab.until("document.getElementById('story').innerText.includes('Page 9')")
    assert tab.errors == []


def test_events_are_filtered(tab: Tab, address: str) -> None:
    """By page and by kind; what fits nothing leaves no row."""
    tab.open(address)
    every = tab.run(ROWS)
    set_to = "(id, value) => { const field = document.getElementById(id); field.value = value; "
    set_to += "field.dispatchEvent(new Event('input')); }"
    tab.run(f"({set_to})('pagefilter', '5')")
    rows = tab.run(ROWS)
    assert 0 < len(rows) < len(every)
    assert all("\t5\t" in row for row in rows)
    tab.run(f"({set_to})('kind', 'preempt')")
    (row,) = tab.run(ROWS)
    assert "512 KiB" in row
    tab.run(f"({set_to})('words', 'nowhere')")
    assert tab.run(ROWS) == []
    assert tab.errors == []


def waits_twice(first_ms: float) -> list[dict[str, Any]]:
    """Return the story of a vCPU that waits for one page twice, seconds apart."""
    story = Story()
    story.state(1, "active")
    story.start(2, 3, "precopy")
    story.end(30, 3, "precopy", PAGE_BYTES)
    story.state(5000, "postcopy-active")
    for ms in (first_ms, first_ms + 2000):
        story.wait(ms, 0, 3)
        story.start(ms + 1, 3, "postcopy", urgent=True)
        story.end(ms + 8, 3, "postcopy", PAGE_BYTES, urgent=True)
        story.wake(ms + 10, 0, 3, 10)
    story.state(9000, "completed")
    return story.events


def test_a_wait_that_is_pressed_is_shown(tab: Tab, tmp_path: Path) -> None:
    """That very wait, in its own run's timeline, and no other; nothing before the first event."""
    tab.open(page_of(tmp_path, waits_twice(5100), waits_twice(6000)))
    # By itself: together they would show the same time.
    press(tab, "document.getElementById('together')")
    before = tab.run("midstream.lines.map((line) => line.x)")
    falls = "Array.from(document.querySelectorAll('.fall[data-run=\"1\"]'))"
    waits = "midstream.runs[1].waits"
    for number in (0, 1):
        press(tab, f"{falls}.find((fall) => fall.dataset.wait === '{number}')")
        tab.until(f"{falls}[{number}].getAttribute('aria-pressed') === 'true'")
        start, wake = tab.run(f"[{waits}.start[{number}], {waits}.wake[{number}]]")
        low, high = tab.run("midstream.lines[1].x")
        assert 0 <= low < start < wake < high
        assert high - low < 2 * (wake - start)
        assert tab.run("document.querySelectorAll('.fall[aria-pressed=\"true\"]').length") == 1
        assert tab.run("midstream.lines[0].x") == before[0]
        top = tab.run("midstream.lines[1].figure.getBoundingClientRect().top")
        assert abs(top) < 50
    # One at the very beginning does not lead before it.
    press(tab, "document.querySelector('.fall[data-run=\"0\"]')")
    assert tab.run("midstream.lines[0].x[0]") >= 0
    assert abs(tab.run("midstream.lines[0].figure.getBoundingClientRect().top")) < 50
    assert tab.errors == []


def test_a_page_that_is_looked_for_is_shown(tab: Tab, tmp_path: Path) -> None:
    """All of what happened to it since postcopy began, where a vCPU waited for it."""
    tab.open(page_of(tmp_path, waits_twice(5100)))
    tab.run("document.getElementById('find0').value = '3'")
    press(tab, SHOW)
    low, high = tab.run("midstream.lines[0].x.map((tick) => midstream.lines[0].us(tick) / 1e3)")
    assert 0 <= low < 5099
    assert high > 7100
    # What nothing happened to is marked, and what is shown remains.
    shown = tab.run("midstream.lines[0].x")
    tab.run("document.getElementById('find0').value = '9'")
    press(tab, SHOW)
    tab.until("document.getElementById('story').innerText.includes('Nothing happened')")
    low, high = tab.run("midstream.lines[0].x")
    assert low <= shown[0]
    assert high >= shown[1]
    assert tab.errors == []


def test_times_in_the_events_are_alike_and_in_order(tab: Tab, tmp_path: Path) -> None:
    """Each to the microsecond since its own run's first page, whenever the events began."""
    late = [
        event | ({"t-ns": event["t-ns"] + 5_000_000} if event["event"] != "run" else {})
        for event in half_sent()
    ]
    tab.open(page_of(tmp_path, half_sent(), late))
    times = tab.run(
        "Array.from(document.querySelectorAll('#events tbody tr'), (row) => row.cells[1].innerText)"
    )
    assert all(re.fullmatch(r"-?[0-9,]+\.[0-9]{3}", each) for each in times)
    values = [float(each.replace(",", "")) for each in times]
    assert values == sorted(values)
    assert min(values) < 0 < max(values)


def test_times_are_said_as_everywhere(tab: Tab, address: str) -> None:
    """The page's script and the sentences that it is given write a time alike."""
    times_us = [
        *(0, 0.0004, -0.0004, 0.0421, 0.06, 0.9996, 1, 9.94, 9.96, 99.94, 99.96, 280, 999.4, 999.6),
        *(1234, 43_200, 99_960, 999_400, 999_600, 17_892_000, 59.94e6, 60e6, 3.59e9, 3.6e9, 6e10),
        *(3.6e13, -68_300, -5e6),
    ]
    tab.open(address)
    said = tab.run(f"{times_us}.map(sayTime)")
    assert said == [time_us(each) for each in times_us]


def test_counts_of_one_are_singular(tab: Tab, tmp_path: Path) -> None:
    """A guest may have one vCPU, and one page."""
    tab.open(page_of(tmp_path, Story(vcpus=1, pages=1).events, half_sent()))
    words = tab.run("document.getElementById('summary').innerText")
    assert "1 vCPU," in words
    assert "2 vCPUs," in words
    assert tab.errors == []


def test_labels_are_not_cut_off(tab: Tab, tmp_path: Path) -> None:
    """Of a long block name as much is shown as there is room for, and no label over another."""
    story = Story()
    for number in range(1, 6):
        story.tell(
            0, "dest", "ram-block", block=number, name=f"/rom@etc/acpi/a-long-table-{number}",
            length_bytes=4096, page_bytes=4096,
        )  # fmt: skip
    tab.open(page_of(tmp_path, story.events))
    drawn = tab.run(
        "(() => { const line = midstream.lines[0], labels = []; const own = line.label;"
        "line.label = (pen, words, x, y, ...more) => {"
        "  labels.push([words, x - pen.measureText(words).width, y]);"
        "  own.call(line, pen, words, x, y, ...more); };"
        "line.draw(); delete line.label; return labels; })()"
    )
    pages = [label for label in drawn if ":" in label[0] and "peak" not in label[0]]
    assert any("-table-" in words for words, _, _ in pages)
    assert all(left >= 12 for _, left, _ in pages)
    heights = sorted(y for _, _, y in pages)
    assert all(after - before >= 11 for before, after in pairwise(heights))


def colours_of(pdf: bytes) -> set[str]:
    """Return the fill colours of a PDF, as red, green and blue from 0 to 255."""
    found = set()
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            text = zlib.decompressobj().decompress(stream)
        except zlib.error:
            continue
        for numbers in re.findall(rb"([0-9.]+) ([0-9.]+) ([0-9.]+) rg", text):
            found.add(",".join(str(round(float(each) * 255)) for each in numbers))
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_print_has_colours_and_the_pages_numbers(tab: Tab, tmp_path: Path, dark: bool) -> None:
    """On paper stages have their colours, pages their numbers, and the ground is white."""
    tab.open(page_of(tmp_path, half_sent(), broken_once()), dark=dark)
    if dark:
        tab.run("document.documentElement.dataset.theme = 'dark'")
    tab.run(
        "window.seen = []; window.addEventListener('beforeprint', () => {"
        f" const place = ({PLACE})(9, 20), line = midstream.lines[0];"
        " window.seen.push(place.colour, line.canvas.width); })"
    )
    on_screen = tab.run("midstream.lines[0].canvas.width")
    colours = tab.print()
    # Grey, violet and brown: what stages look like, and no dark ground.
    assert {"208,212,217", "91,53,165", "148,96,44"} <= colours_of(colours)
    assert "20,23,26" not in colours_of(colours)
    assert tab.run("window.seen") == ["rgb(230, 159, 0)", 1000]
    assert tab.run("midstream.lines[0].canvas.width") == on_screen
    assert tab.run("document.documentElement.dataset.theme ?? ''") == ("dark" if dark else "")
    tab.send("Emulation.setEmulatedMedia", media="print")
    for what in ("#events td button", ".fall", "canvas"):
        assert tab.run(f"document.querySelector('{what}').getBoundingClientRect().height") > 0
    numbers = tab.run(
        "Array.from(document.querySelectorAll('#events td button'), (one) => one.innerText)"
    )
    assert {"5", "9"} <= set(numbers)
    for what in (".bar", "#theme"):
        assert tab.run(f"document.querySelector('{what}').getBoundingClientRect().height") == 0
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    # A canvas is scaled, not squeezed.
    wide, tall = tab.run(
        "(() => { const canvas = midstream.lines[0].canvas;"
        "return [canvas.clientWidth / canvas.width, canvas.clientHeight / canvas.height]; })()"
    )
    assert wide == pytest.approx(tall, rel=0.02)
    assert tab.errors == []


def test_a_window_of_another_size_is_drawn_anew(tab: Tab, address: str) -> None:
    """The canvas is as wide as its place after each change, and shows the same."""
    tab.open(address)
    for width in (800, 1200, 640):
        tab.resize(width, 600)
        tab.until(
            "midstream.lines[0].canvas.width === midstream.lines[0].canvas.clientWidth"
            f" && midstream.lines[0].canvas.clientWidth < {width}"
        )
        assert tab.run("document.scrollingElement.scrollWidth") <= width
        assert tab.run(f"({PLACE})(9, 20)")["colour"] == tab.run(f"({COLOUR})('--urgent')")
    assert tab.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone(tab: Tab, address: str, dark: bool) -> None:
    """At 400 pixels nothing but tables is wider than the window, light and dark."""
    tab.open(address, width=400, dark=dark)
    assert tab.run("document.scrollingElement.scrollWidth") <= 400
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark
    assert tab.errors == []


Wait = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def opened(
    tab: Tab, server: Server, state: LiveState, until: str = "midstream.frame !== null"
) -> AsyncIterator[Wait]:
    """Have a tab show a server's live page of a state, as far as a condition says.

    What this yields runs a call of the tab's in a thread, while the server goes on.
    """
    server.show(state, ZERO_NS)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            wait = trio.to_thread.run_sync
            await wait(tab.open, f"http://{server.address}/")
            await wait(tab.until, until)
            yield wait
            nursery.cancel_scope.cancel()


def state_of(story: Iterable[dict[str, Any]]) -> LiveState:
    """Return what a live view knows after some events."""
    state = LiveState()
    for event in story:
        state.take(event)
    return state


async def test_what_one_side_cannot_know_is_not_said(tab: Tab) -> None:
    """A source alone does not know who waits; a destination alone not what channels carry."""
    for side, words in (
        ("source", "Only the destination knows which vCPUs wait."),
        ("dest", "Nothing is known of single pages yet."),
    ):
        state = state_of(event for event in half_sent()[:6] if event["side"] == side)
        told = f"document.body.innerText.includes('{words}')"
        with Server("127.0.0.1", 0) as server:
            async with opened(tab, server, state, told) as wait:
                shown = await wait(tab.run, "document.body.innerText")
                assert "0.0 MB/s" not in shown
                assert ("No vCPU waits." in shown) is (side == "dest")
                await server.farewell()
                await wait(tab.until, "midstream.over")
        assert tab.errors == []


@pytest.mark.parametrize("stays", [False, True])
async def test_the_whole_run_is_asked_for_where_it_is_to_come(tab: Tab, *, stays: bool) -> None:
    """A page does not look for a server that said it goes; one that stays is offered."""
    server = Server("127.0.0.1", 0, seconds_after=60 if stays else 0)
    # What is to stay is closed by who has it stay.
    with closing(server._socket), server:
        async with opened(tab, server, state_of(half_sent())) as wait:
            # Each look is counted, finds the page, and is not waited for.
            found = "new Response('<script id=\"data\">')"
            await wait(tab.run, "window.setTimeout = (act) => act(); window.looks = 0; 0")
            await wait(tab.run, f"window.fetch = async () => {{ looks += 1; return {found}; }}; 0")
            await server.farewell()
            await wait(tab.until, "midstream.over")
            assert await wait(tab.run, "looks") == int(stays)
            assert await wait(tab.run, "document.getElementById('whole') !== null") is stays


async def test_a_page_that_is_partly_here_is_half_a_cell(tab: Tab) -> None:
    """Told from one that is here without colours, and the rates' lines from each other."""
    with Server("127.0.0.1", 0) as server:
        async with opened(tab, server, state_of(half_sent())) as wait:
            cell = (
                "(() => { const { cells } = midstream.frame.blocks[0]; cells[0] = 5; cells[1] = 1;"
                "drawMap(midstream.frame); const pen = map.getContext('2d');"
                "const at = (x, y) => Array.from(pen.getImageData(x, y, 1, 1).data).join();"
                "return [at(4, 3), at(4, 18), at(26, 3), at(26, 18)]; })()"
            )
            top, bottom, *whole = await wait(tab.run, cell)
            assert whole == [bottom, bottom]
            assert top != bottom
            lines = "Array.from(document.querySelectorAll('#s-rates .legend i'), (swatch) =>"
            lines += " getComputedStyle(swatch).borderTopStyle)"
            assert (await wait(tab.run, lines))[:2] == ["solid", "dashed"]
            await server.farewell()
            await wait(tab.until, "midstream.over")


async def test_a_run_is_followed(tab: Tab) -> None:
    """The live page has the present when it joins, follows, and says that the run is over."""
    story = half_sent()
    state = state_of(story[:15])
    with Server("127.0.0.1", 0) as server:
        async with opened(tab, server, state) as wait:
            for event in story[15:]:
                state.take(event)
            server.show(state, ZERO_NS)
            await wait(tab.until, "midstream.frame.state === 'completed'")
            cells = await wait(tab.run, "Array.from(midstream.frame.blocks[0].cells)")
            assert cells == state.blocks[0].status.tolist()
            await server.farewell()
            await wait(tab.until, "document.getElementById('subtitle').innerText.includes('over')")
    assert tab.errors == []
