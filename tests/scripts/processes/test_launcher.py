"""What `migrate` makes of two sides; tests/test_migrate.py and test_errors.py run it for real."""

from dataclasses import dataclass
from typing import cast

import pytest

from protocol.errors import MidstreamError
from scripts.processes.child import Child
from scripts.processes.launcher import Launcher
from scripts.reports import Outputs
from scripts.views.watch import Watcher


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
    """Have a launcher judge two exit statuses."""
    launcher = Launcher(Outputs())
    ended = [Ended("dest", dest)] + ([] if source is None else [Ended("source", source)])
    for side in ended:
        side.put_down = side.side == put_down
    launcher._sides = cast(list[Child], ended)
    launcher._cancelled_by = cancelled_by
    launcher._judge()


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


LINES = (
    (False, "dest: active"),
    (False, "listening on 127.0.0.1:1"),
    (True, "Fatal Python error: Segmentation fault"),
    (True, "dest: failed"),
    (True, "  File x.py, line 1 in y"),
)


class Crashing:
    """A destination that crashes at some line."""

    has_crashed = False


def hear(launcher: Launcher) -> None:
    """Have it hear all lines."""
    dest = Crashing()
    for dest.has_crashed, line in LINES:
        launcher._pass_on(cast(Child, dest), line)


def test_where_a_destination_crashed_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Of what it logs besides nothing is shown that nobody has asked for."""
    hear(Launcher(Outputs()))
    assert capsys.readouterr().err.splitlines() == [LINES[2][1], LINES[4][1]]
    hear(Launcher(Outputs(verbose=True)))
    assert capsys.readouterr().err.splitlines() == [line for _, line in LINES]


def test_a_picture_is_not_spoilt_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What would be drawn over is printed when there is no picture any more."""
    launcher = Launcher(Outputs(), watchers=[cast(Watcher, object())])
    hear(launcher)
    assert capsys.readouterr().err == ""
    launcher.pass_on_kept()
    assert capsys.readouterr().err.splitlines() == [LINES[2][1], LINES[4][1]]
