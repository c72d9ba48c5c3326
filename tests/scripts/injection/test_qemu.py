"""Scenarios with a QEMU as the source: what they can say, what is refused, what is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dest.config import QemuDestConfig
from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, RamBlock
from scripts.injection.checks import Carriers, MemoryEqual
from scripts.injection.outcome import Outcome
from scripts.injection.qemu import carriers_told, differing_target_pages, early_pages
from scripts.injection.scenario import Scenario, ScenarioError, read_scenario
from scripts.qemu.command import QemuSource
from scripts.qemu.drive import Orders
from scripts.qemu.machine import MachineSpec

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
    more = 'max-postcopy-bandwidth = "1MB/s"\nsocket-buffer = "64KiB"\npostcopy-after = 0\n'
    scenario = read(tmp_path, SOURCE, GUEST, more, FAULT, END, 'channels = { 1 = ["precopy"] }\n')
    assert scenario.qemu is not None
    assert scenario.qemu == QemuSource(
        MachineSpec(program="qemu-system-x86_64", accel="kvm:tcg", paused=True),
        Geometry((RamBlock("ram", 16 << 20, 2 << 20),)),
        None,
        0,
        Orders(
            preempt=True, postcopy_after=0, bandwidth=0, postcopy_bandwidth=1_000_000,
            reconnect_seconds=60.0, precopy_bytes=0,
        ),
        64 << 10,
        None,
    )  # fmt: skip
    assert scenario.program.vcpu_count == 2
    assert isinstance(scenario.dest, QemuDestConfig)
    assert scenario.dest.window_bytes == 64 << 10
    assert [type(check) for check in scenario.expect.checks][1:] == [Carriers]
    assert not scenario.expect.compares


def test_switches_of_a_qemu(tmp_path: Path) -> None:
    """Without preempt there is one channel; the memory can be compared."""
    source = SOURCE + 'preempt = false\nrunning = true\naccel = "tcg"\n'
    scenario = read(tmp_path, source, GUEST, END, "memory-equal = true\n")
    assert scenario.qemu is not None
    assert not scenario.qemu.orders.preempt
    assert scenario.qemu.machine == MachineSpec(
        program="qemu-system-x86_64", accel="tcg", paused=False
    )
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


PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


def placed(page: int, channel: Channel, pages: int = 1, block: int = 0) -> dict[str, Any]:
    """Return the event of placed pages."""
    place = {"block": block, "page": page, "pages": pages}
    return {"event": "page-placed", "channel": channel.value, **place}


def test_the_destination_tells_what_brought_a_page() -> None:
    """A page's channel is the one that completed it, be it alone or in a run."""
    told = [placed(3, PRE, pages=4), {"event": "state"}, placed(9, POST), placed(5, POST, block=1)]
    pages = [PageId(0, 5), PageId(0, 9), PageId(0, 7)]
    assert carriers_told(pages, told) == {pages[0]: [PRE], pages[1]: [POST], pages[2]: []}


def test_memories_are_compared_page_by_page(tmp_path: Path) -> None:
    """The source's bytes must stand at the beginning of the destination's; none is told."""
    source, dest = tmp_path / "source", tmp_path / "dest"
    source.write_bytes(b"a" * 4096 * 3)
    assert differing_target_pages(source, dest) is None
    dest.write_bytes(b"a" * 4096 * 2)
    assert differing_target_pages(source, dest) is None
    dest.write_bytes(b"a" * 4096 * 3 + b"rom!" * 1024)
    assert differing_target_pages(source, dest) == 0
    dest.write_bytes(b"a" * 4096 + b"a" * 4095 + b"b" + b"c" * 4096)
    assert differing_target_pages(source, dest) == 2


def test_memory_that_differs_is_a_failure() -> None:
    """Equal memory alone is as expected."""
    statuses = {"source": 0, "dest": 0}
    assert MemoryEqual().failure(Outcome(statuses, differing_target_pages=0)) is None
    for count, words in ((2, "2 target pages differ"), (None, "nothing to compare")):
        failure = MemoryEqual().failure(Outcome(statuses, differing_target_pages=count))
        assert failure is not None
        assert failure.seen == words


def test_a_page_that_was_in_the_socket_is_found() -> None:
    """Placed before the first of those asked for before it, a page was on its way already."""
    one, four, five = PageId(0, 1), PageId(0, 4), PageId(0, 5)
    steps = [(one, (four, one, five))]
    assert early_pages(steps, [one, four, five]) == [one]
    assert early_pages(steps, [one]) == [one]
    assert early_pages(steps, [four, one, five]) == []
    assert early_pages(steps, [four, five, one]) == []
    assert early_pages(steps, []) == []
    assert early_pages([(one, (one, four))], [one, four]) == []
