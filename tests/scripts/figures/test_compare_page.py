"""The page of a comparison: figures beside those of the first row, all on one scale."""

from pathlib import Path
from typing import Any

from scripts.figures.compare_page import write_comparison
from scripts.figures.compared import Outcome


def outcome(p99_us: float, blocked_ms: int) -> Outcome:
    """Return a run with these figures."""
    faults = dict.fromkeys(("mean-us", "p50-us", "p90-us", "max-us"), p99_us)
    own: dict[str, Any] = {"faults": {"count": 2, "p99-us": p99_us, **faults}}
    report = {
        "midstream": own, "postcopy-blocktime": blocked_ms, "total-time": 30, "setup-time": 10,
    }  # fmt: skip
    return Outcome(report, (p99_us, p99_us / 2))


def test_rows_are_held_against_the_first(tmp_path: Path) -> None:
    """More and less in percent, much more in times, and nothing where the first has none."""
    path = tmp_path / "page.html"
    runs = {
        "a": [outcome(2000, 0), outcome(2000, 0)],
        "<b>": [outcome(1000, 5), outcome(1500, 5)],
        "c": [outcome(40_000, 5)],
    }
    write_comparison(path, "a <guest>", "1Gbit/s", runs, {})
    text = path.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "a &lt;guest&gt;" in text
    assert "-50%" in text
    assert "20 times" in text
    assert "1-1.5" in text
    # The first row's own, and those of what it has none of.
    assert text.count("class='less'") == 5
    assert text.count("class='more'") == 5
