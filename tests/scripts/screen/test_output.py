"""Results and messages: flushed, one line each, and no traceback where nobody can hear them."""

import io
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import click
import pytest

from protocol.errors import MidstreamError
from scripts.screen import output
from scripts.screen.output import (
    Messages,
    Results,
    announce,
    dropped_messages,
    finish_messages,
    guard_streams,
    is_behind,
    print_result,
    tell,
    tell_failure,
)
from tests.bounds import nothing_left
from tests.processes import until

# More than a pipe holds.
MUCH = "x" * (1 << 20)


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[int]:
    """Have a standard stream be a pipe, guarded; yield what reads it."""
    near, far = os.pipe()
    with os.fdopen(far, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        for other in ("stdout", "stderr"):
            patch.setattr(sys, other, stream if other == name else None)
        guard_streams()
        try:
            yield near
        finally:
            with suppress(OSError):
                os.close(near)


def read_to(reader: int, end: str) -> str:
    """Read a pipe until something has come that ends so."""
    text = ""
    while not text.endswith(end):
        text += os.read(reader, 1 << 16).decode()
    return text


def test_a_result_is_there_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is printed does not wait in a buffer: somebody may read the address that is in it."""
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        print_result("listening on here:1\n")
        assert (tmp_path / "out").read_text(encoding="utf-8") == "listening on here:1\n"


def test_a_full_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told once; what is left in the buffer does not fail again later."""
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(MidstreamError, match="standard output: No space left on device"):
            print_result("x" * 100_000)
        stream.flush()


def test_a_closed_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell's `>&-` leaves no stream at all."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(MidstreamError, match="it is closed"):
        print_result("x")


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_nobody_need_listen_to_messages(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    """Without standard error messages go nowhere; with one they are lines."""
    monkeypatch.setattr(sys, "stderr", stream)
    tell("a")
    tell("b")
    if stream is not None:
        assert stream.getvalue() == "a\nb\n"


def test_a_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks and escape sequences in what a peer or a file says do not get through."""
    tell_failure("no\nsuch\r\x1b[31m  file\t\x00!")
    assert capsys.readouterr().err == "midstream: no such [31m file !\n"
    tell_failure("x" * 10_000)
    assert len(capsys.readouterr().err) < 600


def test_messages_that_nobody_reads_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are dropped whole and counted, and the number is said when they are read again."""
    with piped(monkeypatch, "stderr") as reader:
        for number in range(100_000):
            tell(f"{number:07}")
        assert is_behind(sys.stderr)
        before = dropped_messages()
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.append(read_to(reader, "the end\n")))
        thread.start()
        until(lambda: not is_behind(sys.stderr))
        dropped = dropped_messages()
        tell("the end")
        finish_messages()
        thread.join()
        lines = got[0].splitlines()
    # As long as nobody reads, what waits counts, too.
    assert before > dropped
    assert dropped > 0
    assert lines.pop() == "the end"
    # The thread that writes may be late before the pipe is full, too: then there are two gaps.
    number = 0
    for line in lines:
        if said := re.fullmatch(
            "midstream: ([0-9]+) message(?: was|s were) dropped: standard error is not read", line
        ):
            dropped -= int(said[1])
            number += int(said[1])
        else:
            assert line == f"{number:07}"
            number += 1
    assert (number, dropped) == (100_000, 0)


def test_a_stopped_terminal_gets_no_newer_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it goes on it is behind; what is said meanwhile comes then."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        guard_streams()
        assert sys.stderr.isatty()
        termios.tcflow(theirs, termios.TCOOFF)
        tell("a line")
        assert is_behind(sys.stderr)
        termios.tcflow(theirs, termios.TCOON)
        until(lambda: not is_behind(sys.stderr))
        finish_messages()
        assert read_to(ours, "\n") == f"{output.CLEAR_LINE}a line\r\n"
    os.close(ours)


def test_a_result_waits_for_a_reader_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow it is: of what it reads nothing is missing."""
    with piped(monkeypatch, "stdout") as reader:
        thread = threading.Thread(target=print_result, args=(MUCH,))
        thread.start()
        count = 0
        while count < len(MUCH):
            count += len(os.read(reader, 1 << 12))
        thread.join()


def test_a_result_that_nobody_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, with one reason; so is what would follow it."""
    monkeypatch.setattr(output, "RESULT_SECONDS_MAX", 0.05)
    with piped(monkeypatch, "stdout"):
        for text in (MUCH, "more"):
            with pytest.raises(MidstreamError, match="standard output: nobody reads it"):
                print_result(text)
        # The interpreter does that at its end, and would complain.
        sys.stdout.flush()


def test_a_result_whose_reader_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the system's; also for what is announced."""
    for say in (print_result, announce):
        with piped(monkeypatch, "stdout") as reader:
            os.close(reader)
            with pytest.raises(MidstreamError, match="standard output: Broken pipe"):
                say("x")


def test_what_is_announced_is_waited_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration goes on though nobody has read where to; who reads later gets it, in order."""
    with piped(monkeypatch, "stdout") as reader:
        assert isinstance(sys.stdout, Results)
        sys.stdout.write(MUCH)
        sys.stdout.announce()
        announce("listening on here:1")
        thread = threading.Thread(target=print_result, args=("the end\n",))
        thread.start()
        text = read_to(reader, "the end\n")
        thread.join()
    assert text == f"{MUCH}listening on here:1\nthe end\n"


def test_help_on_a_full_disk_is_a_failure_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libraries print goes the same way, and fails with the same words."""
    with Path("/dev/full").open("w", encoding="utf-8") as stream, nothing_left():
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", None)
        guard_streams()
        with pytest.raises(MidstreamError, match="standard output: No space left on device"):
            click.echo("x")
        sys.stdout.flush()


def test_a_guarded_stream_is_one_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no text is refused; what cannot be encoded is written as an escape."""
    with piped(monkeypatch, "stderr") as reader:
        assert isinstance(sys.stderr, Messages)
        with pytest.raises(TypeError):
            sys.stderr.write(cast(str, b"x"))
        sys.stderr.write("\udcff")
        assert not sys.stderr.is_behind
        sys.stderr.flush()
        finish_messages()
        assert os.read(reader, 100) == b"\\udcff"
        assert sys.stderr.writable()
        assert not sys.stderr.isatty()


def test_a_file_is_said_to_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk keeps nobody waiting: there is nothing to guard."""
    with (tmp_path / "err").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", None)
        guard_streams()
        assert (sys.stdout, sys.stderr) == (None, stream)
        tell("a")
        finish_messages()
        assert (dropped_messages(), is_behind(stream)) == (0, False)
    assert (tmp_path / "err").read_text(encoding="utf-8") == "a\n"
