"""The sweeps that README.md answers questions with can be run, here with guests that are small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.sweep.asked import read_sweep
from scripts.sweep.page import EFFECTS, WINNERS
from tests.processes import Lab

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "scripts" / "simulate"
SWEEPS = sorted((FOLDER / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_small_version_of_each_is_run(path: Path, lab: Lab) -> None:
    """Every point completes, and the pictures are there."""
    text = re.sub(r'(?m)^size = ".*"$', 'size = "16MiB"', path.read_text(encoding="utf-8"))
    small = lab.folder / path.name
    # A page is no larger than the guest.
    small.write_text(text.replace('"1GiB"', '"4KiB"'), encoding="utf-8")
    lab.run("sweep", str(small), "--out=out", "--workers=1", "--quiet").succeed()
    lines = (lab.folder / "out" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"completed"}
    assert len(lines) == len(read_sweep(path).jobs) > 10
    for name in (EFFECTS, WINNERS):
        assert "<svg" in (lab.folder / "out" / name).read_text(encoding="utf-8")


def test_each_is_told_of() -> None:
    """README.md names each, and its pictures are there, for light pages and dark ones."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(SWEEPS) == 2
    for path in SWEEPS:
        assert f"(sweeps/{path.name})" in text
    pictures = re.findall(r"\(sweeps/(\S+\.svg)\)", text)
    assert pictures
    for name in pictures:
        picture = (FOLDER / "sweeps" / name).read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in picture
