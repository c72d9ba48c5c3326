"""Memory that is warm."""

import re
from pathlib import Path

import pytest

from scripts.bench.warming import warm_memory
from tests.huge_pages import allowed

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
