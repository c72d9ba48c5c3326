"""How much may lie in the kernel: in proportion to the rate, never too little, never too much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.streams.stream import Delivery
from source.buffering import (
    DELAY_NS_MAX,
    OVERTAKEN_BYTES_MAX,
    ROUND_TRIPS,
    RUN_NS_MAX,
    SEND_BUFFER_BYTES_MAX,
    SEND_BUFFER_BYTES_MIN,
    SLACK_BYTES,
    UNSENT_SHARE,
    WIRE_BYTES_MAX,
    Buffering,
    wait_ns,
)
from tests.guests import MIB

SECOND_NS = 10**9


def fill(buffering: Buffering, rate: int, seconds: float = 0.05) -> list[int]:
    """Have a connection of a rate, in bytes a second, be full time and again; return the sizes."""
    sent, now_ns, sizes = 0, 0, []
    while now_ns < seconds * SECOND_NS:
        if buffering.full(sent, now_ns):
            sizes.append(buffering.near_bytes)
        # A third of the buffer has left it when the source is woken.
        sent += buffering.near_bytes // 3
        now_ns += buffering.near_bytes * SECOND_NS // (3 * rate)
    return sizes


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (1_000_000, SEND_BUFFER_BYTES_MIN),
        (125_000_000, SEND_BUFFER_BYTES_MIN),
        (1_250_000_000, 1_250_000_000 * DELAY_NS_MAX // SECOND_NS),
        (3_000_000_000, 3_000_000_000 * DELAY_NS_MAX // SECOND_NS),
        (100_000_000_000, SEND_BUFFER_BYTES_MAX),
    ],
)
def test_the_size_is_what_goes_in_a_moment(rate: int, expected: int) -> None:
    """After some milliseconds it is the rate times the delay, within its bounds."""
    buffering = Buffering()
    fill(buffering, rate)
    assert buffering.near_bytes == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize("is_overtaken", [False, True])
def test_more_may_lie_where_it_is_overtaken(is_overtaken: bool) -> None:
    """What goes in a millisecond, up to 128 KiB; slow and fast lines have as much as anywhere."""
    buffering = Buffering(is_overtaken=is_overtaken)
    fill(buffering, 12_500_000)
    assert buffering.near_bytes == SEND_BUFFER_BYTES_MIN
    for rate, most_bytes in ((100_000_000, 100_000), (250_000_000, OVERTAKEN_BYTES_MAX)):
        buffering.paused()
        fill(buffering, rate)
        expected = most_bytes if is_overtaken else SEND_BUFFER_BYTES_MIN
        assert buffering.near_bytes == pytest.approx(expected, rel=0.001)
    buffering.paused()
    fill(buffering, 3_000_000_000)
    assert buffering.near_bytes == pytest.approx(750_000, rel=0.001)


def test_the_size_at_most_doubles_in_a_step() -> None:
    """A burst that an idle line takes at once does not make the buffer large at once."""
    sizes = fill(Buffering(), 3_000_000_000)
    assert len(sizes) > 2
    before = [SEND_BUFFER_BYTES_MIN, *sizes]
    assert all(now <= 2 * last for last, now in zip(before, sizes, strict=False))


def test_a_line_that_slows_down_gets_little_again() -> None:
    """The size follows the rate down at once, to the smallest."""
    buffering = Buffering()
    fill(buffering, 3_000_000_000)
    assert buffering.near_bytes > 8 * SEND_BUFFER_BYTES_MIN
    buffering.paused()
    assert fill(buffering, 125_000_000, 0.005)[-1] == SEND_BUFFER_BYTES_MIN


def test_pauses_are_no_part_of_the_rate() -> None:
    """What left the kernel while something else was sent says nothing of the connection."""
    buffering = Buffering()
    fill(buffering, 1_250_000_000)
    size = buffering.near_bytes
    sent, now_ns = 1 << 40, 1 << 50
    for _ in range(200):
        buffering.paused()
        buffering.full(sent, now_ns)
        sent += size // 3
        now_ns += size * SECOND_NS // (3 * 1_250_000_000)
        buffering.full(sent, now_ns)
        # Hardly anything in a second.
        sent, now_ns = sent + 1, now_ns + SECOND_NS
    assert buffering.near_bytes == pytest.approx(size, rel=0.001)


@pytest.mark.parametrize(
    ("delivery", "wire_bytes"),
    [
        (Delivery(), 0),
        # A short link: less than what may lie here.
        (Delivery(70_000, 125_000_000, 40), 10_000),
        (Delivery(70_000, 125_000_000, 10_000), 2_500_000),
        (Delivery(70_000, 125_000_000_000, 10_000), WIRE_BYTES_MAX),
    ],
)
def test_what_is_on_the_wire_has_room(delivery: Delivery, wire_bytes: int) -> None:
    """The kernel counts it; what is unsent stays what it was, and so does all on a short link."""
    buffering = Buffering()
    unsent_bytes = buffering.unsent_bytes
    buffering.resize(delivery)
    assert buffering.send_buffer_bytes == max(SEND_BUFFER_BYTES_MIN, wire_bytes)
    assert buffering.unsent_bytes == unsent_bytes == SEND_BUFFER_BYTES_MIN // UNSENT_SHARE


def test_a_long_link_is_filled_step_by_step() -> None:
    """Each time that the rate is what the room allowed there is more room, up to the line's."""
    buffering = Buffering()
    line, round_trip_us = 125_000_000, 10_000
    for _ in range(20):
        allowed = buffering.send_buffer_bytes * 10**6 // round_trip_us
        buffering.resize(Delivery(0, min(allowed, line), round_trip_us))
    assert buffering.wire_bytes == ROUND_TRIPS * line * round_trip_us // 10**6


