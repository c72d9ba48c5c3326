"""Who asks KVM for its log is another process, which may be gone, or stopped.

What the log tells is tested with the other logs, in tests/guest/test_dirty_log.py.
"""

import os
import signal

import pytest

from guest.spec import KVM
from protocol.errors import GuestFailed
from tests.logs import logged, writes_to
from tests.machines import needs_kvm

pytestmark = needs_kvm


async def test_a_guest_that_is_gone_keeps_no_log() -> None:
    """The engine is told, and does not wait."""
    async with logged("kvm", writes_to([3], KVM)) as (_, guest, log):
        log.start()
        os.kill(guest.pid, signal.SIGKILL)
        with pytest.raises(GuestFailed, match="KVM's dirty log"):
            log.harvest()


async def test_a_guest_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that somebody has stopped holds the engine up for a bounded time."""
    monkeypatch.setattr("guest.kvm.log._ANSWER_SECONDS_MAX", 0.2)
    async with logged("kvm", writes_to([3], KVM)) as (_, guest, log):
        log.start()
        os.kill(guest.pid, signal.SIGSTOP)
        # Until all its threads are.
        os.waitid(os.P_PID, guest.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it is at once
        with pytest.raises(GuestFailed, match="no answer in"):
            log.harvest()
