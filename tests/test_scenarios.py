"""Every scripted fault injection of tests/scenarios does what it says and ends as it expects."""

from pathlib import Path

import pytest

from scripts.injection.scenario import read_scenario
from tests.processes import ROOT, Lab

FOLDER = ROOT / "tests" / "scenarios"
FILES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_ends_as_it_expects(lab: Lab, path: Path) -> None:
    """The scenario's steps all happen, and what it expects is so."""
    process = lab.run("inject", path)
    assert (process.status, process.output) == (0, f"ok {read_scenario(path).name}\n")
    assert process.errors == ""


def test_the_readme_tells_of_every_key() -> None:
    """Each key of a scenario of this folder is in the folder's README."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            key, equals, _ = line.partition(" = ")
            if equals and not line.startswith("#"):
                assert key in text, f"{path.name}: {key}"
