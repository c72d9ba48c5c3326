"""Who gives way when many connections come at once, and how much is told of who is refused."""

from dest.pending import LINES_A_SECOND_MAX, Complaints, Newcomers


def test_the_oldest_stranger_gives_way() -> None:
    """With all places taken the one goes that has been silent longest; no place is lost."""
    places = Newcomers[int](3)
    assert [places.enter(key, "here") for key in range(3)] == [None] * 3
    assert [places.enter(key, "here") for key in range(3, 6)] == [0, 1, 2]
    assert len(places) == 3


def test_a_place_given_back_is_free() -> None:
    """Who leaves makes room, and may leave twice."""
    places = Newcomers[int](2)
    places.enter(1, "here")
    places.enter(2, "here")
    places.leave(1)
    places.leave(1)
    assert places.enter(3, "here") is None
    assert places.enter(4, "here") == 2


def test_a_crowd_drives_out_its_own() -> None:
    """Connections of a crowded address go before one that came alone, though it came first."""
    places = Newcomers[str](4)
    places.enter("alone", "there")
    for number in range(10):
        loser = places.enter(f"crowd {number}", "here")
        assert loser == (None if number < 3 else f"crowd {number - 3}")


def test_who_is_known_stays() -> None:
    """A connection that has made itself known gives way to nobody; a newcomer then has to go."""
    places = Newcomers[int](2)
    places.enter(1, "here")
    places.make_known(1)
    assert places.enter(2, "here") is None
    assert places.enter(3, "there") == 2
    places.make_known(3)
    assert places.enter(4, "here") == 4
    assert len(places) == 2


def test_who_has_gone_is_not_made_known() -> None:
    """A word that comes too late brings nobody back."""
    places = Newcomers[int](1)
    places.enter(1, "here")
    assert places.enter(2, "here") == 1
    places.make_known(1)
    assert len(places) == 1


def test_a_few_lines_are_all_told() -> None:
    """What a person can read is passed on as it is."""
    told: list[str] = []
    complaints = Complaints(told.append)
    for number in range(100):
        complaints.say(f"line {number}", number * 0.1)
    assert told == [f"line {number}" for number in range(100)]


def test_a_crowd_is_counted() -> None:
    """Of what is too much in one second the number is told when the next line comes."""
    told: list[str] = []
    complaints = Complaints(told.append)
    for number in range(1000):
        complaints.say(f"line {number}", 5 + number / 1001)
    assert told == [f"line {number}" for number in range(LINES_A_SECOND_MAX)]
    complaints.say("later", 7.5)
    complaints.say("last", 7.6)
    untold = 1000 - LINES_A_SECOND_MAX
    assert told[LINES_A_SECOND_MAX:] == [
        f"{untold} more connections came to nothing", "later", "last",
    ]  # fmt: skip
