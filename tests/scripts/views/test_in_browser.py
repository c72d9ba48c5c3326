"""The pages in a real browser: they are drawn, answer, and complain of nothing."""

from collections.abc import Iterator

import pytest
import trio

from scripts.views.embed import embed
from scripts.views.live import LiveState
from scripts.views.outputs import history_of
from scripts.views.page import run_page
from scripts.views.serve import Server
from tests.browser import Tab, find_browser, open_tab
from tests.stories import ZERO_NS, half_sent

# Where in the timeline's canvas a page is at a time (ms), and the colour that is there.
PLACE = """(page, ms) => {
  const line = midstream.lines[0];
  const box = line.canvas.getBoundingClientRect();
  const x = line.px(ms * 1000), y = line.py((page + 0.75) * line.run.blocks[0].page_bytes);
  const [red, green, blue] = line.canvas.getContext("2d").getImageData(x, y, 1, 1).data;
  return { x: box.left + x, y: box.top + y, colour: `rgb(${red}, ${green}, ${blue})` };
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
TIP = "document.getElementById('tip').textContent"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab of a browser that all tests of this module share."""
    browser = find_browser()
    if browser is None:
        pytest.skip("this machine has no Chromium")
    with open_tab(browser, tmp_path_factory.mktemp("profile")) as made:
        yield made


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
    assert all(f"{stage}: 4.11 ms" in told for stage in ("detect", "queue", "send", "wake"))
    # And one that is chosen tells the page's story.
    tab.point(*box, click=True)
    story = "document.getElementById('story').innerText"
    tab.until(f"{story}.includes('Page 5')")
    words = tab.run(story)
    order = ["broken off: preempted", "boosted: goes on urgently", "all of it is sent", "placed"]
    assert [words.index(each) for each in order] == sorted(words.index(each) for each in order)
    assert tab.errors == []


def test_the_map_answers_the_pointer(tab: Tab, address: str) -> None:
    """What lies under the pointer is told, and a click chooses it."""
    tab.open(address)
    tab.run("midstream.lines[0].canvas.scrollIntoView()")
    place = tab.run(f"({PLACE})(9, 20)")
    tab.point(place["x"], place["y"])
    tab.until(f"{TIP}.startsWith('page 9: requested, postcopy channel')")
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


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone(tab: Tab, address: str, dark: bool) -> None:
    """At 400 pixels nothing but tables is wider than the window, light and dark."""
    tab.open(address, width=400, dark=dark)
    assert tab.run("document.scrollingElement.scrollWidth") <= 400
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark
    assert tab.errors == []


async def test_a_run_is_followed(tab: Tab) -> None:
    """The live page has the present when it joins, follows, and says that the run is over."""
    story = half_sent()
    state = LiveState()
    for event in story[:15]:
        state.take(event)
    with trio.fail_after(60), Server("127.0.0.1", 0) as server:
        server.show(state, ZERO_NS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            wait = trio.to_thread.run_sync
            await wait(tab.open, f"http://{server.address}/")
            await wait(tab.until, "midstream.frame !== null")
            for event in story[15:]:
                state.take(event)
            server.show(state, ZERO_NS)
            await wait(tab.until, "midstream.frame.state === 'completed'")
            cells = await wait(tab.run, "Array.from(midstream.frame.blocks[0].cells)")
            assert cells == state.blocks[0].status.tolist()
            await server.farewell()
            await wait(tab.until, "document.getElementById('subtitle').innerText.includes('over')")
            nursery.cancel_scope.cancel()
    assert tab.errors == []
