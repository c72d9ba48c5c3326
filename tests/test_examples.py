"""What a document of the tree shows is so: a scenario pasted out of it does what it says."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from scripts.commands import midstream
from tests.examples import (
    CommandLine,
    Example,
    command_lines,
    documents,
    named_options,
    scenarios,
)
from tests.processes import ROOT, Lab

README_WORDS_MAX = 1500

SCENARIOS = scenarios()
# A sentence that names a command without an option shows no command line.
LINES = [line for line in command_lines() if not line.in_prose or "--" in line.name]

_CONTEXT = click.Context(midstream, **midstream.context_settings)
COMMANDS = {
    name: command
    for name in midstream.list_commands(_CONTEXT)
    if (command := midstream.get_command(_CONTEXT, name)) is not None
}
# Those in groups, by both words.
INNER = {
    (name, inner): its
    for name, command in COMMANDS.items()
    if isinstance(command, click.Group)
    for inner, its in command.commands.items()
}


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


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_command_line_of_a_document_is_understood(line: CommandLine) -> None:
    """The command is there, and takes each option and value that is shown; nothing is run."""
    command, words = _command(line.words)
    try:
        # A command keeps the help option that it is first asked for, so it is asked as by a user.
        command.make_context(line.name, list(words), parent=_CONTEXT)
    except click.MissingParameter:
        assert line.in_prose
    except click.exceptions.Exit:
        # It has printed its help.
        assert "--help" in line.words


def test_options_that_documents_name_are_there() -> None:
    """Whatever a document calls an option, some command has."""
    modules = [_command(line.words)[0] for line in LINES if line.words[0] == "python"]
    known = {"--help"} | {
        name
        for command in (*COMMANDS.values(), *INNER.values(), *modules)
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {each for each in named_options() if each[1] not in known} == set()


def test_the_readme_is_read_in_ten_minutes() -> None:
    """It leads, and what is long lies in the documents of the packages."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= README_WORDS_MAX
    assert text.count("](scripts/pictures/") <= 3


def test_links_between_documents_lead_somewhere() -> None:
    """A document that is linked is there, and so is the heading that a link names."""
    wrong = []
    for path in documents():
        text = (ROOT / path).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:\s]*(?:#[^)\s]*)?)\)", text):
            name, _, heading = target.partition("#")
            linked = (ROOT / path.parent / name).resolve() if name else ROOT / path
            found = linked.exists() and (not heading or heading in headings(linked))
            wrong += [] if found else [f"{path}: {target}"]
    assert wrong == []


def headings(path: Path) -> set[str]:
    """Return the headings of a document, as links name them."""
    lines = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_commands_that_take_but_a_moment_are_run(lab: Lab) -> None:
    """A command line that a document shows and that needs nothing else does what it says."""
    assert CommandLine(("midstream", "doctor"), in_prose=False) in LINES
    assert CommandLine(("midstream", "migrate"), in_prose=False) in LINES
    for command in ("doctor", "migrate"):
        process = lab.run(command)
        assert process.status == 0, process.errors


def _command(words: tuple[str, ...]) -> tuple[click.Command, tuple[str, ...]]:
    """Return who takes a command line, and what it is given."""
    if words[0] == "midstream":
        if words[1:3] in INNER:
            return INNER[words[1], words[2]], words[3:]
        # Where any command is meant, all take what is shown.
        return COMMANDS["migrate" if words[1] == "COMMAND" else words[1]], words[2:]
    module = import_module(words[2])
    (command,) = (
        each
        for each in vars(module).values()
        if isinstance(each, click.Command)
        and each.callback is not None
        and each.callback.__module__ == module.__name__
    )
    return command, words[3:]
