"""A scenario's text: where things stand in it, and what no TOML reader may choke on."""

from pathlib import Path

import pytest

from scripts.injection.scenario_text import ScenarioError, read_toml

BIG = "9" * 5000


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\na = " + "[" * 5000, 2, "nested too deep"),
        ("\na = " + "{b = " * 5000, 2, "nested too deep"),
        ("a = " + "[" * 20 + "]" * 20, 1, "nested too deep"),
        ("\n\na = " + BIG, 3, "64 bits"),
        ("\n[expect]\na = -" + BIG, 3, "64 bits"),
        ("a = 9223372036854775808", 1, "64 bits"),
        (f"[expect]\n\nboosted = {{ at-least = 1{'0' * 400} }}", 3, "64 bits"),
        ("\n[[step]]\nfault = [0xffffffffffffffffffff]", 3, "64 bits"),
        ('[migration]\n\nimage = "a\\u0000b"', 3, "NUL character"),
        ('[[step]]\nfault = [1]\n[[step]]\nfault = ["\\u0000"]', 4, "NUL character"),
        ("[expect]\nwait-ratio = { at-most = nan }", 2, "nan is not a number"),
        ("a = [", 1, "no TOML"),
        ("a = 1\n\nb = = 2", 3, "no TOML"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_line(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    """Nesting, numbers and characters without bound are complaints, and no internal errors."""
    path = tmp_path / "case.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))
    assert caught.value.exit_status == 2


def test_what_lies_at_the_bounds_is_taken(tmp_path: Path) -> None:
    """TOML's own range of whole numbers, and a text without a NUL."""
    path = tmp_path / "case.toml"
    path.write_text("a = 9223372036854775807\nb = -9223372036854775807\nc = [[[[[['x']]]]]]\n")
    table, where = read_toml(path)
    assert (table["a"], -table["b"]) == ((1 << 63) - 1, (1 << 63) - 1)
    assert where.line_of("c") == 3


def test_an_endless_file_is_no_scenario() -> None:
    """It is read up to the longest text that a scenario has."""
    with pytest.raises(ScenarioError, match="/dev/zero:1: the file is longer than 1 MiB"):
        read_toml(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("\n[[steps]]\na = 1", "steps", 2),
        ("\nname = 'x'\n\n[expct]", "expct", 4),
        ("steps = 1", "steps", 1),
        ("\n[[step]]\n[[steps]]\n", "steps", 3),
        ("name = 'x'", "other", 1),
    ],
)
def test_a_section_that_is_none_has_a_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    """A key before all sections, a table or an array of them."""
    path = tmp_path / "case.toml"
    path.write_text(text, encoding="utf-8")
    assert read_toml(path)[1].line_of(key) == line


def test_a_slip_of_the_pen_has_a_suggestion(tmp_path: Path) -> None:
    """What is like a known key is asked back; what is like none is only listed."""
    path = tmp_path / "case.toml"
    path.write_text("polciy = 1\n", encoding="utf-8")
    _, where = read_toml(path)
    with pytest.raises(ScenarioError, match=r":1: it has no 'polciy' \(did you mean 'policy'\?\);"):
        where.check_keys({"polciy": 1}, ("policy", "size"), "it")
    with pytest.raises(ScenarioError, match=r":1: it has no 'other'; it has: policy, size"):
        where.check_keys({"other": 1}, ("policy", "size"), "it")
