"""Results and messages: flushed, one line each, and no traceback where nobody can hear them."""

import io
import sys
from pathlib import Path

import pytest

from protocol.errors import MidstreamError
from scripts.screen.output import print_result, tell, tell_failure


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
