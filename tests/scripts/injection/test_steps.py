"""Steps are read from TOML; what is no step is refused with its line and the reason."""

import os
from pathlib import Path

import pytest

from dest.script import PageName, WrittenStep, read_page_name
from protocol.errors import LocalProtocolError
from scripts.injection.steps import read_steps

GOOD = """
name = "a whole scenario may be given"
[[step]]
when = { page = 5, received = 0.25 }
fault = [9]
[[step]]
when = { requested = 9 }
fault = [5, "1:3"]
[[step]]
when = { placed = "rom:3" }
fault = ["0"]
[expect]
status = "completed"
"""


def name(text: str) -> PageName:
    """Return what names a page."""
    found = read_page_name(text)
    assert found is not None
    return found


def read(folder: Path, text: str) -> tuple[WrittenStep, ...]:
    """Return the steps of a file with this text."""
    path = folder / "steps.toml"
    path.write_text(text, encoding="utf-8")
    return read_steps(path)


def test_steps_are_read_in_their_order(tmp_path: Path) -> None:
    """Each trigger becomes a step; a page is one of the first block, or BLOCK:PAGE."""
    path = tmp_path / "steps.toml"
    assert read(tmp_path, GOOD) == (
        WrittenStep("received", name("5"), (name("9"),), 0.25, f"{path}:3"),
        WrittenStep("requested", name("9"), (name("5"), name("1:3")), where=f"{path}:6"),
        WrittenStep("placed", name("rom:3"), (name("0"),), where=f"{path}:9"),
    )


def test_a_file_may_have_no_steps(tmp_path: Path) -> None:
    """Nothing scripted is no mistake."""
    assert read(tmp_path, "") == ()


WHEN, FAULT = "when = { placed = 1 }", "fault = [1]"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("step = 1", 1, "not an array of tables"),
        ("[step]\nwhen = 1", 1, "not an array of tables"),
        ("step = [1]", 1, "not an array of tables"),
        ("foo = 1", 1, "a file of steps has no 'foo'"),
        ("\nname = 'x'\n[[steps]]\nwhen = 1", 3, "no 'steps' (did you mean 'step'?)"),
        (f"[[step]]\n{FAULT}", 1, "this one has no when"),
        (f"\n[[step]]\n{WHEN}", 2, "this one has no fault"),
        (f"[[step]]\n{WHEN}\n{FAULT}\nelse = 1", 4, "no 'else'; it has: when, fault"),
        (f"[[step]]\n{WHEN}\nnetwork = {{ do = 'cut' }}", 3, "no 'network'"),
        (f"[[step]]\n{WHEN}\nfault = []", 3, "fault is not a list"),
        (f"[[step]]\n{WHEN}\nfault = 1", 3, "fault is not a list"),
        (f"[[step]]\n{WHEN}\nfault = [-1]", 3, "-1 is no page"),
        (f"[[step]]\n{WHEN}\nfault = [true]", 3, "True is no page"),
        (f"[[step]]\n{WHEN}\nfault = [1.0]", 3, "1.0 is no page"),
        (f'[[step]]\n{WHEN}\nfault = ["x"]', 3, "'x' is no page"),
        (f'[[step]]\n{WHEN}\nfault = ["0:\u00b2"]', 3, "'0:\u00b2' is no page"),
        (f"[[step]]\nwhen = 1\n{FAULT}", 2, "when is not a table"),
        (f"[[step]]\nwhen = {{}}\n{FAULT}", 2, "when is none of"),
        (f"[[step]]\nwhen = {{ placed = 1, requested = 1 }}\n{FAULT}", 2, "when is none of"),
        (f"[[step]]\nwhen = {{ state = 'active' }}\n{FAULT}", 2, "when is none of"),
        (f"[[step]]\nwhen = {{ page = 1 }}\n{FAULT}", 2, "when is none of"),
        *(
            (f"[[step]]\nwhen = {{ page = 1, received = {share} }}\n{FAULT}", 2, "not a share")
            for share in ("0", "1.1", "'x'", "true", "inf", "-inf")
        ),
        (f"[[step]]\nwhen = {{ page = 1, received = nan }}\n{FAULT}", 2, "nan is not a number"),
        (f"{GOOD}[[step]]\nwhen = 1\n{FAULT}", 15, "when is not a table"),
        ("[[step]", 1, "no TOML"),
    ],
)
def test_what_is_no_step_is_refused(tmp_path: Path, text: str, line: int, reason: str) -> None:
    """The complaint names the file, the line and what is wrong with it."""
    with pytest.raises(LocalProtocolError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'steps.toml'}:{line}: ")
    assert reason in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """What is missing, no text, or has no end is a complaint, not a traceback and not a wait."""
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "noise", Path("/dev/zero")):
        with pytest.raises(LocalProtocolError, match=str(path)):
            read_steps(path)


def test_a_pipe_without_a_writer_is_no_wait(tmp_path: Path) -> None:
    """It is as empty as an empty file."""
    os.mkfifo(tmp_path / "pipe")
    assert read_steps(tmp_path / "pipe") == ()
