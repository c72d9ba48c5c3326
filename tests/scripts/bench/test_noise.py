"""How quiet the machine was."""

from pathlib import Path
from typing import Any

from scripts.bench.figure import Figure
from scripts.bench.noise import Clocks, Noise, machine, read_clocks, warnings

QUIET: dict[str, Any] = {
    "load-average-before": 0.1, "cpus": 2, "steal-share": 0.0, "spreads": {"the pair": 0.1}
}  # fmt: skip


def test_a_quiet_machine_gets_no_warning() -> None:
    """Neither a low load nor runs that are alike are worth a word."""
    assert not warnings(QUIET)


def test_each_measure_has_a_warning_that_names_it() -> None:
    """Load, stolen time and the spread of what ought to be the same are told one by one."""
    noisy = {"load-average-before": 3.0, "cpus": 2, "steal-share": 0.1, "spreads": {"it": 0.9}}
    told = warnings(noisy)

    assert len(told) == 3
    assert "load average was 3.0 on 2 CPUs" in told[0]
    assert "10% of the processors' time (steal)" in told[1]
    assert told[2] == "it varied by 90% of its median from run to run"


def test_stolen_time_is_read_of_all_processors(tmp_path: Path) -> None:
    """The first line's eighth figure is the stolen time, and guests' time does not count twice."""
    (tmp_path / "stat").write_text(
        "cpu  10 1 20 300 5 0 4 60 1000 1000\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    )

    assert read_clocks(tmp_path) == Clocks(60, 400)
    assert read_clocks(tmp_path / "none") == Clocks(0, 0)


def test_spreads_are_of_the_yardsticks() -> None:
    """How far runs lie apart is told as a share of their median."""
    seen = Noise().to_plain([Figure("s", "the pair", "GB/s", (1.0, 2.0, 4.0))])

    assert seen["spreads"] == {"the pair": 1.5}
    assert 0 <= seen["steal-share"] <= 1


def test_the_machine_is_named() -> None:
    """Whoever reads figures can tell what they were measured on."""
    told = machine()

    assert told["cpus"] >= 1
    assert told["memory-bytes"] > 0
    assert told["cpu-model"]
