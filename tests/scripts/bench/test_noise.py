"""How quiet the machine was."""

import re
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.figure import Figure
from scripts.bench.noise import Clocks, Noise, machine, read_clocks, warm_memory, warnings
from tests.huge_pages import allowed

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


GUEST_BYTES = 32 << 20

# A mapping of the warm memory's memfd, and what of it is there: pages that the administrator has
# set aside are counted for themselves.
_MAPPING = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ .*?(?=^[0-9a-f]+-[0-9a-f]+ |\Z)", re.MULTILINE | re.DOTALL
)
_RESIDENT = re.compile(r"^(?:Rss|Shared_Hugetlb|Private_Hugetlb): +(\d+) kB$", re.MULTILINE)


def resident_bytes() -> list[int]:
    """Return how much is there of each mapping of warm memory that this process has."""
    smaps = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    mappings = [
        match[0] for match in _MAPPING.finditer(smaps) if "memfd:midstream-warm" in match[0]
    ]
    return [sum(int(kib) << 10 for kib in _RESIDENT.findall(mapping)) for mapping in mappings]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Warm memory; return what was there while what had been freed before went to the host."""
    seen: list[list[int]] = []
    monkeypatch.setattr("time.sleep", lambda _: seen.append(resident_bytes()))
    warm_memory(GUEST_BYTES)
    (during,) = seen
    return during


def test_warm_memory_was_all_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what was freed before has gone to the host, none of it is free."""
    assert max(watched(monkeypatch)) >= 2 * GUEST_BYTES
    assert resident_bytes() == []


def test_huge_pages_are_warm_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a guest would get pages that are set aside, those are what is warmed."""
    try:
        with allowed():
            assert max(watched(monkeypatch)) >= 2 * GUEST_BYTES
    except OSError as error:
        pytest.skip(f"huge pages: {error}")
    assert resident_bytes() == []
