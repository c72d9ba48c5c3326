"""What a request for the page that lies half-sent leads to, by the policy.

`test_scheduler_policies.py` has what comes of it in which order.
"""

import pytest

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.pageset import PageSet
from protocol.policy import PRESETS, HalfSent, preset
from source.halfsent import treatment
from source.jobs import Chunk, Job, SchedulerCounts

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20
GUEST = Geometry((RamBlock("huge", 2 * HUGE, HUGE), RamBlock("base", 8 * BASE, BASE)))
PAGE, WHOLE = PageId(0, 1), Span(0, HUGE, HUGE)
WENT, RUN = Span(0, HUGE, HUGE // 2), Span(1, 0, 8 * BASE)


class Rig:
    """A page of which a part went, and the books about it."""

    def __init__(self, policy: str, *, span: Span = WHOLE, went: Span = WENT) -> None:
        """Have a page lie half-sent."""
        self.counts = SchedulerCounts()
        self.remaining = PageSet(GUEST)
        self.remaining.add(span)
        self.remaining.remove(went)
        self.half_sent = treatment(preset(policy))(self.remaining, self.counts)
        page = GUEST.page_of(span.block, span.target_pages.start)
        self.job = Job(span, page, Channel.PRECOPY)
        self.job.given.append(went)
        self.half_sent.job = self.job
        self.request = Job(GUEST.page_span(page), page, Channel.POSTCOPY, 70)


def outcome(rig: Rig) -> tuple[bool, bool, Channel, int | None]:
    """Return what a request leads to: whether the same job, whether boosted, where, since when."""
    job = rig.half_sent.resume(rig.request)
    assert job is not None
    assert rig.half_sent.job is None
    return job is rig.job, job.boosted, job.channel, job.requested_ns


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_the_policy_says_what_a_request_leads_to(policy: str) -> None:
    """The page goes on where it began, or elsewhere, or begins again, or is put off."""
    rig = Rig(policy)
    half_sent = preset(policy).half_sent
    if half_sent is HalfSent.POSTPONE or preset(policy).concurrent:
        assert rig.half_sent.resume(rig.request) is None
        assert rig.half_sent.job is rig.job
        assert rig.counts == SchedulerCounts(postponed=1)
        return
    assert (
        outcome(rig)
        == {
            HalfSent.FINISH: (True, True, Channel.PRECOPY, 70),
            HalfSent.SPLIT: (True, False, Channel.POSTCOPY, 70),
            HalfSent.RESEND: (False, False, Channel.POSTCOPY, 70),
        }[half_sent]
    )
    again_bytes = WENT.length if half_sent is HalfSent.RESEND else 0
    assert rig.counts == SchedulerCounts(resent_bytes=again_bytes)
    assert rig.remaining.length_bytes == HUGE - WENT.length + again_bytes


def test_what_a_frame_was_begun_of_is_not_split() -> None:
    """With nothing left to go elsewhere the page is finished where it began."""
    assert outcome(Rig("split", went=WHOLE)) == (True, True, Channel.PRECOPY, 70)


def test_base_pages_do_not_go_again() -> None:
    """A run of base pages that was broken off is finished where it began."""
    rig = Rig("resend", span=RUN, went=Span(1, 0, BASE))
    assert outcome(rig) == (True, True, Channel.PRECOPY, 70)
    assert rig.counts.resent_bytes == 0


@pytest.mark.parametrize("begun", [False, True])
def test_of_a_page_that_goes_again_a_frame_that_was_begun_must_end(begun: bool) -> None:
    """The old job stays for the rest of its frame, if it has one under way, until forgotten."""
    rig = Rig("resend")
    if begun:
        rig.job.chunk = Chunk(
            WENT, PAGE, Channel.PRECOPY, urgent=False, boosted=False, requested_ns=None
        )
    rig.half_sent.resume(rig.request)
    assert rig.half_sent.tail is (rig.job if begun else None)
    rig.half_sent.forget()
    assert rig.half_sent.tail is None


def test_the_page_holds_what_went_and_what_remains_of_it() -> None:
    """Its target pages are known whether they went or not, those of other jobs are not."""
    rig = Rig("ordered", went=Span(0, HUGE, 2 * BASE))
    rig.remaining.remove(Span(0, HUGE + 3 * BASE, BASE))
    rig.remaining.add(Span(0, 0, HUGE))
    held = [rig.half_sent.holds(Span(0, HUGE + each * BASE, BASE)) for each in range(-1, 5)]
    assert held == [False, True, True, True, False, True]
    assert rig.half_sent.holds(WHOLE)
    assert [rig.half_sent.is_page(PageId(0, index)) for index in range(2)] == [False, True]


def test_a_page_that_is_taken_lies_half_sent_no_more() -> None:
    """It goes on once, and then there is none."""
    rig = Rig("ordered")
    assert rig.half_sent.resume() is rig.job
    assert rig.half_sent.resume() is None
    assert not rig.half_sent.holds(WHOLE)
    assert not rig.half_sent.is_page(PAGE)


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_what_nothing_went_of_does_not_lie_half_sent(policy: str) -> None:
    """Unless it was asked for and put off: then it comes next, begun or not."""
    rig = Rig(policy)
    rig.half_sent.forget()
    assert not rig.half_sent.break_off(rig.job)
    assert rig.half_sent.job is None
    assert rig.counts.preemptions == 0
    for state in ("begun", "postponed"):
        rig.half_sent.forget()
        job = Job(WHOLE, PAGE, Channel.PRECOPY)
        setattr(job, state, True)
        assert rig.half_sent.break_off(job)
        assert rig.half_sent.job is job
    assert rig.counts.preemptions == 2


def test_the_tail_of_a_frame_goes_first_and_is_no_page() -> None:
    """It goes on until its end, which is no page's; broken off again it stays what it is."""
    rig = Rig("resend")
    rig.job.begun = True
    rig.job.chunk = Chunk(
        WENT, PAGE, Channel.PRECOPY, urgent=False, boosted=False, requested_ns=None
    )
    again = rig.half_sent.resume(rig.request)
    assert rig.half_sent.resume() is rig.job
    assert not rig.half_sent.break_off(rig.job)
    assert rig.half_sent.resume() is rig.job
    assert again is not None
    assert not rig.half_sent.end(again)
    assert rig.half_sent.end(rig.job)
    assert rig.half_sent.resume() is None
    assert not rig.half_sent.end(rig.job)
