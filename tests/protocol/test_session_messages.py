"""What both sides can do is what is in force."""

from protocol.session_messages import ANSWERS, CHECKSUM, KEEPALIVE, OURS, RECOVER, in_force, offer


def test_only_what_both_have() -> None:
    """Of what a peer offers, what this side has is in force, in this side's order."""
    assert in_force(reversed(OURS)) == OURS
    assert in_force(("fly", KEEPALIVE)) == (KEEPALIVE,)
    assert in_force(()) == ()
    assert RECOVER in OURS


def test_what_costs_time_is_offered_where_it_is_wanted() -> None:
    """Everything else always is."""
    assert offer() == (RECOVER, KEEPALIVE, ANSWERS)
    assert offer(CHECKSUM) == OURS
