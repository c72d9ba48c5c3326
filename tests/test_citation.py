"""What a paper cites is this version, under this licence."""

import tomllib

from tests.processes import ROOT


def test_the_citation_is_of_this_version() -> None:
    """CITATION.cff and pyproject.toml tell the same of what both tell."""
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    told = dict(line.split(": ", 1) for line in lines if ": " in line and line[0].isalpha())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told["cff-version"] == "1.2.0"
    assert told["type"] == "software"
    assert told["message"]
    assert told["title"].strip('"').startswith(project["name"])
    assert (told["version"], told["license"]) == (project["version"], project["license"])
