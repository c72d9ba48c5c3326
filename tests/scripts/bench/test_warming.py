"""Memory that is warm."""

from pathlib import Path

import pytest

from scripts.bench.warming import warm_memory


def test_warm_memory_was_all_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what was freed before has gone to the host, none of it is free."""
    seen: list[int] = []

    def look(_: float) -> None:
        fields = Path("/proc/self/status").read_text(encoding="ascii").split()
        seen.append(int(fields[fields.index("RssShmem:") + 1]) << 10)

    monkeypatch.setattr("time.sleep", look)
    look(0)
    warm_memory(32 << 20)
    look(0)
    assert seen[1] - seen[0] >= 2 * (32 << 20)
    assert seen[2] == seen[0]
