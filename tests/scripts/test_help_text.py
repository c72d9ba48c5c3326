"""Help that helps: examples that work, options in sections, names that a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from dest.config import PLACEMENT_CHOICES
from scripts.commands import midstream, run
from scripts.help_text import EXAMPLES, SECTIONS, complete_names
from scripts.options import OPTIONS
from scripts.runtime.spawn import package_environment
from tests.processes import ROOT

_CONTEXT = click.Context(midstream, info_name="midstream", **midstream.context_settings)


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command with its words behind `midstream`, and what it stands in."""
    for name in midstream.list_commands(_CONTEXT):
        command = midstream.get_command(_CONTEXT, name)
        assert command is not None
        yield name, command, _CONTEXT
        if isinstance(command, click.Group):
            inside = click.Context(command, parent=_CONTEXT, info_name=name)
            for inner, its in command.commands.items():
                yield f"{name} {inner}", its, inside


COMMANDS = {name: (command, context) for name, command, context in commands()}


def help_of(name: str) -> str:
    """Return a command's help."""
    command, parent = COMMANDS[name]
    context = click.Context(command, parent=parent, info_name=name.rpartition(" ")[2])
    return command.get_help(context)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name: str) -> None:
    """Its help shows one, in a line that can be copied, and it is understood as it stands."""
    lines = EXAMPLES[name]
    if not isinstance(COMMANDS[name][0], click.Group):
        shown = help_of(name).splitlines()
        assert all(f"  {line}" in shown for line in lines)
        assert any(line.startswith(f"midstream {name}") for line in lines)
    for line in lines:
        _, first, *rest = line.split()
        word = f"{first} {rest[0]}" if rest and f"{first} {rest[0]}" in COMMANDS else first
        command, parent = COMMANDS[word]
        command.make_context(word, rest[len(word.split()) - 1 :], parent=parent)


def test_there_are_no_examples_of_nothing() -> None:
    """Whoever renames a command renames it here, too."""
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_sections(name: str) -> None:
    """A command of more than a few options has them in groups, and the groups in one order."""
    command, _ = COMMANDS[name]
    if isinstance(command, click.Group):
        return
    titles = [line.rstrip(":") for line in help_of(name).splitlines() if line.endswith(":")]
    sections = [title for title in titles if title in SECTIONS]
    assert sections == sorted(sections, key=SECTIONS.index)
    assert "Options" not in titles
    if len([each for each in command.params if isinstance(each, click.Option)]) > 4:
        assert len(sections) > 1


def test_completed_names_are_those_that_are_taken() -> None:
    """What is written down because loading it takes time is what it stands for."""
    (option,) = [each for each in OPTIONS if each.name == "placement"]
    (made,) = option.decorate(click.Command("x", callback=lambda: None)).params
    items = made.shell_complete(_CONTEXT, "")
    assert [item.value for item in items] == [*PLACEMENT_CHOICES]


def complete(*words: str) -> list[str]:
    """Return what a shell completes the last word of a command line to."""
    environment = {
        **os.environ, **package_environment(), "_MIDSTREAM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["midstream", *words]), "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts"], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_choices() -> None:
    """As bash asks for them, through the command itself."""
    assert complete("mig") == ["plain,migrate"]
    assert complete("migrate", "--postcopy-af") == [
        "plain,--postcopy-after", "plain,--postcopy-after-time"
    ]  # fmt: skip
    assert complete("migrate", "--policy", "crit") == ["plain,critical-first"]
    assert complete("migrate", "--html", "a") == ["file,a"]


def test_of_a_list_the_last_name_is_completed() -> None:
    """What stands before the last comma stays."""
    names = [item.value for item in complete_names(("drop", "ordered", "own-channel"), "drop,o")]
    assert names == ["drop,ordered", "drop,own-channel"]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("migrat", "migrate"), ("trace imprt", "import"), ("migrate --polcy x", "--policy"),
        ("migrate --policy odered", "ordered"), ("migrate --program unform", "uniform"),
        ("migrate --backing hugetlbs", "hugetlb"), ("migrate --guest natve", "native"),
        ("migrate --placement simulatd", "simulated"),
        ("compare --policies drop,orderd", "ordered"),
        ("compare --guest pyton", "python"), ("compare --guest=natve", "native"),
        ("dest --peer qmu --listen :0", "qemu"), ("set max-bandwith=1MB/s", "max-bandwidth"),
        ("bench --only streem", "stream"), ("migrate --link 1Gbit/s,queu=fifo", "queue"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_with_what_was_meant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, meant: str
) -> None:
    """Whatever has a name: a command, an option, a policy, a program, a section, a limit."""
    monkeypatch.setattr("scripts.commands.ignore_signals", lambda: None)
    assert run(line.split()) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "id you mean" in told
    assert f"'{meant}'" in told
