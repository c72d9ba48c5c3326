"""The words on where a guest is are said once, however often they are asked for."""

import pytest

from protocol.whereabouts import DEST, NOWHERE, SOURCE, UNKNOWN, Whereabouts, sentence_on, told_in


@pytest.mark.parametrize("side", [SOURCE, DEST, UNKNOWN, NOWHERE])
def test_a_reason_tells_where_the_guest_is_once(side: str) -> None:
    """Behind why it ended; what tells it already is left as it is, and needs no sentence."""
    whereabouts = Whereabouts(side)
    told = whereabouts.added_to("cancelled by SIGINT")
    assert told == f"cancelled by SIGINT; {whereabouts}"
    assert whereabouts.added_to(told) == told
    assert Whereabouts(side, "4 KiB not sent").added_to(told) == told
    assert told_in(f"{told}, 4 KiB not sent") == f"{whereabouts}, 4 KiB not sent"
    sentence = sentence_on(side, "cancelled by SIGINT")
    assert sentence.lower() == f"{whereabouts}."
    assert sentence[0].isupper()
    assert not sentence_on(side, told)


def test_what_is_said_of_its_memory_follows() -> None:
    """A comma parts them, as it is one clause."""
    told = Whereabouts(DEST, "4 KiB of its memory not sent").added_to("cancelled by SIGINT")
    assert told == (
        "cancelled by SIGINT; the guest is at the destination, 4 KiB of its memory not sent"
    )


def test_of_what_nobody_knows_nothing_is_said() -> None:
    """A report from elsewhere may have no such side."""
    assert not sentence_on("", "why")
    assert not sentence_on("moon", "why")
    assert not told_in("cancelled by SIGINT")
