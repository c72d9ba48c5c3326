"""The curves, breaks and colours of a page in a real browser."""

import base64
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Tab
from tests.run_pages import page_of
from tests.stories import PAGE_BYTES, ZERO_NS, Story, broken_once, half_sent

Plain = dict[str, Any]

# What a timeline writes while it draws: the words, and where they are.
DRAWN = """(() => {
  const line = midstream.lines[0], labels = [], own = line.label;
  line.label = (pen, words, ...more) => {
    labels.push(String(words));
    own.call(line, pen, words, ...more);
  };
  line.draw();
  delete line.label;
  return labels;
})()"""
# How many pixels of a panel have a colour.
COUNT = """(panel, name) => {
  const line = midstream.lines[0], { top, height } = line.panels[panel];
  const wanted = [1, 3, 5].map((at) => parseInt(colour(name).slice(at, at + 2), 16));
  const is = (data, i) => wanted.every((value, at) => data[i + at] === value);
  const data = line.canvas.getContext("2d").getImageData(LEFT, top, line.wide, height).data;
  let count = 0;
  for (let i = 0; i < data.length; i += 4) if (is(data, i)) count += 1;
  return count;
}"""


def on_a_link(events: list[Plain], rate: int) -> list[Plain]:
    """Return a story on a link of so many bytes a second."""
    link = {"t-ns": ZERO_NS, "side": "source", "event": "link", "kind": "namespaces"}
    return [*events, {**link, "bytes-per-second": rate}]


def test_the_rate_is_of_what_is_shown(tab: Tab, tmp_path: Path) -> None:
    """The mean, its share of the link and the peak are those of the window, however narrow."""
    tab.open(page_of(tmp_path, on_a_link(half_sent(), 200_000_000)))
    whole = "ratesIn(midstream.runs[0], 0, midstream.runs[0].end, 100)"
    carried = tab.run(
        f"{whole}.map((rates) => rates.reduce((sum, rate) => sum + rate, 0) / 100"
        " * midstream.runs[0].end / 1e6)"
    )
    assert carried == pytest.approx([PAGE_BYTES * 2, PAGE_BYTES], rel=1e-6)
    # Page 7 alone: 2 MiB in 15 ms, evenly.
    tab.run("midstream.lines[0].show([47000, 57000])")
    assert (
        "mean 140 MB/s, 70 % of the link; peak 140 MB/s; precopy solid, postcopy dashed"
        in tab.run(DRAWN)
    )
    assert "link 200 MB/s" in tab.run(DRAWN)
    # The time before anything was sent.
    tab.run("midstream.lines[0].show([1000, 9000])")
    assert "mean 0 B/s, 0 % of the link; peak 0 B/s; precopy solid, postcopy dashed" in tab.run(
        DRAWN
    )
    assert tab.errors == []


@pytest.mark.parametrize("counts_anew", [False, True])
def test_a_break_is_no_spike_in_the_rates(tab: Tab, tmp_path: Path, counts_anew: bool) -> None:
    """No channel is faster than its fastest page, and what it carries is what there was."""
    tab.open(page_of(tmp_path, broken_once(counts_anew=counts_anew)))
    rates = tab.run("Array.from(ratesIn(midstream.runs[0], 0, midstream.runs[0].end, 199)[0])")
    assert min(rates) >= 0
    assert max(rates) <= PAGE_BYTES / 0.036 * 1.01
    end = tab.run("midstream.runs[0].end")
    assert sum(rates) / len(rates) * end / 1e6 == pytest.approx(2 * PAGE_BYTES, rel=1e-6)


def test_breaks_are_marked(tab: Tab, tmp_path: Path) -> None:
    """From when the connection was lost until the run went on; one without an end says so."""
    tab.open(page_of(tmp_path, broken_once()))
    assert tab.run("midstream.runs[0].breaks") == [[51_000, 102_000]]
    assert "connection lost, then resumed" in tab.run(DRAWN)
    tab.run("midstream.lines[0].show([110000, 150000])")
    assert "connection lost, then resumed" not in tab.run(DRAWN)
    failed = [event for event in broken_once() if event["t-ns"] < ZERO_NS + 60_000_000]
    tab.open(page_of(tmp_path, failed))
    assert "connection lost" in tab.run(DRAWN)
    tab.open(page_of(tmp_path, half_sent()))
    assert not any("connection lost" in words for words in tab.run(DRAWN))
    assert tab.errors == []


def thousands(pages: int = 4000) -> list[Plain]:
    """Return the story of thousands of pages, of which one in the middle was sent on request."""
    story = Story(pages=pages)
    story.state(1, "active")
    bits = base64.b64encode(np.packbits(np.ones(pages, dtype=np.bool_)).tobytes()).decode()
    story.tell(2, "dest", "guest-run")
    story.tell(2, "dest", "missing", block=0, pages_per_bit=1, bits=bits)
    for page in range(pages):
        urgent = page == pages // 2
        channel = "postcopy" if urgent else "precopy"
        story.start(10 + page, page, channel, urgent=urgent)
        story.end(11 + page, page, channel, PAGE_BYTES, urgent=urgent)
        placed = {"block": 0, "page": page, "pages": 1, "channel": channel}
        story.tell(11 + page, "dest", "page-placed", **placed)
    story.state(pages + 20, "completed")
    return story.events


