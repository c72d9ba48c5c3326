"""Scenarios between two QEMUs as a file says them; what is wrong is told by its line."""

from pathlib import Path

import pytest

from scripts.injection.scenario_text import ScenarioError
from scripts.relay.scenario import is_pair, read_pair, with_qemu
from scripts.relay.steps import NamedPage, Touch

GOOD = """name = "one"
versions = "7-9"
settle = "2s"
[source]
qemu = "one"
preempt = false
[dest]
qemu = "other"
accel = "tcg"
[migration]
size = "a=16MiB@2MiB,b=4MiB@4KiB"
window = "64KiB"
max-postcopy-bandwidth = "8Mbit/s"
recover = 2
[[step]]
when = { served = "b:1" }
fault = ["a:1", "b:7"]
[expect]
dest = "completed"
"""


def written(folder: Path, text: str) -> Path:
    """Return a file with a text."""
    path = folder / "pair.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_scenario_is_read(tmp_path: Path) -> None:
    """Everything that a file says is there."""
    path = written(tmp_path, GOOD)
    scenario = read_pair(path)
    assert is_pair(path)
    assert scenario.versions == (7, 9)
    assert (scenario.source.program, scenario.source.accel) == ("one", "kvm:tcg")
    assert (scenario.dest.program, scenario.dest.accel) == ("other", "tcg")
    assert not scenario.preempt
    assert [block.name for block in scenario.geometry.blocks] == ["a", "b"]
    assert scenario.window_bytes == 64 << 10
    assert scenario.postcopy_bandwidth == 1_000_000
    assert (scenario.recover, scenario.settle_seconds) == (2, 2.0)
    (step,) = scenario.steps
    assert step.action == Touch((NamedPage("a", 1), NamedPage("b", 7)))
    assert with_qemu(scenario, None) is scenario
    assert with_qemu(scenario, "new").dest.program == "new"


def test_a_scenario_of_midstream_is_another(tmp_path: Path) -> None:
    """Without a QEMU as the destination it is none of these."""
    assert not is_pair(written(tmp_path, 'name = "x"\n[source]\nqemu = "q"\n'))


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('name = "one"', 'name = ""', 1, "a line of text"),
        ('"7-9"', '"late"', 2, "is not such as"),
        ('"2s"', "2", 3, "is not a time"),
        ('"one"\npreempt', "3\npreempt", 5, "not the name"),
        ("preempt = false", "preempt = 0", 6, "neither true nor false"),
        ('accel = "tcg"', 'accel = "xen"', 9, "is none of"),
        ('accel = "tcg"', "preempt = true", 9, "has no 'preempt'"),
        ("2MiB,b", "3MiB,b", 10, "page"),
        ('"8Mbit/s"', '"fast"', 10, "fast"),
        ("recover = 2", "recover = -1", 14, "not a whole number"),
        ('fault = ["a:1", "b:7"]', "fault = []", 17, "not a list of pages"),
        ('fault = ["a:1", "b:7"]', 'fault = ["a:1"]\nnetwork = { do = "cut" }', 15, "one thing"),
        ('dest = "completed"', "dest = 4", 19, "nothing that can be expected"),
        ('dest = "completed"', "", 1, "expects something"),
        ('dest = "completed"', "wait = 3", 19, "has no 'wait'"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, old: str, new: str, line: int, reason: str) -> None:
    """A wrong file is refused with the line and the reason."""
    assert old in GOOD
    with pytest.raises(ScenarioError) as caught:
        read_pair(written(tmp_path, GOOD.replace(old, new, 1)))
    assert f"pair.toml:{line}:" in str(caught.value)
    assert reason in str(caught.value)
