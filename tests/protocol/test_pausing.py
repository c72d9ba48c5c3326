"""How long a migration may stay paused."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.pausing import PauseLimit


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