def test_thousands_of_pages_are_drawn_together(tab: Tab, tmp_path: Path) -> None:
    """What was sent on request is seen among thousands, in a row that is not too thin."""
    tab.open(page_of(tmp_path, thousands()))
    note = "document.querySelector('#timeline figcaption').textContent"
    assert "Each row stands for 40 pages" in tab.run(note)
    assert tab.run(f"({COUNT})('pages', '--urgent')") == 3
    assert tab.run(f"({COUNT})('pages', '--background')") > 2000
    # Near enough they are drawn one by one again.
    tab.run("midstream.lines[0].choose(0, 2000, true); midstream.lines[0].draw()")
    assert "Each row" not in tab.run(note)
    assert tab.run(f"({COUNT})('pages', '--urgent')") > 100
    assert tab.errors == []


def test_what_is_missing_is_told_at_each_moment(tab: Tab, tmp_path: Path) -> None:
    """The curve begins with all of the memory, and ends with none."""
    tab.open(page_of(tmp_path, thousands(400)))
    for ms, pages in ((5, 400), (11, 399), (110.5, 300), (410, 0)):
        told = tab.run(f"missingAt(midstream.runs[0], {ms * 1000})")
        assert told == {"bytes": pages * PAGE_BYTES, "words": "missing at the destination"}
    for dark in (False, True):
        tab.run(f"document.documentElement.dataset.theme = '{'dark' if dark else 'light'}'")
        tab.run("midstream.lines[0].draw()")
        for panel in ("missing", "rate"):
            assert tab.run(f"({COUNT})('{panel}', '--ink')") > 500, (panel, dark)
    tab.run("delete document.documentElement.dataset.theme")
    # Before the guest runs there, what is left to send; and nothing that nobody told.
    assert tab.run("missingAt(midstream.runs[0], 1000)") is None
    tab.open(page_of(tmp_path, half_sent()))
    told = tab.run("missingAt(midstream.runs[0], 20000)")
    assert told == {"bytes": 15.75 * PAGE_BYTES, "words": "left to send"}
    assert tab.errors == []


def test_a_bars_number_is_not_cut_off_at_the_edge(tab: Tab, tmp_path: Path) -> None:
    """It stands in the middle of what is seen of the bar, whatever part of it that is."""
    tab.open(page_of(tmp_path, half_sent()))
    written = """(() => {
      const line = midstream.lines[0], places = [], own = line.writePage;
      line.writePage = (pen, block, page, x, y, wide, ...more) => {
        places.push([page, x - wide / 2 - LEFT, x + wide / 2 - LEFT - line.wide]);
        own.call(line, pen, block, page, x, y, wide, ...more);
      };
      line.draw();
      delete line.writePage;
      return places;
    })()"""
    # Page 9 goes from 16 to 30 ms, and is waited for from 15 to 32.
    for shown in ([26_000, 40_000], [1_000, 20_000], [20_000, 25_000]):
        tab.run(f"midstream.lines[0].show({shown})")
        places = tab.run(written)
        assert 9 in [page for page, _, _ in places]
        assert all(left >= 0 and beyond <= 0 for _, left, beyond in places), (shown, places)
    assert tab.errors == []


# How colours look to eyes without the cones for green: G. Machado, M. Oliveira and L. Fernandes,
# 2009, at full severity, on linear light.
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)


def linear(colour: str) -> Any:  # noqa: ANN401
    """Return the linear light of a colour such as #a0b1c2."""
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lightness(light: Any) -> float:  # noqa: ANN401
    """Return how light it is, 0 to 100, as CIE L*."""
    luminance = float(np.clip(light, 0, 1) @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def apart(one: str, other: str) -> tuple[float, float]:
    """Return how far apart two colours are in grey, and without green cones, by lightness."""
    pair = [linear(one), linear(other)]
    grey = [lightness(light) for light in pair]
    seen = [lightness(DEUTERANOPIA @ light) for light in pair]
    return abs(grey[0] - grey[1]), abs(seen[0] - seen[1])


@pytest.mark.parametrize("dark", [False, True])
def test_colours_mean_one_thing_and_survive_grey(tab: Tab, tmp_path: Path, dark: bool) -> None:
    """Kinds of sends, and neighbouring stages, differ in lightness or in their pattern."""
    tab.open(page_of(tmp_path, half_sent()), dark=dark)
    bars = tab.run("BARS.map((bar) => [colour(bar.colour), bar.pattern])")
    stages = tab.run("midstream.runs[0].stages.map((_, at) => colour(`--s${at}`))")
    wait, lane = tab.run("[colour('--wait'), colour('--lane')]")
    for (one, drawn), (other, also) in combinations(bars, 2):
        assert drawn != also or min(apart(one, other)) >= 8, (one, other)
    # Those that every run has stand apart from each other and from the ground.
    for one, other in combinations([bars[0][0], bars[1][0], bars[2][0], lane], 2):
        assert min(apart(one, other)) >= 10, (one, other)
    # No colour of a send or of a wait says a stage, too.
    assert not {colour for colour, _ in bars} & set(stages)
    assert wait not in stages
    patterns = tab.run(
        "midstream.runs[0].stages.map((_, at) =>"
        " getComputedStyle(document.querySelector(`.legend .stage${at}`)).backgroundImage)"
    )
    for at, stage in enumerate(stages[:-1]):
        assert patterns[at] != patterns[at + 1] or min(apart(stage, stages[at + 1])) >= 8, at
