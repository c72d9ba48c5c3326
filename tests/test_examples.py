"""What a document of the tree shows is so: a scenario pasted out of it does what it says."""

from __future__ import annotations

import pytest

from tests.examples import Example, documents, scenarios
from tests.processes import Lab

SCENARIOS = scenarios()


def test_the_documents_are_looked_through() -> None:
    """Documents of every room are found, and a scenario in the README."""
    names = {str(path) for path in documents()}
    assert names >= {"README.md", "protocol/README.md", "tests/scenarios/README.md"}
    assert {str(example.path) for example in SCENARIOS} >= {
        "README.md",
        "tests/scenarios/README.md",
    }


@pytest.mark.parametrize("example", SCENARIOS, ids=lambda example: example.name)
def test_a_scenario_of_a_document_does_what_it_says(lab: Lab, example: Example) -> None:
    """Pasted into a file as it stands it ends as it expects."""
    path = lab.folder / "pasted.toml"
    path.write_text(example.text, encoding="utf-8")
    process = lab.run("inject", path)
    assert process.status == 0, process.output + process.errors
    assert process.output.startswith("ok ")
