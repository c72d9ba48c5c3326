"""Telling a running source something from another process, in another environment."""

from __future__ import annotations

import signal
import socket
import tempfile
from pathlib import Path

import pytest

from scripts.commands import run
from tests.processes import AT_ONCE, Lab, has_state, read_events, until


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--resume=0123 --connect=here:1", "--resume: '0123' is not 32 hexadecimal digits"),
        ("--resume= --connect=here:1", "--resume: '' is not 32 hexadecimal digits"),
        ("--resume --connect=here", "not HOST:PORT"),
        ("--resume", "Missing option '--connect'"),
    ],
)
def test_a_wrong_session(capsys: pytest.CaptureFixture[str], arguments: str, words: str) -> None:
    """What can be no session's name is the command line's fault."""
    assert run(["source", *arguments.split()]) == 2
    assert words in capsys.readouterr().err


def test_a_source_is_found_from_the_start_and_from_elsewhere(lab: Lab) -> None:
    """A source that was started without XDG_RUNTIME_DIR can be told something by a login's shell.

    Its socket is there before any migration is, --verbose and an event tell where; a command that
    does not fit is refused in one line, and changes nothing.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        tempfile.TemporaryDirectory(prefix="m") as runtime,
    ):
        events = lab.folder / "events"
        source = lab.start(
            "source", f"--connect=127.0.0.1:{silent.getsockname()[1]}", "--size=2MiB", "--verbose",
            f"--events={events}", environment={"XDG_RUNTIME_DIR": "/nowhere", **AT_ONCE},
        )  # fmt: skip
        until(lambda: read_events(events, "session"))
        (told,) = read_events(events, "session", "source")
        name, path = told["session"], told["control"]
        assert f"session {name}, control socket {path}\n" in source.errors
        for session in (name, path):
            login = {"XDG_RUNTIME_DIR": runtime}
            command = ("source", f"--resume={session}", "--connect=127.0.0.1:1")
            lab.start(*command, environment=login).fail(1, name, "it is not paused, its state is ")
        assert not has_state(events, "failed")
        source.signal(signal.SIGINT)
        assert source.wait() == 130
        assert not Path(path).exists()
        lab.run("source", f"--resume={name}", "--connect=127.0.0.1:1").fail(
            1, f"no source of session {name} runs here: none in /"
        )


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
