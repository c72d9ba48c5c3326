"""A block gets the pages that were asked for, or one line says why not."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from guest import backing
from guest.backing import check_room, make_block
from protocol.errors import GuestFailed
from protocol.geometry import RamBlock
from tests.bounds import open_files
from tests.huge_pages import huge_pages

HUGE = RamBlock("ram", 4 << 20, 2 << 20)
SMALL = RamBlock("rom", 64 << 10, 4096)


@pytest.mark.parametrize("kind", ["auto", "hugetlb", "thp", "base"])
def test_blocks_of_base_pages_are_base(kind: str) -> None:
    """There is nothing to choose for 4 KiB pages."""
    made = make_block(SMALL, kind)
    assert made.kind == "base"
    assert made.view == bytes(64 << 10)
    made.close()


def test_auto_takes_what_there_is() -> None:
    """Some kind of memory is always had, and named."""
    made = make_block(HUGE, "auto")
    assert made.kind in ("hugetlb", "thp", "base")
    assert os.fstat(made.fd).st_size == 4 << 20
    made.close()


def test_auto_leaves_hugetlb_alone_where_it_shall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that can only be mapped whole are not even tried, though they may be free."""

    def refuse(_: RamBlock) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(backing, "_make_hugetlb", refuse)
    made = make_block(HUGE, "auto", hugetlb=False)
    assert made.kind in ("thp", "base")
    made.close()


def test_memory_lies_on_a_multiple_of_its_page_size() -> None:
    """Only there can a huge page be mapped as one; the mapping goes with the last view of it."""
    made = make_block(HUGE, "base")
    assert made.address % HUGE.page_bytes == 0
    part = made.view[:10]
    made.close()
    part[3] = 7
    assert part[3] == 7
    begin = f"{made.address:x}-"
    assert begin in Path("/proc/self/maps").read_text(encoding="utf-8")
    del made, part
    assert begin not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_hugetlb_sets_its_pages_aside() -> None:
    """Where huge pages are free they are reserved at once, so that none is missing later."""
    with huge_pages(2):
        made = make_block(HUGE, "hugetlb")
        assert made.kind == "hugetlb"
        assert os.fstat(made.fd).st_blksize == 2 << 20
        made.close()


@pytest.mark.parametrize("page_bytes", [2 << 20, 1 << 30])
def test_too_few_huge_pages_are_refused(page_bytes: int) -> None:
    """The line says how many are needed, how many there are, and what to do."""
    block = RamBlock("ram", 1 << 40, page_bytes)
    with pytest.raises(GuestFailed, match=r"'ram'.*--backing auto") as refused:
        make_block(block, "hugetlb")
    assert "\n" not in str(refused.value)


def test_a_huge_page_size_that_the_machine_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A kernel without such pages is told apart from one that has none free."""
    monkeypatch.setattr(backing, "_HUGE_PAGES", tmp_path)
    with pytest.raises(GuestFailed, match="has no huge pages of 2 MiB"):
        make_block(RamBlock("ram", 1 << 40, 2 << 20), "hugetlb")


def test_transparent_huge_pages_are_real_or_refused() -> None:
    """Asked for them, one gets memory whose first touch brings 2 MiB, or advice."""
    try:
        made = make_block(HUGE, "thp")
    except GuestFailed as refused:
        assert "shmem_enabled" in str(refused)  # noqa: PT017  (either outcome is right)
        return
    assert made.kind == "thp"
    assert os.fstat(made.fd).st_blocks * 512 == 2 << 20
    made.close()


def test_a_block_too_large_for_the_address_space_is_refused() -> None:
    """The kernel's refusal to map becomes one line."""
    with pytest.raises(GuestFailed, match="cannot make"):
        make_block(RamBlock("ram", 1 << 60, 4096), "base")


def test_nothing_is_left_of_a_refused_block() -> None:
    """A refusal leaks no file descriptor."""
    before = open_files()
    with pytest.raises(GuestFailed):
        make_block(RamBlock("ram", 1 << 60, 4096), "base")
    assert open_files() - before == set()


def test_room_is_checked_against_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside all else is refused; huge pages are set aside already."""
    monkeypatch.setattr(backing, "_machine_free_bytes", lambda: 1 << 30)
    check_room([("base", 512 << 20), ("hugetlb", 1 << 40)])
    with pytest.raises(GuestFailed, match="needs 1024 MiB of memory, this machine has 960 MiB"):
        check_room([("base", 512 << 20), ("thp", 512 << 20)])


def test_room_is_checked_against_the_control_group(tmp_path: Path) -> None:
    """The tightest group on the way up counts, less the file pages that can be dropped."""
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/x\n0::/a/b\n", encoding="ascii")
    for name, limit, current in (("a", "max", 5), ("a/b", "1000", 700), (".", "2000", 100)):
        folder = tmp_path / "fs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n", encoding="ascii")
        (folder / "memory.current").write_text(f"{current}\n", encoding="ascii")
        stat = "anon 300\nfile 400\ninactive_file 150\nactive_file 50\n"
        (folder / "memory.stat").write_text(stat, encoding="ascii")
    assert backing._cgroup_free_bytes(membership, tmp_path / "fs") == 1000 - 700 + 200


def test_a_machine_without_control_groups_sets_no_limit(tmp_path: Path) -> None:
    """No cgroup file, or none of version 2, is no reason to refuse."""
    assert backing._cgroup_free_bytes(tmp_path / "missing") > 1 << 60


def test_memory_is_told_in_bytes(tmp_path: Path) -> None:
    """What the kernel writes in KiB is in bytes, and a count is a count."""
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 9 kB\nMemAvailable:      2048 kB\nHugePages_Free:       3\n")
    assert backing.memory_info(path) == {
        "MemTotal": 9 << 10, "MemAvailable": 2 << 20, "HugePages_Free": 3,
    }  # fmt: skip
