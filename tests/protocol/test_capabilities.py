"""What both sides can do is what is in force."""

from protocol.capabilities import KEEPALIVE, OURS, RECOVER, in_force


def test_only_what_both_have() -> None:
    """Of what a peer offers, what this side has is in force, in this side's order."""
    assert in_force(reversed(OURS)) == OURS
    assert in_force(("fly", KEEPALIVE)) == (KEEPALIVE,)
    assert in_force(()) == ()
    assert RECOVER in OURS
