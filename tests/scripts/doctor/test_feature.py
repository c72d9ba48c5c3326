"""What is told of a thing that is there, and of one that is not."""

import errno

import pytest

from protocol.errors import MigrationError
from scripts.doctor.feature import Feature, Question, can_run, to_lines, to_plain

GOOD = Feature("bread", ok=True, detail="two loaves")
BAD = Feature("butter", ok=False, detail="none", remedy="churn", without="dry bread")


def test_what_is_there_needs_no_remedy() -> None:
    """A question that is answered with yes gives its detail and nothing to do."""
    question = Question("bread", lambda: (True, "two loaves"), "bake", "hunger", is_needed=True)

    assert question.answer() == Feature("bread", ok=True, detail="two loaves", is_needed=True)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (OSError(errno.EPERM, "open: not for you"), "Operation not permitted"),
        (MigrationError("the machine lacks tc"), "the machine lacks tc"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_what_cannot_be_asked_is_not_there(error: Exception, detail: str) -> None:
    """Whatever a question runs into is the reason of a no, which comes with its remedy."""

    def ask() -> tuple[bool, str]:
        raise error

    answer = Question("bread", ask, lambda told: f"mend: {told}", "hunger").answer()

    assert answer == Feature("bread", False, detail, f"mend: {detail}", "hunger")


def test_a_no_is_told_with_what_to_do() -> None:
    """A yes is one line; a no has two more, which begin where the detail does."""
    (line,) = to_lines(GOOD)
    lines = to_lines(BAD)

    column = line.index("two loaves")
    assert line.split() == ["bread", "yes", "two", "loaves"]
    assert [each[column:] for each in lines] == [
        "none", "to get it:  churn", "without it: dry bread"
    ]  # fmt: skip
    # Colours take no place.
    assert to_lines(BAD, no="<no>")[0].index("none") == column + 2


def test_only_what_is_needed_counts() -> None:
    """Midstream runs where everything is that it cannot do without."""
    needed = Feature("water", ok=False, detail="none", is_needed=True)

    assert can_run([GOOD, BAD])
    assert not can_run([GOOD, needed])
    assert to_plain([GOOD, needed])["can-run"] is False


def test_plain_findings_have_all_that_is_told() -> None:
    """Each finding's fields are in the JSON, under names for people."""
    plain = to_plain([BAD])

    assert plain["schema"] == "midstream-doctor/1"
    assert plain["features"] == [
        {
            "name": "butter", "ok": False, "needed": False, "detail": "none", "to-get-it": "churn",
            "without-it": "dry bread",
        }
    ]  # fmt: skip
