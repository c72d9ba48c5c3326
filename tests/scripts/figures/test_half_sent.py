"""The wait on the half-sent page, for traces of different lengths."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.figures.half_sent import main, measure_wait_ms, write_steps


def test_the_half_sent_page_is_the_third_to_be_requested(tmp_path: Path) -> None:
    """A trace has as many requests as it is said to, one of them for the half-sent page."""
    write_steps(tmp_path / "steps.toml", 7)

    first, others = tomllib.loads((tmp_path / "steps.toml").read_text())["step"]
    requested = [*first["fault"], *others["fault"]]
    assert len(requested) == len(set(requested)) == 7
    assert requested[2] == first["when"]["page"] == 5


def test_a_wait_is_measured() -> None:
    """A run gives the wait of the vCPU on the half-sent page, more than nothing."""
    assert measure_wait_ms("ordered", 3, "0", background="100Mbit/s") > 0


def test_all_waits_are_printed_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a policy and length, and a picture of them."""
    picture = tmp_path / "growth.svg"
    monkeypatch.setattr(
        "scripts.figures.half_sent.measure_wait_ms", lambda _, count, __: 10.0 * count
    )

    result = CliRunner().invoke(
        main,
        ["--requests=3,4", "--policies=drop", f"--picture={picture}"],
        catch_exceptions=False,
    )

    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [
        ["drop", "3", "requests", "30", "ms"],
        ["drop", "4", "requests", "40", "ms"],
    ]
    assert "page requests in the trace" in picture.read_text()
