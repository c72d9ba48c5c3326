"""Questions about memory: a no comes out with its reason, whatever this machine can do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from guest.probe import Finding
from scripts.doctor import memory
from scripts.doctor.feature import Feature

NO = Finding(ok=False, reason="not on this one")


def answer(name: str) -> Feature:
    """Ask one question."""
    (question,) = (each for each in memory.questions() if each.name == name)
    return question.answer()


def refuse(*_: object) -> int:
    """Do what a kernel does that forbids a call."""
    raise PermissionError(1, "syscall: no")


@pytest.mark.parametrize(
    ("name", "target", "fake"),
    [
        ("memory for guests", "guest.probe.can_back", lambda *_: NO),
        ("real page faults (MINOR_SHMEM)", "guest.probe.can_stop_at_faults", lambda *_: NO),
        ("real faults on hugetlb", "guest.probe.has_userfaultfd_features", lambda *_: NO),
        ("write log (WP_ASYNC)", "guest.probe.has_userfaultfd_features", lambda *_: NO),
        ("PAGEMAP_SCAN", "guest.probe.can_scan_pagemap", lambda *_: NO),
        ("MADV_COLLAPSE", "guest.probe.can_collapse", lambda *_: NO),
    ],
)
def test_what_a_probe_finds_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, target: str, fake: Callable[..., Finding]
) -> None:
    """The probe's reason is the detail, and there is something to do and to expect."""
    monkeypatch.setattr(target, fake)

    found = answer(name)

    assert (found.ok, found.detail) == (False, NO.reason)
    assert found.remedy
    assert found.without


@pytest.mark.parametrize("name", ["userfaultfd, all faults", "userfaultfd, user mode only"])
def test_a_forbidden_system_call_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The kernel's reason stands by itself."""
    monkeypatch.setattr("guest.libc.userfaultfd", refuse)

    assert answer(name).detail == "Operation not permitted"


def test_the_device_is_missing_or_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who may not open it needs a right, who has none a kernel, and any file is not the device."""
    monkeypatch.setattr(memory, "UFFD_DEVICE", tmp_path / "missing")
    assert "Linux 6.1" in answer("/dev/userfaultfd").remedy

    (tmp_path / "file").touch()
    monkeypatch.setattr(memory, "UFFD_DEVICE", tmp_path / "file")
    found = answer("/dev/userfaultfd")
    assert not found.ok
    assert str(tmp_path / "file") in found.remedy


def test_too_little_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default guest has to fit twice."""
    monkeypatch.setattr(memory, "spare_bytes", lambda: 511 << 20)
    found = answer("256 MiB on both sides")

    assert (found.ok, found.detail) == (False, "511 MiB to spare")


def test_huge_pages_that_are_not_set_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Counts are told, and where to write; a size that the machine has not cannot be had."""
    monkeypatch.setattr(memory, "HUGE_PAGES", tmp_path)
    monkeypatch.setattr("guest.probe.can_back", lambda *_: NO)
    folder = tmp_path / "hugepages-2048kB"
    folder.mkdir()
    for name, count in (("nr", 9), ("free", 5), ("resv", 5)):
        (folder / f"{name}_hugepages").write_text(f"{count}\n")

    found = answer("hugetlb pages of 2 MiB")

    assert (found.ok, found.detail) == (False, "5 of 9 are free, 5 of them promised")
    assert found.remedy == f"echo 256 > {folder}/nr_hugepages"
    assert answer("hugetlb of 1 GiB").detail == "this machine has no pages of this size"


def test_faults_on_huge_pages_are_tried_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a free page the kernel's word counts; with one, what comes of it."""
    monkeypatch.setattr("guest.probe.has_userfaultfd_features", lambda _: Finding(ok=True))
    monkeypatch.setattr("guest.probe.can_stop_at_faults", lambda *_: NO)
    monkeypatch.setattr("guest.probe.can_back", lambda *_: NO)
    assert "no huge page was free" in answer("real faults on hugetlb").detail

    monkeypatch.setattr("guest.probe.can_back", lambda *_: Finding(ok=True))
    assert answer("real faults on hugetlb").detail == NO.reason


def test_the_setting_of_shared_huge_pages_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is chosen stands in brackets; what comes of it is tried."""
    monkeypatch.setattr("guest.probe.can_back", lambda *_: NO)
    monkeypatch.setattr(memory, "SHMEM_ENABLED", tmp_path / "shmem_enabled")
    assert answer("huge pages of shared memory").detail == "shmem_enabled is ?"

    (tmp_path / "shmem_enabled").write_text("always within_size advise [never] deny force\n")
    found = answer("huge pages of shared memory")
    assert (found.ok, found.detail) == (False, "shmem_enabled is never")
