"""What `migrate` makes of two ends; tests/test_errors.py and test_cancelled.py have real ones."""

from dataclasses import dataclass
from typing import cast

import pytest

from protocol.errors import MidstreamError, MigrationCancelled
from scripts.processes import ends
from scripts.processes.child import Child


@dataclass
class Ended:
    """A side that has ended."""

    side: str
    status: int
    put_down: bool = False
    reason: str = ""

    @property
    def last_words(self) -> str:
        """Say who ended, so that a test sees whose word counts."""
        return f"the {self.side}'s reason"


def judge(dest: int, source: int | None, *, put_down: str = "", cancelled_by: str = "") -> None:
    """Judge two exit statuses."""
    ended = [Ended("dest", dest)] + ([] if source is None else [Ended("source", source)])
    for side in ended:
        side.put_down = side.side == put_down
    ends.judge(cast(list[Child], ended), cancelled_by, met=True)


@pytest.mark.parametrize(
    ("dest", "source", "status", "whose"),
    [
        (1, None, 1, "dest"),
        (2, None, 2, "dest"),
        (-9, None, 1, "dest"),
        (1, 1, 1, "source"),
        (1, 0, 1, "dest"),
        (0, 1, 1, "source"),
        (3, 3, 3, "dest"),
        (1, 3, 3, "source"),
        (4, 1, 4, "dest"),
        (4, -9, 4, "dest"),
        (1, -9, 1, "source"),
        (-11, 1, 1, "dest"),
        (1, 130, 130, "source"),
        (130, 1, 1, "source"),
    ],
)
def test_the_graver_word_counts(dest: int, source: int | None, status: int, whose: str) -> None:
    """Of what both sides say one thing is told, and its exit status is this command's."""
    with pytest.raises(MidstreamError, match=f"the {whose}'s reason") as caught:
        judge(dest, source)
    assert caught.value.exit_status == status


def test_a_good_end_is_one_of_both_sides() -> None:
    """Two zeros are a success, also if Ctrl-C came too late to change anything."""
    judge(0, 0)
    judge(0, 0, cancelled_by="SIGINT")


@pytest.mark.parametrize(("dest", "source"), [(130, None), (4, 130), (1, -9), (-9, -9), (130, 0)])
def test_a_cancellation_is_told_as_one(dest: int, source: int | None) -> None:
    """Whatever the sides made of it, the user cancelled."""
    with pytest.raises(MidstreamError, match="cancelled by SIGTERM") as caught:
        judge(dest, source, cancelled_by="SIGTERM")
    assert caught.value.exit_status == 130


def test_who_had_to_be_put_down_is_not_to_blame() -> None:
    """A side that is killed for taking too long hides no reason of the other."""
    with pytest.raises(MidstreamError, match="the source's reason"):
        judge(-9, 1, put_down="dest")
    with pytest.raises(MidstreamError, match="the dest's reason"):
        judge(1, -9, put_down="source")


MOVED = "the guest is at the destination"
LOST = f"{MOVED}, memory of the guest is lost: 3 target pages (12 KiB), ram 0-2"


@pytest.mark.parametrize(
    ("dest", "source", "place"),
    [
        ((1, "aborted"), (130, "cancelled by SIGINT; the guest stays at the source"),
         "the guest stays at the source"),
        ((130, "cancelled by SIGINT"), (130, f"cancelled by SIGINT; {MOVED}, 4 KiB not sent"),
         f"{MOVED}, 4 KiB not sent"),
        # What is lost is worse than what was not sent.
        ((4, f"the source ended it: cancelled by its user; {LOST}"),
         (130, f"cancelled by SIGINT; {MOVED}, 4 KiB not sent"), LOST),
        # While its memory was being saved, by which time the source is gone.
        ((130, f"cancelled by SIGINT; {MOVED}, in FILE"), (0, ""), f"{MOVED}, in FILE"),
        ((-9, ""), (0, ""), MOVED),
        # Who was killed says nothing.
        ((1, "the source is gone"), (-9, ""),
         "whether the destination runs the guest is not known"),
    ],
)  # fmt: skip
def test_where_the_guest_is_is_told(
    dest: tuple[int, str], source: tuple[int, str], place: str
) -> None:
    """Whichever signal the user sent: a side is always interrupted by the same."""
    ended = [Ended("dest", dest[0], reason=dest[1]), Ended("source", source[0], reason=source[1])]
    with pytest.raises(MigrationCancelled) as caught:
        ends.judge(cast(list[Child], ended), "SIGTERM", met=True)
    assert str(caught.value) == f"cancelled by SIGTERM; {place}"


def test_before_the_sides_have_met_there_is_no_guest() -> None:
    """It has not run then, wherever its memory is being filled."""
    ended = [Ended("dest", 130), Ended("source", -9)]
    with pytest.raises(MigrationCancelled, match=r"^cancelled by SIGINT; there is no guest yet$"):
        ends.judge(cast(list[Child], ended), "SIGINT", met=False)