def test_a_run_is_as_long_as_the_connection_carries_in_a_while() -> None:
    """Nothing is said of it before the rate is known; then it follows the rate."""
    buffering = Buffering()
    assert buffering.run_bytes == 0
    fill(buffering, 125_000_000)
    assert buffering.run_bytes == pytest.approx(125_000_000 * RUN_NS_MAX / SECOND_NS, rel=0.001)


def go(buffering: Buffering, rate: int, seconds: float, began_ns: int = 0) -> list[int]:
    """Have frames of 64 KiB go at a rate, none of which fills the kernel; return the runs."""
    frame_bytes = 64 * 1024
    frame_ns = frame_bytes * SECOND_NS // rate
    return [
        buffering.run_bytes
        for number in range(int(seconds * rate) // frame_bytes)
        if buffering.has_room(number * frame_bytes, began_ns + number * frame_ns)
    ]


@pytest.mark.parametrize("rate", [300_000_000, 3_000_000_000])
def test_a_run_is_no_shorter_than_what_goes_by_itself(rate: int) -> None:
    """A source that never fills the kernel comes to the length of its own rate, from below."""
    buffering = Buffering()
    runs = go(buffering, rate, 0.1)
    assert runs == sorted(set(runs))
    assert buffering.run_bytes == pytest.approx(rate * RUN_NS_MAX / SECOND_NS, rel=0.03)
    assert buffering.run_bytes <= rate * RUN_NS_MAX / SECOND_NS
    # Nothing is known of the connection but that.
    assert buffering.near_bytes == SEND_BUFFER_BYTES_MIN


def test_what_the_kernel_may_hold_has_not_gone() -> None:
    """What a large buffer takes at once says nothing of the connection behind it."""
    buffering = Buffering()
    buffering.resize(Delivery(0, 125_000_000, 100_000))
    assert buffering.wire_bytes == 25_000_000
    assert go(buffering, 3_000_000_000, 0.016) == []
    assert go(buffering, 3_000_000_000, 0.03, SECOND_NS // 10)


def test_what_was_measured_of_a_full_connection_counts() -> None:
    """It takes the place of what went by itself, also where that was more."""
    buffering = Buffering()
    go(buffering, 3_000_000_000, 0.1)
    fill(buffering, 125_000_000)
    assert buffering.run_bytes == pytest.approx(125_000_000 * RUN_NS_MAX / SECOND_NS, rel=0.001)
    # A frame's end in between is no time in which there was room.
    for number in range(100):
        assert not buffering.has_room(number << 20, number * 1_900_000)
        buffering.full(number << 20, number * 1_900_000)


RATE = 125_000_000


def test_what_is_nearly_gone_is_not_waited_for() -> None:
    """The background begins while a little is left, so that the link stays busy."""
    assert wait_ns(Delivery(0, 0, 0)) == 0
    assert wait_ns(Delivery(SLACK_BYTES, RATE, 0)) == 0
    assert wait_ns(Delivery(SLACK_BYTES + 50_000, RATE, 0)) == 400_000


def test_what_is_on_the_wire_is_not_waited_for() -> None:
    """A long link holds bytes that stand in nobody's way: a round trip's worth of them."""
    on_wire = RATE // 50
    assert wait_ns(Delivery(SLACK_BYTES + on_wire, RATE, 20_000)) == 0
    assert wait_ns(Delivery(SLACK_BYTES + on_wire + 1, RATE, 20_000)) > 0


def test_waits_are_neither_too_short_nor_too_long() -> None:
    """A wait that costs more than it brings is longer, and one for a page and more is looked at."""
    assert wait_ns(Delivery(SLACK_BYTES + 1, RATE, 0)) == 200_000
    assert wait_ns(Delivery(64 * MIB, RATE, 0)) == 5_000_000
    # Where nobody knows the rate it is asked for again soon.
    assert wait_ns(Delivery(64 * MIB, 0, 0)) == 200_000


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 60), st.data())
def test_one_moved_on_goes_by_the_same(
    more_bytes: int, more_ns: int, count: int, data: st.DataObject
) -> None:
    """In the same state, seen from where each is, two choose the same sizes from there on."""
    one, other = Buffering(), Buffering()
    steps = [(40_000 + 977 * number, 300_000 + 13 * number) for number in range(2 * count)]
    rooms = data.draw(st.lists(st.booleans(), min_size=2 * count, max_size=2 * count))
    sent = now = 0
    for number, (taken, passed) in enumerate(steps):
        sent, now = sent + taken, now + passed
        far = number >= count
        places = (sent, now), (sent + far * more_bytes, now + far * more_ns)
        if rooms[number]:
            said = [each.has_room(*place) for each, place in zip((one, other), places, strict=True)]
        else:
            said = [each.full(*place) for each, place in zip((one, other), places, strict=True)]
        assert said[0] is said[1]
        if number == count - 1:
            other.shift(more_bytes, more_ns)
        shift = (more_bytes, more_ns) if number >= count - 1 else (0, 0)
        assert one.state(sent, now) == other.state(sent + shift[0], now + shift[1])
