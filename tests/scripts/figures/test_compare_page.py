"""The page of a comparison: figures beside those of the first row, all on one scale."""

from pathlib import Path

from scripts.figures.compare_page import write_comparison
from scripts.figures.compared import Outcome
from tests import compared


def outcome(p99_us: float, blocked_ms: int) -> Outcome:
    """Return a run with these figures."""
    return compared.outcome(p99_us=p99_us, blocked_ms=blocked_ms, waits=2)


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
    assert "-50 %" in text
    assert "20 times" in text
    assert "1-1.5" in text
    # The first row's own, and those of what it has none of.
    assert text.count("class='less'") == 5
    assert text.count("class='more'") == 5


def test_runs_that_failed_are_seen(tmp_path: Path) -> None:
    """How many were verified, which failed and why; a row without a good run has no figures."""
    path = tmp_path / "page.html"
    runs = {
        "a": [compared.outcome("no <room>", 1)],
        "b": [outcome(1000, 5), compared.outcome("gone", 4), outcome(3000, 5)],
    }
    write_comparison(path, "a guest", "0", runs, {})
    text = path.read_text(encoding="utf-8")
    assert "2 of 4 runs verified. FAILED: a, b (2)." in text
    assert "<li>a: no &lt;room&gt;" in text
    assert "<li>b (2): gone" in text
    assert "<tr><th>a<td>-<td>-" in text
    assert "Medians of 2 runs" in text
    write_comparison(path, "a guest", "0", {"b": runs["b"][:1]}, {})
    text = path.read_text(encoding="utf-8")
    assert "1 of 1 run verified." in text
    assert "<li>" not in text


def test_what_was_waited_for_comes_before_the_figures(tmp_path: Path) -> None:
    """The same sentences as on a terminal, for each row."""
    path = tmp_path / "page.html"
    made = {"queue": {"count": 2, "mean-us": 900.0}, "receive": {"count": 2, "mean-us": 100.0}}
    runs = {
        "drop": [compared.outcome(p99_us=4000, waits=2, vcpus=1, postcopy_ms=10.0, stages=made)],
        "<mine>": [compared.outcome(p99_us=1000, waits=2)],
    }
    write_comparison(path, "a guest", "0", runs, {})
    text = path.read_text(encoding="utf-8")
    assert "The longest wait was shortest with &lt;mine&gt; (1 ms) and longest with drop" in text
    told = "<dt>drop<dd>waited 80 % of postcopy (90 % of that: waiting for its turn)"
    assert text.index(told) < text.index("<table>")
