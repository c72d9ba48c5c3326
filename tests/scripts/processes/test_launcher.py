"""What `migrate` passes on of what sides say; tests/test_migrate.py and others run it for real."""

from typing import cast

import pytest

from scripts.processes.child import Child
from scripts.processes.launcher import Launcher
from scripts.reports import Outputs
from scripts.views.watch import Watcher

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
