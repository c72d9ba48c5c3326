"""No file that one option writes is used by another, whatever its name; no option is left out."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from scripts.commands import midstream, run
from scripts.named_files import (
    Command,
    FileArgument,
    FileOption,
    Named,
    Use,
    check_distinct,
    named_files,
)

# What the values of options are called that name no file; whoever adds one thinks of it here.
NO_FILES = {
    "ADDRESS", "DSCP", "HOST", "HOST:PORT", "KIND", "N", "NAME", "NAME=VALUE...", "NAMES", "RATE",
    "LIST", "MEANING=HEADER", "PLACE", "RATE[,...]", "RATIO", "SESSION", "SIZE", "SIZES", "TIME",
    "NAME=VALUE", None,
}  # fmt: skip


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its name; of a group, those in it."""
    context = click.Context(midstream)
    for name in midstream.list_commands(context):
        command = midstream.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            for inner, its in command.commands.items():
                yield f"{name} {inner}", its
        else:
            yield name, command


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    """Yield every option and argument of every command, with the command's name."""
    for name, command in commands():
        for parameter in command.params:
            yield name, parameter


def test_every_command_looks_at_its_files() -> None:
    """Also one that is added, wherever it is defined."""
    assert [name for name, command in commands() if not isinstance(command, Command)] == []
    assert {"migrate", "source", "dest", "report", "compare", "bench", "inject", "qemu"} <= {
        name for name, _ in commands()
    }


def test_every_option_that_names_a_file_says_so() -> None:
    """What it is called in the help, or its type, tells that it names one."""
    for name, parameter in parameters():
        if isinstance(parameter, (FileOption, FileArgument)):
            continue
        metavar = parameter.metavar if isinstance(parameter, (click.Option, click.Argument)) else ""
        assert metavar in NO_FILES, f"{name} {parameter.name}: does {metavar} name a file?"
        assert not isinstance(parameter.type, (click.Path, click.File)), (name, parameter.name)
        # Of one without a help nobody would see what it names.
        assert not (isinstance(parameter, click.Option) and parameter.hidden), parameter.name


def uses(name: str) -> dict[str, Use]:
    """Return what a command does with the files that its options name."""
    return {
        parameter.opts[0]: parameter.use
        for parameter in dict(commands())[name].params
        if isinstance(parameter, (FileOption, FileArgument))
    }


def test_what_becomes_of_files() -> None:
    """What is written is never called read."""
    assert {each for each, use in uses("migrate").items() if use is not Use.READ} == {
        "--save", "--report", "--events", "--perfetto", "--html",
    }  # fmt: skip
    assert uses("report") == {
        "files": Use.READ,
        **dict.fromkeys(("--csv", "--parquet", "--html", "--perfetto"), Use.WRITE),
    }
    assert uses("inject") == {
        "scenarios": Use.READ, "--policy": Use.READ, "--keep": Use.FILL, "--qemu": Use.READ,
        "--report": Use.WRITE,
    }  # fmt: skip
    assert uses("trace import") == uses("trace cut") == {"file": Use.READ, "--out": Use.WRITE}
    assert uses("trace show") == {"file": Use.READ, "--picture": Use.WRITE}
    assert uses("compare")["--picture"] is uses("bench")["--report"] is Use.WRITE
    assert uses("qemu")["--save"] is uses("dest")["--save"] is Use.SAVE


# Every command that writes files, with what it needs, so that only its files can be wrong.
COMMANDS = {
    "migrate": (),
    "source": ("--connect=127.0.0.1:1",),
    "dest": ("--listen=127.0.0.1:0",),
    "qemu": ("--connect=127.0.0.1:1",),
    "relay": ("--listen=127.0.0.1:0", "--connect=127.0.0.1:1"),
    "compare": (),
    "bench": (),
    "demo": (),
    "simulate": (),
    "inject": (),
    "report": (),
    "trace import": ("--from=csv",),
    "trace show": (),
    "trace cut": (),
}
# Those that write one file alone, or into a folder, under names of their own.
ALONE = {"calibrate", "sweep"}


def test_every_command_that_writes_is_tried() -> None:
    """One that is added, or that begins to write, is among those below."""
    writing = {name for name, _ in commands() if set(uses(name).values()) - {Use.READ}}
    assert writing == set(COMMANDS) | ALONE


