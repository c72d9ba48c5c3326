"""The wheel in a virtual environment of its own, outside of the tree: commands and the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from scripts.commands import midstream as commands
from tests.processes import ROOT, SECONDS_MAX
from tests.reports import read_report, run_of

COMMANDS = commands.list_commands(click.Context(commands))


def call(*command: str | Path, folder: Path) -> str:
    """Run a program there, with nothing of this tree in its environment; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=SECONDS_MAX, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as it stands by the pinned backend, without a network."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    call(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--quiet", "--wheel-dir", folder, ROOT),
        folder=folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The folder of programs of an environment with the wheel, and the libraries of this one."""
    folder = wheel.parent / "environment"
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    call(
        *(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-index"),
        *("--no-deps", "--quiet", wheel),
        folder=wheel.parent,
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    # A plain path: what is in it can be imported, but for the tree, to which a .pth in it leads.
    (packages / "libraries.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return programs


def test_the_wheel_holds_what_it_needs(wheel: Path) -> None:
    """The library at the top, once; the schema and the pages' parts; no test and no launcher."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(set(names)) == len(names)
    assert {
        "midstream/__init__.py", "midstream/py.typed", "scripts/results/report.schema.json",
        "scripts/views/web/view.html",
    } <= set(names)  # fmt: skip
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "dest", "guest", "midstream", "protocol", "scripts", "source",
    }  # fmt: skip
    assert not [name for name in names if name.startswith("scripts/library/")]
    assert "scripts/setup" not in names


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there(installed: Path, command: str, tmp_path: Path) -> None:
    """Whatever it imports is in the wheel."""
    told = call(installed / "midstream", command, "--help", folder=tmp_path)
    assert told.startswith(f"Usage: midstream {command}")


def test_commands_work_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """A migration, what is shown of it, a scenario: with the wheel's own modules."""
    small = ("--size=4MiB", "--page-size=4KiB", "--quiet")
    outputs = ("--report=r.json", "--events=e.jsonl", "--html=page.html")
    call(installed / "midstream", "migrate", *small, *outputs, folder=tmp_path)
    told = read_report(tmp_path / "r.json")
    assert told["midstream"]["verified"]["digest-equal"]
    assert run_of(told)["versions"]["midstream"]
    shown = call(installed / "midstream", "report", "r.json", "e.jsonl",
                 folder=tmp_path)  # fmt: skip
    assert "midstream migrate" in shown
    scenario = ROOT / "tests" / "scenarios" / "blocks.toml"
    assert call(installed / "midstream", "inject", scenario, folder=tmp_path).startswith("ok ")


def test_the_library_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """It is imported from where the wheel was put, and so is what it runs."""
    script = (
        "import json, midstream, scripts\n"
        "report = midstream.migrate(size='4MiB', page_size='4KiB', events=True)\n"
        "print(json.dumps([midstream.__file__, scripts.__file__, report.verified,\n"
        "                  len(report.events['t-ns'])]))\n"
    )
    told = json.loads(call(installed / "python", "-c", script, folder=tmp_path))
    for path in told[:2]:
        assert Path(path).is_relative_to(installed.parent)
    assert told[2] is True
    assert told[3] > 0
