"""What a machine can do is found by trying, and what it cannot comes with a reason."""

from collections.abc import Callable

import pytest

from guest import abi, probe, userfaultfd
from guest.probe import Finding
from tests.bounds import open_files

PROBES = {
    "userfaultfd": probe.can_open_userfaultfd,
    "faults": probe.can_stop_at_faults,
    "faults on huge pages": lambda: probe.can_stop_at_faults("hugetlb", 2 << 20),
    "writes": probe.can_log_writes,
    "features": lambda: probe.has_userfaultfd_features(abi.UFFD_FEATURE_WP_ASYNC),
    "no features": lambda: probe.has_userfaultfd_features(1 << 63),
    "pagemap": probe.can_scan_pagemap,
    "collapse": probe.can_collapse,
    "thp": lambda: probe.can_back("thp"),
    "hugetlb": lambda: probe.can_back("hugetlb"),
}


@pytest.mark.parametrize("ask", PROBES.values(), ids=PROBES)
def test_a_finding_has_a_reason_when_it_is_no(ask: Callable[[], Finding]) -> None:
    """Each answer is yes, or no with one line that says why; nothing is left of the attempt."""
    before = open_files()
    ok, reason = ask()
    assert ok == (not reason)
    assert "\n" not in reason
    assert open_files() - before == set()


def test_a_kernel_without_minor_faults_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel lacks is named."""
    monkeypatch.setattr(userfaultfd, "known_features", lambda: abi.UFFD_FEATURE_THREAD_ID)
    ok, reason = probe.can_stop_at_faults()
    assert not ok
    assert "MINOR_SHMEM" in reason


def test_base_pages_can_always_be_had() -> None:
    """Where nothing else is there, base pages are."""
    assert probe.can_back("base") == Finding(ok=True)
