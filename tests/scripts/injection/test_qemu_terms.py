"""Scenarios with a QEMU as the source: what they can say, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.channels import Channel
from scripts.injection.checks import Carriers, MemoryEqual
from scripts.injection.scenario import Scenario, ScenarioError, read_scenario

SOURCE = '[source]\nqemu = "qemu-system-x86_64"\n'
GUEST = '[migration]\nsize = "16MiB"\npage-size = "2MiB"\n'
END = '[expect]\nstatus = "completed"\n'
FAULT = "[[step]]\nwhen = { page = 1, received = 0.25 }\nfault = [4, 1]\n"


def read(folder: Path, *parts: str) -> Scenario:
    """Return the scenario that a text stands for."""
    path = folder / "case.toml"
    path.write_text("".join(parts), encoding="utf-8")
    return read_scenario(path)


def test_a_scenario_with_a_qemu(tmp_path: Path) -> None:
    """What is said of the guest is QEMU's to make, and vCPUs are the destination's."""
    more = 'max-postcopy-bandwidth = "1MB/s"\nwindow = "64KiB"\npostcopy-after = 0\n'
    scenario = read(tmp_path, SOURCE, GUEST, more, FAULT, END, 'channels = { 1 = ["precopy"] }\n')
    assert scenario.qemu is not None
    assert scenario.qemu.arguments(scenario.values) == [
        "--preempt", "--size=16MiB", "--page-size=2MiB", "--seed=0", "--max-bandwidth=0",
        "--max-postcopy-bandwidth=1MB/s", "--postcopy-after=0", "--window=64KiB",
        "--reconnect-for=60s", "--qemu=qemu-system-x86_64", "--accel=auto", "--precopy=0",
    ]  # fmt: skip
    assert scenario.values["vcpus"] == "2"
    assert scenario.values["window"] == "64KiB"
    assert [type(check) for check in scenario.expect.checks][1:] == [Carriers]
    assert not scenario.expect.compares


def test_switches_of_a_qemu(tmp_path: Path) -> None:
    """Without preempt there is one channel; the memory can be compared."""
    source = SOURCE + 'preempt = false\nrunning = true\naccel = "tcg"\n'
    scenario = read(tmp_path, source, GUEST, END, "memory-equal = true\n")
    assert scenario.qemu is not None
    arguments = scenario.qemu.arguments(scenario.values)
    assert arguments[:2] == ["--no-preempt", "--running"]
    assert "--accel=tcg" in arguments
    assert MemoryEqual() in scenario.expect.checks
    assert scenario.expect.compares
    with pytest.raises(ScenarioError, match="no postcopy channel"):
        read(tmp_path, source, GUEST, END, f'channels = {{ 1 = ["{Channel.POSTCOPY.value}"] }}\n')


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[source]\nother = 1\n" + END, 2, "has no 'other'"),
        ("[source]\npreempt = true\n" + END, 1, "name of QEMU's executable"),
        (SOURCE + "precopy = 4\n" + GUEST + END, 3, "precopy is no size"),
        (SOURCE + 'accel = "hvf"\n' + END, 3, "none of auto, kvm, tcg"),
        (SOURCE + "preempt = 1\n" + END, 3, "neither true nor false"),
        (SOURCE + '[migration]\npolicy = "drop"\n' + END, 4, "not for a QEMU"),
        (SOURCE + '[migration]\nlink = "1Gbit/s"\n' + END, 4, "not for a QEMU"),
        (SOURCE + '[migration]\npostcopy-after = "never"\n' + END, 4, "only taken with postcopy"),
        (SOURCE + '[migration]\nsize = "a=4MiB,b=4MiB"\n' + END, 3, "one RAMBlock"),
        (SOURCE + END + "boosted = 1\n", 5, "does not tell boosted"),
        (SOURCE + END + "served-order = [1]\n", 5, "does not tell served-order"),
        (END + "memory-equal = true\n", 3, "is of a QEMU"),
        (SOURCE + END + "memory-equal = false\n", 5, "can only be true"),
        (
            SOURCE + '[[step]]\nwhen = { placed = 1 }\nnetwork = { do = "stall" }\n' + END, 5,
            "proxy does not speak",
        ),
        (
            SOURCE + '[[step]]\nwhen = { bytes = 9, channel = "precopy" }\nfault = [1]\n' + END, 4,
            "does not speak QEMU's",
        ),
        (
            SOURCE + "[[step]]\nwhen = { page = 1, received = 1 }\n"
            'process = { do = "kill", side = "source" }\n' + END, 4, "does not speak QEMU's",
        ),
        (
            SOURCE + '[[step]]\nwhen = { placed = 1 }\nprocess = { do = "stop", side = "source" }\n'
            + END, 5, "can be killed",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, line: int, reason: str) -> None:
    """Each is told with its line before anything runs."""
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, text)
    assert f"case.toml:{line}: " in str(caught.value)
    assert reason in str(caught.value)
