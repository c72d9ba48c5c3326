"""The README's figures, made of a benchmark's report."""

from pathlib import Path
from typing import Any

import click
import pytest

from scripts.bench.performance import (
    BEGIN,
    END,
    README,
    REASONS,
    REPORTS,
    read_reports,
    replaced,
    section,
)

FIGURE: dict[str, Any] = {
    "section": "s", "name": "precopy, 2MiB pages", "unit": "GB/s", "median": 1.0, "lowest": 1.0,
    "highest": 1.0, "met": False,
    "target": {"of": "value", "bound": "at-least", "value": 2.0},
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "machine": {
        "cpus": 2, "cpu-model": "a CPU", "memory-bytes": 1 << 30, "kernel": "6.1", "python": "3.11"
    },
    "runs": 5,
    "size": 1 << 30,
    "warnings": ["a loud machine"],
    "figures": [FIGURE, {"section": "s", "name": "not judged", "unit": "s"}],
}  # fmt: skip


def test_a_missed_figure_stands_there_with_its_reason() -> None:
    """Noise, the figure, and what stops it are told; the longest beginning that fits counts."""
    text = section([PLAIN], {"precopy": "no", "precopy, 2MiB": "Too few cores.", "post": "no"})

    assert "Noise: a loud machine." in text
    assert "| precopy, 2MiB pages | 1 GB/s |" in text
    assert "not judged" not in text
    assert text.endswith("\n- Too few cores.\n")


def test_a_miss_without_a_reason_is_refused() -> None:
    """Nobody can leave the reason out, and a figure that is reached needs none."""
    with pytest.raises(click.ClickException, match="precopy, 2MiB pages is missed"):
        section([PLAIN], {"post": "no"})
    assert "stops" not in section([{**PLAIN, "figures": [{**FIGURE, "met": True}]}], {})


def test_what_noise_may_have_missed_needs_no_reason() -> None:
    """It stands there as inconclusive, and nothing is said to stop it."""
    text = section([{**PLAIN, "figures": [{**FIGURE, "verdict": "inconclusive"}]}], {})
    assert "inconclusive |" in text
    assert "stops" not in text


def test_a_qemu_has_a_table_of_its_own() -> None:
    """Of each case that stood beside a QEMU there is a line, and what its waits compare with."""

    def figure(name: str, unit: str, median: float, limit: str) -> dict[str, Any]:
        both = {"median": median, "lowest": median, "highest": median}
        return {
            "section": "qemu", "name": name, "unit": unit, **both, "limit": {"name": limit, **both}
        }  # fmt: skip

    figures = [
        figure(f"{case}: {key}", unit, median, f"the wire's time for {of}")
        for case, median in (("ordered, 1 vCPU", 16.0), ("QEMU 7.2, 1 vCPU", 17.0))
        for key, unit, of in (("p50", "ms", "a page"), ("in all", "s", "all"))
    ]
    text = section([PLAIN, {**PLAIN, "figures": figures}], {"precopy": "no"})

    assert text.count("Noise: a loud machine.") == 2
    assert "the wire's time for a page is 16 ms, the wire's time for all is 16 s." in text
    assert text.endswith(
        "\n\n| | p50 | in all |\n| --- | --- | --- |\n"
        "| ordered, 1 vCPU | 16 ms | 16 s |\n| QEMU 7.2, 1 vCPU | 17 ms | 17 s |\n"
    )


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    """A file of another kind is named."""
    path = tmp_path / "a.json"
    path.write_text('{"schema": "else"}', encoding="utf-8")
    with pytest.raises(click.ClickException, match=r"a\.json is no report"):
        read_reports([path])


def test_only_what_is_between_the_marks_changes() -> None:
    """The rest of the README stays, and one without marks is refused."""
    assert replaced(f"a\n{BEGIN}old\n{END}b\n", "new\n") == f"a\n{BEGIN}new\n{END}b\n"
    with pytest.raises(click.ClickException, match="lacks"):
        replaced("a\n", "new\n")


def test_the_readme_has_the_figures_of_the_reports() -> None:
    """What stands in the README is what the reports in this tree say, and no more."""
    readme = README.read_text(encoding="utf-8")

    assert replaced(readme, section(read_reports(REPORTS), REASONS)) == readme
