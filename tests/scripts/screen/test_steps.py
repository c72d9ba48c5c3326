"""Steps are read from TOML; what is no step is refused with its number and the reason."""

from pathlib import Path

import pytest

from dest.script import Step
from protocol.errors import LocalProtocolError
from protocol.geometry import PageId
from scripts.screen.steps import read_steps

GOOD = """
name = "other keys are somebody else's"
[[step]]
when = { page = 5, received = 0.25 }
fault = [9]
[[step]]
when = { requested = 9 }
fault = [5, "1:3"]
[[step]]
when = { placed = "1:3" }
fault = [0]
"""


def read(folder: Path, text: str) -> tuple[Step, ...]:
    """Return the steps of a file with this text."""
    path = folder / "steps.toml"
    path.write_text(text, encoding="utf-8")
    return read_steps(path)


def test_steps_are_read_in_their_order(tmp_path: Path) -> None:
    """Each trigger becomes a step; a page is one of the first block, or BLOCK:PAGE."""
    assert read(tmp_path, GOOD) == (
        Step("received", PageId(0, 5), (PageId(0, 9),), 0.25),
        Step("requested", PageId(0, 9), (PageId(0, 5), PageId(1, 3))),
        Step("placed", PageId(1, 3), (PageId(0, 0),)),
    )


def test_a_file_may_have_no_steps(tmp_path: Path) -> None:
    """Nothing scripted is no mistake."""
    assert read(tmp_path, "") == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("step = 1", "not an array of tables"),
        ("[step]\nwhen = 1", "not an array of tables"),
        ("step = [1]", "step 1: a step has exactly"),
        ("[[step]]\nfault = [1]", "step 1: a step has exactly"),
        ("[[step]]\nwhen = {placed = 1}\nfault = [1]\nelse = 1", "step 1: a step has exactly"),
        ("[[step]]\nwhen = {placed = 1}\nfault = []", "fault is not a list"),
        ("[[step]]\nwhen = {placed = 1}\nfault = 1", "fault is not a list"),
        ("[[step]]\nwhen = {placed = 1}\nfault = [-1]", "-1 is no page"),
        ("[[step]]\nwhen = {placed = 1}\nfault = [true]", "True is no page"),
        ("[[step]]\nwhen = {placed = 1}\nfault = [1.0]", "1.0 is no page"),
        ('[[step]]\nwhen = {placed = 1}\nfault = ["x:1"]', "'x:1' is no page"),
        ('[[step]]\nwhen = {placed = "1"}\nfault = [1]', "'1' is no page"),
        ("[[step]]\nwhen = 1\nfault = [1]", "when is not a table"),
        ("[[step]]\nwhen = {}\nfault = [1]", "when is none of"),
        ("[[step]]\nwhen = {placed = 1, requested = 1}\nfault = [1]", "when is none of"),
        ("[[step]]\nwhen = {page = 1}\nfault = [1]", "when is none of"),
        ("[[step]]\nwhen = {page = 1, received = 0}\nfault = [1]", "not a share"),
        ("[[step]]\nwhen = {page = 1, received = 1.1}\nfault = [1]", "not a share"),
        ("[[step]]\nwhen = {page = 1, received = nan}\nfault = [1]", "not a share"),
        ("[[step]]\nwhen = {page = 1, received = 'x'}\nfault = [1]", "not a share"),
        (f"{GOOD}[[step]]\nwhen = 1\nfault = [1]", "step 4: when is not a table"),
        ("[[step]", "steps.toml: "),
    ],
)
def test_what_is_no_step_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """The complaint names the file, the step and what is wrong with it."""
    with pytest.raises(LocalProtocolError, match=r"steps\.toml") as caught:
        read(tmp_path, text)
    assert reason in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory and bytes that are no text are complaints, not tracebacks."""
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", ".", "noise"):
        with pytest.raises(LocalProtocolError):
            read_steps(tmp_path / name)
