"""How much is told of connections that are refused."""

from dest.complaints import LINES_A_SECOND_MAX, Complaints


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