def pairs() -> Iterator[tuple[str, str, str]]:
    """Yield every two options or arguments of a command of which one is written."""
    for name in COMMANDS:
        known = {each: use for each, use in uses(name).items() if use is not Use.FILL}
        for one, use in known.items():
            for other, its in known.items():
                is_harmless = {use, its} == {Use.READ} or {one, other} == {"--image", "--save"}
                if one < other and not is_harmless:
                    yield name, one, other


def typed(name: str, files: dict[str, str]) -> list[str]:
    """Return a command line in which options and arguments name these files."""
    needed = []
    for parameter in dict(commands())[name].params:
        if not isinstance(parameter, (FileOption, FileArgument)):
            continue
        path = files.get(parameter.opts[0])
        if isinstance(parameter, FileArgument):
            needed.append(path or "other")
        elif path is not None or parameter.required:
            # What finds a file in a value finds the one that a recording is in.
            before = "recorded=" if "--policy" in parameter.opts else parameter.prefix
            needed.append(f"{parameter.opts[0]}={before}{path or 'another'}")
    return [*name.split(), *COMMANDS[name], *needed]


def shown(name: str, option: str) -> str:
    """Return how a complaint calls an option or argument."""
    (parameter,) = (each for each in dict(commands())[name].params if option in each.opts)
    is_argument = isinstance(parameter, FileArgument)
    return str(parameter.metavar).rstrip(".") if is_argument else parameter.opts[0]


# The other name of the file that both name.
NAMES = ("file", "./file", "link", "hard")


