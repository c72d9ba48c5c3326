"""Scripted faults in a destination's migration: whose pages are touched, and when."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.script import Step
from protocol import events
from protocol.errors import GuestFailed, MidstreamError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.messages import PageRequest, Running
from tests.dest_migrations import POST, PRE, make_rig
from tests.guests import HUGE, KIB, FakeGuest

STEPS = (
    Step("received", PageId(0, 1), (PageId(0, 3), PageId(1, 2)), share=0.5),
    Step("requested", PageId(0, 3), (PageId(0, 2),)),
    Step("placed", PageId(0, 3), (PageId(0, 0),)),
)


@pytest.fixture
def _touching_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests whose vCPUs touch what they are told to at once."""

    async def touch(self: FakeGuest, vcpu: int, flat: int) -> None:
        await trio.lowlevel.checkpoint()
        self.fault(vcpu, flat)

    monkeypatch.setattr(FakeGuest, "touch", touch)


@pytest.mark.usefixtures("_touching_guest")
async def test_scripted_faults_come_at_their_moments() -> None:
    """A step's pages are touched when its moment has come, in order, and each is asked for."""
    async with make_rig(steps=STEPS) as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        half = HUGE // 2
        for offset in range(0, half - 256 * KIB, 256 * KIB):
            await source.send_bytes(PRE, 0, HUGE + offset, 256 * KIB)
        await wait_all_tasks_blocked()
        assert rig.events.of(events.VcpuWait) == []
        await source.send_bytes(PRE, 0, HUGE + half - 256 * KIB, 256 * KIB)
        asked = [await source.main.expect(PageRequest) for _ in range(3)]
        assert [(each.block, each.page) for each in asked] == [(0, 3), (1, 2), (0, 2)]
        await source.send_page(POST, PageId(0, 3), urgent=True)
        last = await source.main.expect(PageRequest)
        assert (last.block, last.page) == (0, 0)
        source.close()


@pytest.mark.usefixtures("_touching_guest")
async def test_scripts_speak_of_pages_under_any_policy() -> None:
    """Where target pages are placed by themselves, a step's moment is still that of its page."""
    async with make_rig("critical-first", STEPS) as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        for eighth in (3, 1, 2):
            await source.send_bytes(PRE, 0, HUGE + eighth * 256 * KIB, 256 * KIB)
        await wait_all_tasks_blocked()
        assert rig.events.of(events.VcpuWait) == []
        await source.send_bytes(PRE, 0, HUGE, 256 * KIB)
        asked = [await source.main.expect(PageRequest) for _ in range(3)]
        assert [(each.block, each.page) for each in asked] == [(0, 3), (1, 2), (0, 2)]
        await source.send_bytes(POST, 0, 3 * HUGE, TARGET_PAGE_BYTES, urgent=True)
        await wait_all_tasks_blocked()
        # Its vCPU runs again, and its page is not placed.
        assert [each["page"] for each in rig.events.of(events.VcpuWake)] == [3]
        rest = HUGE - TARGET_PAGE_BYTES
        for offset in range(0, rest, 252 * KIB):
            start = 3 * HUGE + TARGET_PAGE_BYTES + offset
            assert len(rig.events.of(events.PagePlaced)) == 0
            await source.send_bytes(PRE, 0, start, min(rest - offset, 252 * KIB))
        last = await source.main.expect(PageRequest)
        assert (last.block, last.page) == (0, 0)
        source.close()


async def test_steps_need_a_guest_that_takes_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script for a guest that follows a program ends the migration, it is not ignored."""

    async def touch(*_: Any) -> None:  # noqa: ANN401 - whatever it is told
        await trio.lowlevel.checkpoint()
        raise GuestFailed("vCPUs of the program 'uniform' take no orders")

    monkeypatch.setattr(FakeGuest, "touch", touch)
    async with make_rig(steps=STEPS) as rig:
        await rig.source.start_postcopy()
        with suppress(OSError):
            await rig.source.send_page(PRE, PageId(0, 1))
        await rig.source.main.wait_closed()
    assert isinstance(rig.cause, MidstreamError)
    assert "take no orders" in str(rig.cause)
