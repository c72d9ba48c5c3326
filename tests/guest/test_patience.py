"""How long a peer is waited for, in virtual time."""

import pytest
import trio
from trio.testing import MockClock

from guest.patience import patience
from protocol.errors import ConnectionLost


async def test_what_takes_too_long_is_named_with_its_time(autojump_clock: MockClock) -> None:
    """After the last second there is no more waiting, and the error says how long there was."""
    began = trio.current_time()
    with (
        pytest.raises(ConnectionLost, match=r"^no answer in 2\.5 s$"),
        patience(2.5, "no answer", ConnectionLost),
    ):
        await trio.sleep(60)
    assert trio.current_time() - began == 2.5


async def test_what_is_done_in_time_goes_on(autojump_clock: MockClock) -> None:
    """Nothing is raised for what takes less."""
    with patience(2.5, "no answer", ConnectionLost):
        await trio.sleep(2)
