"""How far a migration is: nothing in setup, never less than before, all at the end."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.states import State
from source.progress import PASS_SHARE, Bar

ALL = 1 << 20

# The states of a migration in their order, with how many passes were made by then.
COURSE = st.lists(
    st.tuples(st.integers(0, ALL), st.lists(st.integers(0, ALL), max_size=4)), max_size=6
)


def test_nothing_is_done_before_the_first_page() -> None:
    """In setup the bar is empty, though no page waits to be sent."""
    bar = Bar()
    assert bar.update(State.SETUP, 0, 0, 0) == 0
    assert bar.update(State.ACTIVE, 0, ALL, ALL) == 0


def test_a_pass_takes_its_share_of_what_is_left() -> None:
    """However little a pass has to send, the next begins where it ended."""
    bar = Bar()
    assert bar.update(State.ACTIVE, 0, ALL // 2, ALL) == PASS_SHARE / 2
    assert bar.update(State.ACTIVE, 1, 4096, 4096) == PASS_SHARE
    assert bar.update(State.ACTIVE, 1, 0, 4096) == 1 - (1 - PASS_SHARE) ** 2


def test_postcopy_takes_all_that_is_left() -> None:
    """What follows the last pass ends at the end, and only completion is all."""
    bar = Bar()
    assert bar.update(State.POSTCOPY_ACTIVE, 1, ALL // 2, ALL) == (1 + PASS_SHARE) / 2
    assert Bar().update(State.POSTCOPY_ACTIVE, 0, ALL // 4, ALL) == 0.75
    assert bar.update(State.COMPLETED, 1, 0, ALL) == 1


def test_a_switch_over_within_a_pass_loses_nothing() -> None:
    """What was done of a pass that was cut short stays done, and so it does after a break."""
    bar = Bar()
    done = bar.update(State.ACTIVE, 0, ALL // 4, ALL)
    assert bar.update(State.DEVICE, 0, ALL, ALL) == done
    half = bar.update(State.POSTCOPY_ACTIVE, 0, ALL // 8, ALL)
    assert half > done
    assert bar.update(State.POSTCOPY_PAUSED, 0, ALL // 2, ALL) == half


@given(COURSE)
def test_it_never_goes_back(course: list[tuple[int, list[int]]]) -> None:
    """Whatever is dirty when, it is a share, and never less than it was."""
    bar = Bar()
    shown = [bar.update(State.SETUP, 0, ALL, ALL)]
    for pass_count, (phase_bytes, looks) in enumerate(course):
        shown += [
            bar.update(State.ACTIVE, pass_count, remaining_bytes, phase_bytes)
            for remaining_bytes in looks
        ]
    shown += [bar.update(State.DEVICE, len(course), ALL, ALL)]
    shown += [bar.update(State.POSTCOPY_ACTIVE, len(course), left, ALL) for left in (ALL, 9, 0)]
    shown += [bar.update(State.COMPLETED, len(course), 0, ALL)]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, 1)
