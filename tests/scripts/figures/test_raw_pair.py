"""The yardstick: a plain socket pair between two processes."""

import pytest

from protocol.errors import MigrationError
from scripts.figures import raw_pair
from scripts.links.link import PROXY, Link
from scripts.links.spec import LinkSpec
from tests.bounds import nothing_left

MIB = 1 << 20


def test_all_bytes_cross() -> None:
    """The figure is bytes a second of the whole length; over a link it is the link's, or less."""
    with nothing_left():
        run = raw_pair.measure(8 * MIB, "base")
        assert run.bytes_per_second > 0
        assert run.cpu_seconds > 0
        slow = raw_pair.measure(4 * MIB, "base", Link(LinkSpec(40_000_000), PROXY))
        assert 0 < slow.bytes_per_second < 48_000_000


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a process ends early nothing hangs, and no figure comes of it, but its reason."""
    with nothing_left():
        with pytest.raises(MigrationError, match=r"pair failed: .* memory"):
            raw_pair.measure(1 << 44, "base")
        monkeypatch.setattr(raw_pair, "_MODULE", "no_such_module")
        with pytest.raises(MigrationError, match=r"pair failed: .* ended before"):
            raw_pair.measure(8 * MIB, "base")
