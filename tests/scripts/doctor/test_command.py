"""`midstream doctor` on this machine, whatever it can do."""

import json

import pytest
from click.testing import CliRunner

from scripts.doctor import guests, machine, memory, queues
from scripts.doctor.command import doctor
from scripts.doctor.feature import Question
from tests.bounds import nothing_left
from tests.processes import Lab

NEEDED = Question("luck", lambda: (False, "none"), "hope", "nothing", is_needed=True)


def test_everything_is_tried_and_nothing_is_left() -> None:
    """Each question has an answer; each no says what to do and what happens without it."""
    with nothing_left():
        result = CliRunner().invoke(doctor, ["--json"], catch_exceptions=False)

    told = json.loads(result.stdout)
    assert told["can-run"] is True
    questions = (
        *memory.questions(), *guests.questions(), *machine.questions(), *queues.questions()
    )  # fmt: skip
    asked = [question.name for question in questions]
    assert [feature["name"] for feature in told["features"]] == asked
    assert len(set(asked)) == len(asked)
    for feature in told["features"]:
        assert feature["detail"]
        assert "\n" not in feature["detail"]
        assert feature["ok"] == (not feature["without-it"])
        assert feature["ok"] == (not feature["to-get-it"])


@pytest.mark.parametrize("rig", ["", "unprivileged"])
def test_it_runs_for_everybody(lab: Lab, rig: str) -> None:
    """As whoever runs the tests, and as a user who may nothing, midstream runs, and says so."""
    process = lab.fork("doctor", rig=rig).succeed()

    assert process.output.splitlines()[-1].startswith("midstream runs here")
    if rig:
        assert "root, cap" not in process.output


def test_what_is_needed_and_missing_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where midstream cannot run, the exit status and the last line say so."""
    monkeypatch.setattr(memory, "questions", lambda: [NEEDED])
    monkeypatch.setattr(guests, "questions", list)
    monkeypatch.setattr(machine, "questions", list)
    monkeypatch.setattr(queues, "questions", lambda _: [])

    result = CliRunner().invoke(doctor, [], standalone_mode=False)

    assert result.return_value == 1
    assert result.stdout.splitlines()[-1] == "midstream does not run here: luck"
