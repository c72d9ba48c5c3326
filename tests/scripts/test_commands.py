"""The command line in this process: every end is an exit status and at most one line."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
import trio

from protocol.errors import ConnectionLost, GuestFailed, MemoryLost, WrongMemory
from scripts import commands
from scripts.commands import ELSEWHERE, midstream, run
from scripts.runtime import interrupts
from scripts.runtime.spawn import package_environment


@pytest.fixture(autouse=True)
def _signals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command's end leave this process's signals alone."""
    monkeypatch.setattr(commands, "ignore_signals", lambda: None)


@pytest.fixture
def ending() -> Iterator[list[BaseException]]:
    """A command `end` that ends with the error in this list."""
    errors: list[BaseException] = []

    def end() -> None:
        raise errors[0]

    midstream.add_command(click.Command("end", callback=end))
    yield errors
    del midstream.commands["end"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--no-such-option", "No such option"),
        ("no-such-command", "No such command"),
        ("migrate --no-such-option", "No such option"),
        ("migrate superfluous", "unexpected extra argument"),
        ("migrate --size", "requires an argument"),
        ("migrate --quiet=yes", "--quiet"),
        ("migrate --size=3MiB", "not one or more pages"),
        ("migrate --save=/", "--save"),
        ("migrate --connect=here:1", "No such option"),
        ("source", "Missing option '--connect'"),
        ("source --connect=here", "not HOST:PORT"),
        ("source --connect=here:1 --save=x", "No such option"),
        ("dest", "Missing option '--listen'"),
        ("dest --listen=here:1 --size=2MiB", "No such option"),
        ("dest --listen=here:1 --report=/", "--report"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    """Exit status 2, and a line that names what is wrong."""
    assert run(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("midstream: ")
    assert err.count("\n") == 1
    assert words in err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`midstream` alone shows what it can do, as a complaint; `--help` shows it as a result."""
    assert run([]) == 2
    complaint = capsys.readouterr()
    assert complaint.out == ""
    assert run(["--help"]) == 0
    result = capsys.readouterr()
    assert result.err == ""
    for text in (complaint.err, result.out):
        assert "Usage: midstream [OPTIONS] COMMAND [ARGS]..." in text
        assert all(f"  {name} " in text for name in ("dest", "migrate", "source", *ELSEWHERE))


def test_version_and_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` names the program; every command has a help, which `-h` shows too."""
    assert run(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert (name, version[0].isdigit()) == ("midstream", True)
    for command in midstream.list_commands(click.Context(midstream)):
        assert run([command, "--help" if command in ELSEWHERE else "-h"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: midstream {command} ")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (GuestFailed("no\nmemory"), 1, "no memory"),
        (WrongMemory("page 5"), 3, "page 5"),
        (MemoryLost("gone"), 4, "gone"),
        (ExceptionGroup("", [ConnectionLost("cut"), WrongMemory("page 5")]), 3, "page 5"),
        (click.Abort(), 130, "cancelled"),
    ],
)
def test_an_error_decides_the_exit_status(
    capsys: pytest.CaptureFixture[str],
    ending: list[BaseException],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    """Each kind of error has its status, and of several the most telling one is told."""
    ending.append(error)
    assert run(["end"]) == status
    assert capsys.readouterr().err == f"midstream: {line}\n"


def test_a_bug_is_told_in_one_line_too(
    capsys: pytest.CaptureFixture[str], ending: list[BaseException]
) -> None:
    """What nobody foresaw is an internal error with its place."""
    ending.append(ExceptionGroup("", [KeyError("x")]))
    assert run(["end"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "internal error: KeyError: 'x'" in err
    assert "--verbose" in err


def test_starting_a_command_loads_only_what_it_needs() -> None:
    """No command's work is imported before it is asked for; it takes longer than all else."""
    code = (
        "import sys; import scripts.commands; "
        "print([name for name in ('numpy', 'trio', 'source', 'dest') if name in sys.modules])"
    )
    done = trio.run(_run_python, code)
    assert done == "[]\n"


async def _run_python(code: str) -> str:
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    return done.stdout.decode()


def test_the_status_of_a_cancellation_is_the_shells() -> None:
    """130 is what a shell makes of Ctrl-C."""
    assert 128 + interrupts.SIGNALS[0] == interrupts.EXIT_CANCELLED


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_told_of_a_command_elsewhere_is_what_it_says(name: str) -> None:
    """The help of all commands has the sentence with which the command's own begins."""
    command = midstream.get_command(click.Context(midstream), name)

    assert command is not None
    assert command.get_short_help_str(1000) == ELSEWHERE[name].help


# Whatever takes long to load, and not every process needs.
HEAVY = {
    "dest.qemu", "hdrh", "hypercorn", "matplotlib", "msgspec", "numpy", "orjson", "rich",
    "source.session", "ssl", "tomllib", "trio",
}  # fmt: skip


@pytest.mark.parametrize(
    ("load", "needed"),
    [
        ("from scripts.processes import pair; pair.spawn = told; run(['migrate'])", set()),
        ("import scripts.processes.launcher; told()", {"trio", "ssl"}),
        ("import guest.process; told()", {"numpy"}),
        (
            "import scripts.processes.source_side; told()",
            {"numpy", "trio", "ssl", "msgspec", "source.session"},
        ),
        ("import scripts.processes.dest_side; told()", {"numpy", "trio", "ssl", "msgspec", "hdrh"}),
    ],
    ids=["migrate-until-it-starts-sides", "launcher", "guest", "source", "dest"],
)
def test_a_process_loads_little_else_than_what_it_needs(load: str, needed: set[str]) -> None:
    """Nobody waits for a module that this run does not use."""
    code = (
        "import sys\n"
        "import scripts.commands\n"
        "from scripts.commands import run\n"
        "def told(*_, **__):\n"
        f"    print(sorted({HEAVY!r} & sys.modules.keys()))\n"
        "    sys.exit()\n"
    )
    done = trio.run(_run_python, code + load)
    assert set(ast.literal_eval(done)) == needed


def test_help_loads_no_command() -> None:
    """What the help of all commands needs is click: neither an event loop nor arrays."""
    code = (
        "import sys; from scripts.commands import run; run(['--help']); "
        "print({'trio', 'numpy', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=package_environment(), stdout=subprocess.PIPE,
        text=True, timeout=60, check=True,
    )  # fmt: skip

    assert "  migrate " in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"
