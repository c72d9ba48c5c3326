"""The command line's options: their names, and their way into another process."""

import click
import pytest
from click.testing import CliRunner

from scripts.commands import midstream
from scripts.options import (
    BOTH,
    DEST,
    FILES,
    LAUNCH,
    OPTIONS,
    QEMU,
    SOURCE,
    options_of,
    to_arguments,
)

# What others rely on; options may be added.
PROMISED = (
    "--size --page-size --backing --placement --image --policy --chunk-size --vcpus --program "
    "--access-rate --write-ratio --seed --postcopy-after --downtime-limit --max-bandwidth "
    "--max-postcopy-bandwidth --save --report --events --quiet --verbose"
)


# What `midstream migrate` takes: all but what only another kind of source leaves open.
PAIR = options_of(SOURCE, DEST, LAUNCH)


def test_every_promised_option_is_there_once() -> None:
    """No option is missing, and none stands in the table twice."""
    flags = [option.flag for option in OPTIONS]
    assert set(flags) >= set(PROMISED.split())
    assert len(flags) == len(set(flags))


def test_each_side_has_its_own_options() -> None:
    """The guest's shape is the source's to say, what becomes of it the destination's."""
    source = {option.flag for option in options_of(SOURCE)}
    dest = {option.flag for option in options_of(DEST)}
    assert {"--size", "--policy", "--program"} <= source - dest
    assert {"--save", "--placement", "--steps"} <= dest - source
    # A QEMU says nothing of vCPUs, so they are the destination's to say then.
    qemu = {option.flag for option in options_of(QEMU)}
    assert {"--vcpus", "--program"} <= qemu & source
    assert not qemu & dest
    assert {"--backing", "--events", "--report"} <= source & dest
    assert {option.flag for option in options_of(*BOTH.split())} == source | dest


def test_values_cross_as_they_were_typed() -> None:
    """What one process was given, another parses to the same values, dashes and blanks included."""
    given: dict[str, object] = {
        option.name: option.metavar is None or f"-{number} =x" for number, option in enumerate(PAIR)
    }
    received: dict[str, object] = {}

    def note(**values: object) -> None:
        received.update(values)

    command = click.Command("note", callback=note, params=midstream.commands["migrate"].params)
    result = CliRunner().invoke(command, to_arguments(given, PAIR))
    assert result.exit_code == 0, result.output
    assert received == given


def test_what_is_not_given_is_not_handed_on() -> None:
    """Options without a value, and switches that are off, leave no trace."""
    nothing = dict.fromkeys((option.name for option in OPTIONS), None)
    assert to_arguments(nothing, OPTIONS) == []


def test_files_are_known_as_such() -> None:
    """Names of files are looked at before something starts, so each has to be known."""
    assert {"image", "save", "report", "events", "steps"} <= FILES
    assert FILES.isdisjoint({"size", "program", "quiet"})


@pytest.mark.parametrize("command", ["migrate", "source", "dest"])
def test_help_shows_every_option_in_80_columns(command: str) -> None:
    """The help names each option of the command and the exit status, no line over 80 columns."""
    result = CliRunner().invoke(midstream, [command, "--help"], terminal_width=80)
    assert result.exit_code == 0
    sides = {"migrate": (SOURCE, DEST), "source": (SOURCE,), "dest": (DEST,)}[command]
    for option in options_of(*sides):
        assert option.flag in result.output
    assert "Exit status: 0 completed and verified" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
