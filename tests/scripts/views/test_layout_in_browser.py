"""What a page says has room, stands beside what it is about, and is about what there is."""

from itertools import combinations
from pathlib import Path
from typing import Any

from protocol.units import format_bytes, format_rate
from tests.browser import Tab
from tests.run_pages import page_of
from tests.stories import MS, ZERO_NS, Story, broken_once, half_sent

Plain = dict[str, Any]

# The boxes of elements, in pixels of the window.
BOXES = """(find) => Array.from(document.querySelectorAll(find), (element) => {
  const box = element.getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
})"""
# What is written in a paper box of its own beside a break: where, and how wide.
BREAK_WORDS = """(() => {
  const line = midstream.lines[0], found = [], own = line.label;
  line.label = (pen, words, x, y, ...more) => {
    if (String(words).startsWith("connection lost")) found.push([x, y - 12, x + pen.measureText(words).width, y]);
    own.call(line, pen, words, x, y, ...more);
  };
  line.draw();
  delete line.label;
  return found;
})()"""  # noqa: E501 - JavaScript


def overlap(one: list[float], other: list[float]) -> bool:
    """Return whether two boxes have a place in common."""
    return (
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    )  # fmt: skip


def test_sizes_and_rates_are_said_as_in_reports(tab: Tab, tmp_path: Path) -> None:
    """The page's script and the sentences that it is given write them alike."""
    tab.open(page_of(tmp_path, half_sent()))
    sizes = [0, 1, 1023, 1024, 4096, 9_256_960, 104 << 20, 8 << 30, 8_767_111_168, 3 << 40]
    assert tab.run(f"{sizes}.map(sayBytes)") == [format_bytes(each) for each in sizes]
    rates = [0, 1, 999.4, 999.6, 45_678, 91_100_000, 125e6, 999.6e6, 2.2345e9, 12.5e9]
    assert tab.run(f"{rates}.map(sayRate)") == [format_rate(each) for each in rates]


def test_no_label_of_the_distribution_is_cut_off(tab: Tab, tmp_path: Path) -> None:
    """All of them lie within the picture."""
    tab.open(page_of(tmp_path, half_sent(), broken_once()))
    (chart,) = tab.run(f"({BOXES})('#latency svg')")
    for label in tab.run(f"({BOXES})('#latency svg text')"):
        assert chart[0] <= label[0] < label[2] <= chart[2]


def test_the_times_of_an_axis_do_not_touch(tab: Tab, tmp_path: Path) -> None:
    """Neither of one run nor of two beside each other, in a wide window or a narrow one."""
    for runs in ([half_sent()], [half_sent(), broken_once()]):
        for width in (1400, 1000, 800):
            tab.open(page_of(tmp_path, *runs), width=width)
            for number in range(1, len(runs) + 1):
                axis = f"#faults .runs > div:nth-child({number}) .axis span"
                labels = tab.run(f"({BOXES})('{axis}')")
                assert len(labels) >= 2
                assert not any(overlap(*pair) for pair in combinations(labels, 2)), width


def test_words_of_breaks_do_not_cover_each_other(tab: Tab, tmp_path: Path) -> None:
    """Breaks that follow each other closely have theirs below each other."""
    story = Story()
    story.state(1, "postcopy-active")
    story.start(2, 1, "precopy")
    story.end(90, 1, "precopy", 4096)
    events = story.events
    for at_ms in (40, 42, 44):
        for event, more in (
            ("channel-lost", {"channel": "precopy", "reason": "cut"}),
            ("recovered", {"missing-bytes": 0, "running": True}),
        ):
            late = at_ms + (event == "recovered")
            told: Plain = {"t-ns": ZERO_NS + late * MS, "side": "source", "event": event}
            events.append(told | more)
    tab.open(page_of(tmp_path, sorted(events, key=lambda event: event["t-ns"])))
    boxes = tab.run(BREAK_WORDS)
    assert len(boxes) == 3
    assert not any(overlap(*pair) for pair in combinations(boxes, 2))


def test_the_legend_has_what_is_drawn(tab: Tab, tmp_path: Path) -> None:
    """No kind of send, break or wait that the runs have none of, and all that they have."""
    legend = "document.querySelector('#timeline .legend').innerText.split('\\n')"
    tab.open(page_of(tmp_path, half_sent()))
    assert tab.run(legend) == [
        "background, precopy channel", "sent on request, postcopy channel",
        "rest of a half-sent page, sent on request, precopy channel",
        "interrupted here (preempted)", "a vCPU waits",
    ]  # fmt: skip
    tab.open(page_of(tmp_path, broken_once()))
    assert tab.run(legend) == [
        "background, precopy channel", "sent on request, precopy channel", "no connection",
        "a vCPU waits",
    ]  # fmt: skip
    assert tab.errors == []


def test_figures_stand_beside_the_verdict_of_one_run(tab: Tab, tmp_path: Path) -> None:
    """In a wide window the timeline is seen without scrolling; a narrow one has one column."""
    tab.open(page_of(tmp_path, half_sent()), width=1400)
    ((left, top, right, _),) = tab.run(f"({BOXES})('#verdict')")
    ((beside, level, edge, _),) = tab.run(f"({BOXES})('#summary')")
    assert (level, left < right < beside < edge <= 1400) == (top, True)
    ((_, timeline, _, _),) = tab.run(f"({BOXES})('#timeline .panels')")
    assert timeline < 900
    tab.open(page_of(tmp_path, half_sent()), width=800)
    ((_, top, _, bottom),) = tab.run(f"({BOXES})('#verdict')")
    ((_, level, _, _),) = tab.run(f"({BOXES})('#summary')")
    assert level >= bottom > top


def test_paper_has_no_story_of_nothing(tab: Tab, tmp_path: Path) -> None:
    """What asks for a click is not printed; the story of a page that was chosen is."""
    tab.open(page_of(tmp_path, half_sent()))
    tab.send("Emulation.setEmulatedMedia", media="print")
    shown = "getComputedStyle(document.getElementById('page')).display"
    assert tab.run(shown) == "none"
    tab.run("midstream.select(midstream.runs[0], 0, 5, false)")
    assert tab.run(shown) == "block"
    tab.run("midstream.clear()")
    assert tab.run(shown) == "none"


def test_heads_on_paper_are_no_buttons(tab: Tab, tmp_path: Path) -> None:
    """A browser repeats a table's head on the next sheet, but no buttons in it."""
    tab.open(page_of(tmp_path, half_sent()))
    tab.send("Emulation.setEmulatedMedia", media="print")
    heads = tab.run(
        "Array.from(document.querySelectorAll('.waittable thead th'), (head) => {"
        "const words = getComputedStyle(head, '::before').content.replaceAll('\"', '');"
        "return [words || head.innerText, head.querySelector('button')?.offsetWidth ?? 0]; })"
    )
    assert heads == [[name, 0] for name in ("page", "vCPU", "at, ms", "answer", "stages", "wait")]


def test_a_run_without_waits_has_no_tables_of_nothing(tab: Tab, tmp_path: Path) -> None:
    """It says that nobody waited, without a legend of stages and percentiles of none."""
    tab.open(page_of(tmp_path, Story().events))
    shown = "document.getElementById('faults').innerText"
    assert "No vCPU waited for a page." in tab.run(shown)
    assert tab.run("document.querySelectorAll('#faults .legend, #latency table').length") == 0
    tab.open(page_of(tmp_path, half_sent(), Story().events))
    assert tab.run("document.querySelectorAll('#faults .legend, #latency table').length") == 2
    assert tab.errors == []
