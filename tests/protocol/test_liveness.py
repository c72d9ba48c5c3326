"""When to ping, when a silent peer is lost, and how long a migration may stay paused."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import PING_SECONDS, PULSE_SECONDS, SILENCE_SECONDS_MIN
from protocol.liveness import Liveness, PauseLimit, Pulse

PINGS_AFTER = round(PING_SECONDS / PULSE_SECONDS)
LOST_AFTER = round(SILENCE_SECONDS_MIN / PULSE_SECONDS)


def pulses(count: int, *, listening: bool = True) -> list[Pulse]:
    """Return what so many pulses come to while nothing is sent or received."""
    liveness = Liveness(SILENCE_SECONDS_MIN)
    return [
        liveness.pulse(sent_bytes=0, received_bytes=0, listening=listening) for _ in range(count)
    ]


def test_a_quiet_side_pings_again_and_again() -> None:
    """After each second without a byte sent it is time for a ping."""
    due = [number for number, pulse in enumerate(pulses(3 * PINGS_AFTER + 1)) if pulse.ping]
    assert due == [PINGS_AFTER, 2 * PINGS_AFTER, 3 * PINGS_AFTER]


def test_who_sends_needs_no_ping() -> None:
    """Bytes that go, whatever they are, are a sign of life."""
    liveness = Liveness(SILENCE_SECONDS_MIN)
    seen = [
        liveness.pulse(sent_bytes=count, received_bytes=count, listening=True)
        for count in range(10 * LOST_AFTER)
    ]
    assert set(seen) == {Pulse(ping=False, lost=False)}


def test_a_silent_peer_is_lost() -> None:
    """The peer is lost at the end of the silence that is allowed, and not a pulse earlier."""
    lost = [number for number, pulse in enumerate(pulses(LOST_AFTER + 2)) if pulse.lost]
    assert lost == [LOST_AFTER, LOST_AFTER + 1]


def test_one_byte_is_enough() -> None:
    """Each byte received begins the silence anew."""
    liveness = Liveness(SILENCE_SECONDS_MIN)
    for number in range(5 * LOST_AFTER):
        received = number // (LOST_AFTER - 1)
        assert not liveness.pulse(sent_bytes=0, received_bytes=received, listening=True).lost


def test_silence_means_nothing_where_nobody_listens() -> None:
    """While this side does not read, it cannot blame the other."""
    assert not any(pulse.lost for pulse in pulses(5 * LOST_AFTER, listening=False))


def test_two_sides_that_have_nothing_to_say_live_on() -> None:
    """Two sides that only ping each other, each ping a pulse on its way, never lose each other."""
    sides = [Liveness(SILENCE_SECONDS_MIN), Liveness(SILENCE_SECONDS_MIN)]
    sent, received = [0, 0], [0, 0]
    for _ in range(20 * LOST_AFTER):
        received = [sent[1], sent[0]]
        for number, side in enumerate(sides):
            pulse = side.pulse(
                sent_bytes=sent[number], received_bytes=received[number], listening=True
            )
            assert not pulse.lost
            sent[number] += 7 if pulse.ping else 0


def test_pauses_add_up_until_there_is_progress() -> None:
    """Time that is not paused costs nothing; what was spent is given back at progress."""
    limit = PauseLimit(10.0)
    assert limit.seconds_left(1000.0) == 10
    limit.pause(0.0)
    limit.pause(3.0)
    assert limit.seconds_left(4.0) == 6
    limit.go_on(4.0)
    limit.go_on(50.0)
    assert limit.seconds_left(100.0) == 6
    limit.pause(100.0)
    assert limit.seconds_left(107.0) == 0
    limit.renew()
    assert limit.seconds_left(107.0) == 3
    limit.go_on(107.0)
    limit.renew()
    assert limit.seconds_left(200.0) == 10


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0, 100), st.booleans()), max_size=30))
def test_against_a_sum(pauses: list[tuple[float, float, bool]]) -> None:
    """What is left is the limit less all pauses since the last progress, and never below 0."""
    limit, now, spent = PauseLimit(5.0), 0.0, 0.0
    for paused, running, progress in pauses:
        if progress:
            limit.renew()
            spent = 0.0
        limit.pause(now)
        now += paused
        spent += paused
        assert abs(limit.seconds_left(now) - max(5.0 - spent, 0.0)) < 1e-6
        limit.go_on(now)
        now += running


def test_less_missing_than_ever_is_progress() -> None:
    """The first word is progress, and then only what is less than all before."""
    limit = PauseLimit(10.0)
    told = [limit.lacks(missing) for missing in (float("inf"), 7, 7, 8, 6, 0, 0)]
    assert told == [False, True, False, False, True, True, False]
