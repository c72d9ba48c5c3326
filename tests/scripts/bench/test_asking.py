"""A plain question and its answer."""

import pytest

from protocol.errors import MigrationError
from scripts.bench import asking
from tests.bounds import nothing_left


def test_every_question_is_answered() -> None:
    """Each takes its time, and the process that answers is gone afterwards."""
    with nothing_left():
        took = asking.ask(4096, questions=20)

    assert len(took) == 20
    assert min(took) > 0


def test_nobody_who_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not come is told of in one line, in time."""
    monkeypatch.setattr(asking, "_MODULE", "no_such_module")
    monkeypatch.setattr(asking, "_SECONDS_MAX", 0.5)
    with nothing_left(), pytest.raises(MigrationError, match="no answer over a plain socket"):
        asking.ask(4096)
