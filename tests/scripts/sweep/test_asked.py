"""The file of a sweep: which points it stands for, and what is refused in which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.injection.scenario_text import ScenarioError
from scripts.sweep import asked
from scripts.sweep.asked import Sweep, read_sweep

BEGIN = '[options]\nsize = "32MiB"\n\n[axes]\n'


def read(folder: Path, text: str) -> Sweep:
    """Return the sweep that a text describes."""
    path = folder / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    return read_sweep(path)


def test_every_combination_is_a_point(tmp_path: Path) -> None:
    """The last axis changes fastest, and options are the same in all."""
    sweep = read(tmp_path, BEGIN + 'policy = ["ordered", "drop"]\nvcpus = [1, 4]\n')
    assert [dict(job.point) for job in sweep.jobs] == [
        {"size": "32MiB", "policy": policy, "vcpus": vcpus}
        for policy in ("ordered", "drop")
        for vcpus in (1, 4)
    ]
    assert sweep.kind.command == "simulate"
    assert len({job.key for job in sweep.jobs}) == 4


def test_a_span_stands_for_its_numbers(tmp_path: Path) -> None:
    """Both ends are in it."""
    assert read(tmp_path, BEGIN + 'seed = "3..5"\n').axes == {"seed": [3, 4, 5]}


def test_parts_of_a_link_are_axes(tmp_path: Path) -> None:
    """They join the link; none is what the link has without them."""
    sweep = read(tmp_path, BEGIN + 'link = ["1Gbit/s"]\nrtt = ["0", "1ms"]\nqueue = ["fifo"]\n')
    assert [job.values["link"] for job in sweep.jobs] == [
        "1Gbit/s,queue=fifo", "1Gbit/s,rtt=1ms,queue=fifo"
    ]  # fmt: skip


WRONG = {
    "empty": ("policy = []\n", 5, "policy is an empty axis"),
    "unknown": ('polycy = ["drop"]\n', 5, "(did you mean 'policy'?)"),
    "no array": ('policy = "drop"\n', 5, "policy is no axis"),
    "span": ('seed = "2..1"\n', 5, "seed: 2..1 is empty"),
    "twice": ("vcpus = [1, 2, 1]\n", 5, "vcpus has 1 twice"),
    "of all runs": ('size = ["1GiB"]\n', 5, "size is one of the options, too"),
    "an output": ('report = ["x"]\n', 5, "no option 'report' for a sweep"),
    "of real runs": ('backing = ["thp"]\n', 5, "simulate has no option 'backing'"),
    "a switch": ("start-paused = [1]\n", 5, "1 is neither true nor false"),
    "a table": ("vcpus = [{}]\n", 5, "vcpus: {} is neither a text nor a number"),
    "a value": ("seed = [0]\nvcpus = [1, 0]\n", 6, "vcpus: a guest has 1 to 512 vCPUs, not 0"),
    "a policy": ('policy = ["ordred"]\n', 5, "(did you mean 'ordered'?)"),
    "a plug-in": ('policy = ["none.py:X"]\n', 5, "none.py: No such file or directory"),
    "a trace": ('program = ["trace:none"]\n', 5, "none: No such file or directory"),
    "accesses": ('accesses = ["none"]\n', 5, "accesses: trace"),
    "a model": ('model = ["none.toml"]\n', 5, "No such file or directory; known: reference"),
    "of a model": ('set = ["nonsense=1"]\n', 5, "a model has no 'nonsense'"),
    "set": ("set = [1]\n", 5, "set: 1 is neither NAME=VALUE nor an array"),
    "one of two": (
        'seed = [0]\npage-size = ["2MiB", "1GiB"]\n', 6, "(of the point seed=0, page-size=1GiB)"
    ),
    "a round trip": ('link = ["1Gbit/s"]\nrtt = ["soon"]\n', 6, "rtt: 'soon'"),
    "no axis": ("", 4, "no axis"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "reason"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    """File, line and reason, before anything is run."""
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, BEGIN + text)
    assert str(caught.value).startswith(f"{tmp_path / 'sweep.toml'}:{line}: ")
    assert reason in str(caught.value)
    assert caught.value.exit_status == 2


def test_what_is_wrong_in_options_is_told_there(tmp_path: Path) -> None:
    """The line is that of the option, and no axis's."""
    with pytest.raises(ScenarioError, match=r"sweep\.toml:2: vcpus: a guest has 1 to 512"):
        read(tmp_path, "[options]\nvcpus = 0\n[axes]\nseed = [1]\n")


def test_a_command_is_one_that_sweeps(tmp_path: Path) -> None:
    """Others are refused, and so are other sections."""
    with pytest.raises(ScenarioError, match=r":1: command is 'bench', and not one of: simulate, m"):
        read(tmp_path, 'command = "bench"\n[axes]\nseed = [1]\n')
    with pytest.raises(ScenarioError, match=r":3: a sweep has no 'axis'"):
        read(tmp_path, "[axes]\nseed = [1]\n[axis]\n")


def test_too_many_points_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a million points to be looked at."""
    monkeypatch.setattr(asked, "POINTS_MAX", 3)
    with pytest.raises(ScenarioError, match=r":4: 4 points, and a sweep has at most 3"):
        read(tmp_path, BEGIN + "seed = [1, 2]\nvcpus = [1, 2]\n")
