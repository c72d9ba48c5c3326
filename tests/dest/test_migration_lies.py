"""What a source says that is not so: the destination refuses it, and whose fault it is is told."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import Bye, Discard, End, PageData, SwitchOver, Verdict
from tests.dest_migrations import PER_PAGE, POST, PRE, Lie, make_rig
from tests.guests import HUGE, KIB
from tests.sides import HandSource


async def send_a_page_twice(source: HandSource) -> None:
    """Send what the guest may have written to since."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))
    await source.send_page(PRE, PageId(0, 0))


async def send_a_page_over_both_channels(source: HandSource) -> None:
    """Send the halves of a page over two connections."""
    await source.start_postcopy()
    await source.send_bytes(PRE, 0, 0, 256 * KIB)
    await source.send_bytes(POST, 0, 256 * KIB, 256 * KIB)


async def send_a_page_again_over_the_other_channel(source: HandSource) -> None:
    """Send a page that is placed once more, over the other connection."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))
    await source.send_page(POST, PageId(0, 0))


async def send_outside_the_guest(source: HandSource) -> None:
    """Send bytes behind the end of a block."""
    await source.start_postcopy()
    await source.main.send(PageData(payload_bytes=4096, block=0, offset=4 * HUGE), bytes(4096))


async def end_with_pages_missing(source: HandSource) -> None:
    """Count right, and leave a page out."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))
    await source.main.send(End(target_pages=PER_PAGE, data_bytes=HUGE))
    await source.second.send(End(target_pages=0, data_bytes=0))


async def end_in_the_middle_of_a_page(source: HandSource) -> None:
    """Count right, and leave a chunk out."""
    await source.start_postcopy()
    await source.send_rest(PageId(0, 0))
    await source.send_bytes(PRE, 0, 0, 256 * KIB)
    count = source.geometry.target_page_count - PER_PAGE + 64
    await source.main.send(End(target_pages=count, data_bytes=count * TARGET_PAGE_BYTES))
    await source.second.send(End(target_pages=0, data_bytes=0))


async def count_too_many_pages(source: HandSource) -> None:
    """Say that more was sent than came."""
    await source.start_postcopy()
    await source.send_rest()
    count = source.geometry.target_page_count + 1
    await source.main.send(End(target_pages=count, data_bytes=count * TARGET_PAGE_BYTES))


async def count_on_the_wrong_channel(source: HandSource) -> None:
    """Say that what came over one channel went over the other."""
    await source.start_postcopy()
    await source.send_rest()
    await source.end(postcopy_pages=1)


async def switch_over_with_pages_missing(source: HandSource) -> None:
    """Say that precopy was complete, though pages are stale."""
    count = 8 * PER_PAGE // 8
    bits = b"\x01" + bytes(count // 8 - 1)
    await source.main.send(Discard(payload_bytes=len(bits), block=0, first=0, count=count), bits)
    await source.switch_over(postcopy=False)


async def go_on_after_a_complete_precopy(source: HandSource) -> None:
    """Send pages to a guest that runs and misses none."""
    await source.send_rest()
    await source.switch_over(postcopy=False)
    await source.send_page(PRE, PageId(0, 0))


async def send_early_over_the_postcopy_channel(source: HandSource) -> None:
    """Use the postcopy channel in precopy."""
    await source.send_page(POST, PageId(0, 0))


async def send_no_device_state(source: HandSource) -> None:
    """Hand a guest over that has no state."""
    await source.main.send(SwitchOver(payload_bytes=3, postcopy=True), b"\xc1\xc1\xc1")


async def send_the_state_of_other_vcpus(source: HandSource) -> None:
    """Hand a guest over that has another number of vCPUs."""
    state = msgpack.packb([[0, 0]])
    await source.main.send(SwitchOver(payload_bytes=len(state), postcopy=True), state)


async def switch_over_twice(source: HandSource) -> None:
    """Hand the guest over again while it runs."""
    await source.start_postcopy()
    await source.switch_over(postcopy=True)


async def end_before_the_switch_over(source: HandSource) -> None:
    """End a migration that did not happen."""
    await source.send_rest()
    await source.end()


LIES: list[tuple[Lie, str]] = [
    (send_a_page_twice, "came again"),
    (send_a_page_over_both_channels, "came over both channels"),
    (send_a_page_again_over_the_other_channel, "came again"),
    (send_outside_the_guest, "outside the guest"),
    (end_with_pages_missing, "bytes are missing"),
    (end_in_the_middle_of_a_page, "bytes are missing"),
    (count_too_many_pages, "the source counts"),
    (count_on_the_wrong_channel, "the source counts"),
    (switch_over_with_pages_missing, "pages are missing though precopy is said to be complete"),
    (go_on_after_a_complete_precopy, "target pages at 0 of block 0 came again"),
    (send_early_over_the_postcopy_channel, "PageData on the postcopy channel in state active"),
    (send_no_device_state, "device state"),
    (send_the_state_of_other_vcpus, "device state"),
    (switch_over_twice, "SwitchOver on the precopy channel in state postcopy-active"),
    (end_before_the_switch_over, "channel in state active"),
]


@pytest.mark.parametrize(("lie", "reason"), LIES, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_source_that_lies_is_refused(lie: Lie, reason: str) -> None:
    """Whatever a source says that is not so, the destination ends with the source's fault."""
    async with make_rig() as rig:
        # The destination may close while there is still something to say.
        with suppress(OSError):
            await lie(rig.source)
        await rig.source.main.wait_closed()
    assert isinstance(rig.cause, RemoteProtocolError), repr(rig.cause)
    assert reason in str(rig.cause)
    assert "completed" not in rig.events.states


async def say_bye(source: HandSource) -> None:
    """Say what the destination should say."""
    await source.main.send(Bye())


async def say_a_verdict_without_a_report(source: HandSource) -> None:
    """Say a verdict whose payload is none."""
    await source.main.send(Verdict(payload_bytes=1, equal=True), b"\x80")


async def fall_silent(source: HandSource) -> None:
    """Say nothing for longer than any comparison takes."""
    await wait_all_tasks_blocked()
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(CLOSING_SECONDS_MAX)


@pytest.mark.parametrize(
    ("closing", "reason"),
    [
        (say_bye, "Bye came where Verdict was due"),
        (say_a_verdict_without_a_report, "SourcePart has no"),
        (fall_silent, "no verdict in 600 s"),
    ],
)
async def test_a_wrong_verdict_is_refused(closing: Lie, reason: str, mock_clock: MockClock) -> None:
    """The session is complete only when the source has said how the memories compare."""
    async with make_rig(seconds=10 * CLOSING_SECONDS_MAX) as rig:
        source = rig.source
        await source.start_postcopy()
        await source.send_rest()
        await source.end()
        await source.hear_account()
        await closing(source)
        await source.main.wait_closed()
    assert isinstance(rig.cause, RemoteProtocolError)
    assert reason in str(rig.cause)
