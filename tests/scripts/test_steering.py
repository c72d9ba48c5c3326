"""The commands that steer a running source: what is wrong with them is said before anybody asks."""

import pytest

from scripts.commands import run
from tests.processes import Lab


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("set", "Missing argument 'NAME=VALUE...'"),
        ("set max-bandwidth=fast", "max-bandwidth: 'fast' is not a rate"),
        ("set speed=1MB/s", "'speed=1MB/s' is not NAME=VALUE with one of max-bandwidth, "),
        ("set --session=0123 max-bandwidth=0", "--session: '0123' is not 32 hexadecimal digits"),
        ("switch-over --session=0123", "--session: '0123' is not 32 hexadecimal digits"),
        ("switch-over now", "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    """It is refused with the status of a wrong command line."""
    assert run(arguments.split()) == 2
    assert words in capsys.readouterr().err


def test_no_source_no_steering(lab: Lab) -> None:
    """A session that nobody runs is named."""
    name = "0123456789abcdef" * 2
    for command in (("switch-over",), ("set", "max-bandwidth=0")):
        lab.run(*command, f"--session={name}").fail(1, f"no source of session {name} runs here")
