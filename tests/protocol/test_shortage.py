"""What has run out is told in a line, and nothing else is taken for that."""

import errno

import pytest

from protocol.shortage import shortage_of


def chained() -> Exception:
    """Return an error that came of another, which came of a shortage."""
    error = ImportError("a long explanation")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENFILE, "Too many open files in system"), "this machine"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ulimit -v"),
        (MemoryError(), "ulimit -v"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (ImportError("libx.so: failed to map segment from shared object"), "ulimit -v"),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "ulimit -n"),
        (chained(), "ulimit -n"),
        (OSError(errno.EACCES, "Permission denied"), ""),
        (ImportError("No module named 'x'"), ""),
        (RuntimeError("anything else"), ""),
        (ValueError("can't start new thread"), ""),
        (None, ""),
    ],
)
def test_what_has_run_out(error: BaseException | None, words: str) -> None:
    """The line names the limit to raise; of other errors there is no line."""
    told = shortage_of(error)
    assert words in told
    assert bool(told) is bool(words)