@pytest.mark.parametrize("alias", NAMES)
@pytest.mark.parametrize("name", COMMANDS)
def test_two_names_of_one_file_are_refused(
    name: str, alias: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of every pair: exit status 2, both are named, and the file is as it was, whoever names it."""
    monkeypatch.setattr("scripts.commands.ignore_signals", lambda: None)
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"kept")
    Path("link").symlink_to("file")
    os.link("file", "hard")
    before = sorted(tmp_path.iterdir())
    tried = [(one, other) for command, one, other in pairs() if command == name]
    assert tried
    for one, other in tried:
        for first, second in ((one, other), (other, one)):
            assert run(typed(name, {first: "file", second: alias})) == 2
            told = capsys.readouterr().err
            both = [shown(name, each) for each in (one, other)]
            assert any(f"{a} and {b} name one file" in told for a, b in (both, both[::-1])), told
            assert Path("file").read_bytes() == b"kept"
            assert sorted(tmp_path.iterdir()) == before


def named(use: Use, path: str | Path, option: str = "--x") -> Named:
    """Return a file of a command line."""
    return Named(option, str(path), use)


def is_refused(*files: Named) -> bool:
    """Tell whether a command line with these files is refused."""
    try:
        check_distinct(files)
    except click.UsageError:
        return True
    return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of several names, and a folder of two."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "hard")
    (tmp_path / "sub").mkdir()
    (tmp_path / "same").symlink_to("sub")
    (tmp_path / "dangling").symlink_to("sub/new")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("file", "file"),
        ("file", "./sub/../file"),
        ("file", "link"),
        ("link", "hard"),
        ("new", "./new"),
        ("sub/new", "same/new"),
        ("sub/new", "dangling"),
        ("/dev/stdout", "-"),
        ("-", "-"),
    ],
)
def test_names_of_one_file(folder: Path, one: str, other: str) -> None:
    """By device and inode, through links of both kinds; also where nothing is yet."""
    for use in (Use.READ, Use.WRITE):
        assert is_refused(named(use, one), named(Use.WRITE, other))
        # A path that is not relative is left as it is.
        assert one == "-" or is_refused(named(Use.WRITE, folder / one), named(use, other))
    assert not is_refused(named(Use.READ, one), named(Use.READ, other))


@pytest.mark.parametrize(
    ("one", "other"), [("file", "new"), ("sub/new", "new"), ("/dev/null", "/dev/null")]
)
@pytest.mark.usefixtures("folder")
def test_names_of_two_files(one: str, other: str) -> None:
    """What may be used by many, as /dev/null, is no file of anybody's."""
    assert not is_refused(named(Use.WRITE, one), named(Use.WRITE, other))


@pytest.mark.usefixtures("folder")
def test_an_image_may_be_saved_to() -> None:
    """It is read before, and replaced as a whole; nothing else may be, nor may a third use it."""
    image, save = named(Use.READ, "file", "--image"), named(Use.SAVE, "link", "--save")
    assert not is_refused(image, save)
    assert is_refused(image, save, named(Use.WRITE, "hard"))
    assert is_refused(named(Use.READ, "file", "--steps"), save)
    assert is_refused(named(Use.READ, "link.missing.json", "--image"), save)


@pytest.mark.usefixtures("folder")
def test_what_is_saved_has_a_map() -> None:
    """No other option may name it, or where a part goes."""
    for name in ("s.missing.json", "s.partial", "s.partial.missing.json"):
        assert is_refused(named(Use.SAVE, "s"), named(Use.WRITE, name))


def test_files_inside_values(tmp_path: Path) -> None:
    """A program may be a trace's file, and need not be one."""
    command = midstream.get_command(click.Context(midstream), "migrate")
    assert command is not None
    values: dict[str, Any] = {"program": f"trace:{tmp_path}/t", "save": None, "report": "-"}
    assert [(each.option, each.path) for each in named_files(command, values)] == [
        ("--program", f"{tmp_path}/t"), ("--report", "-"),
    ]  # fmt: skip
    for program in ("uniform", "trace:"):
        assert not list(named_files(command, {"program": program}))


def test_arguments_are_files_too(tmp_path: Path) -> None:
    """Events that a page would overwrite; scenarios of one name, which would be kept as one."""
    events = tmp_path / "e.jsonl"
    events.write_bytes(b"{}")
    result = CliRunner().invoke(midstream, ["report", str(events), "--html", str(events)])
    assert result.exit_code == 2
    assert "FILE and --html name one file" in result.output
    assert events.read_bytes() == b"{}"
    paths = [tmp_path / "a" / "x.toml", tmp_path / "b" / "x.toml"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("[expect]\nstatus = 'completed'\n")
    keep = tmp_path / "kept"
    result = CliRunner().invoke(midstream, ["inject", *map(str, paths), f"--keep={keep}"])
    assert result.exit_code == 2
    assert "would be kept under one name" in result.output
    result = CliRunner().invoke(midstream, ["inject", str(paths[0]), f"--keep={events}"])
    assert result.exit_code == 2
    assert "is no directory" in result.output


def test_a_command_tells_its_report_how_it_ends(tmp_path: Path) -> None:
    """Whatever a command ends with, the report that it began says so; else nothing is said."""
    from scripts.reports import begin_report  # noqa: PLC0415

    path = tmp_path / "report"

    @click.command(cls=Command, report_schema="x/1")
    @click.option("--report")
    @click.option("--begin", is_flag=True)
    def fail(report: str, begin: bool) -> None:
        if begin:
            begin_report(report, "x/1")
        raise click.BadParameter("wrong after all", param_hint="--report")

    CliRunner().invoke(fail, [f"--report={path}"])
    assert not path.exists()
    CliRunner().invoke(fail, [f"--report={path}", "--begin"])
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told.pop("run")["command"] == "fail"
    assert told == {
        "schema": "x/1", "status": "failed",
        "reason": "Invalid value for --report: wrong after all",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("migrate", "--hold", "--start-paused"),
        ("migrate", "--silence-limit=5s", "--keepalive-timeout"),
        ("migrate", "--trace=t", "--perfetto or --accesses"),
        ("source", "--reconnect-for=5s", "--reconnect-timeout"),
        ("dest", "--wait-for-resume=5s", "--recover-timeout"),
        ("dest", "--only-from=::1", "--allow-from"),
        ("dest", "--window=64KiB", "--socket-buffer"),
        ("qemu", "--window=64KiB", "--socket-buffer"),
        ("qemu", "--reconnect-for=5s", "--reconnect-timeout"),
        ("compare", "--trace=t", "--accesses"),
        ("report", "--trace=t", "--perfetto"),
    ],
)
def test_an_option_of_old_is_refused_with_its_name_now(
    capsys: pytest.CaptureFixture[str], command: str, old: str, new: str
) -> None:
    """Nobody has to look for it; one that a command never had is just unknown."""
    assert run([command, old]) == 2
    assert capsys.readouterr().err == f"midstream: {old.partition('=')[0]} is {new} now\n"
    assert run(["doctor", old]) == 2
    assert "No such option" in capsys.readouterr().err
