"""The command line's options: their names, whose they are, and their help."""

import pytest
from click.testing import CliRunner

from scripts.commands import midstream
from scripts.options import (
    BOTH,
    DEST,
    OPTIONS,
    QEMU,
    SOURCE,
    options_of,
)

# What others rely on; options may be added.
PROMISED = (
    "--size --page-size --backing --placement --image --policy --chunk-size --vcpus --program "
    "--access-rate --write-ratio --seed --postcopy-after --downtime-limit --max-bandwidth "
    "--max-postcopy-bandwidth --save --report --events --quiet --verbose"
)


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
