"""Tests of protocol/errors.py."""

from __future__ import annotations

import errno
from itertools import permutations

import pytest

from protocol import errors
from protocol.errors import (
    AuthenticationFailed,
    ConnectionLost,
    GuestFailed,
    LocalProtocolError,
    MemoryLost,
    MidstreamError,
    MigrationCancelled,
    MigrationError,
    PeerAborted,
    ProtocolError,
    RemoteProtocolError,
    WrongMemory,
    as_loss,
    reason_of,
    root_cause,
    shortage_of,
)


class Interrupted(BaseException):
    """Stands for what ends a task from outside, and is no Exception."""


class Faulty(ConnectionLost):
    """Stands for an error that is derived from one of ours."""


# From the one that says most to the one that says least.
TELLING: list[BaseException] = [
    ValueError("a bug"),
    MemoryLost("gone"),
    MigrationCancelled("cancelled"),
    Interrupted(),
    LocalProtocolError("a bug or bad input here"),
    RemoteProtocolError("the peer broke the rules"),
    WrongMemory("torn"),
    AuthenticationFailed("the secrets differ"),
    GuestFailed("died"),
    PeerAborted("the peer says why"),
    MigrationError("does not converge"),
    ConnectionLost("closed"),
]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MidstreamError, 1),
        (LocalProtocolError, 1),
        (RemoteProtocolError, 1),
        (MigrationError, 1),
        (PeerAborted, 1),
        (AuthenticationFailed, 1),
        (ConnectionLost, 1),
        (GuestFailed, 1),
        (WrongMemory, 3),
        (MemoryLost, 4),
        (MigrationCancelled, 130),
    ],
)
def test_exit_statuses(error: type[MidstreamError], expected: int) -> None:
    """Each error ends the command with the status that is promised for it."""
    actual = error("why").exit_status
    assert expected == actual


def test_whose_fault_stands_in_the_type() -> None:
    """Errors of the protocol are one side's or the other's, all others are no errors of it."""
    assert ProtocolError.__subclasses__() == [LocalProtocolError, RemoteProtocolError]
    assert not issubclass(MigrationError, ProtocolError)
    # Other rooms derive errors of their own.
    here = {kind for kind in MidstreamError.__subclasses__() if kind.__module__ == errors.__name__}
    assert {MigrationError, ProtocolError} == here


def test_the_tree_at_the_top_is_the_tree() -> None:
    """The module's own picture names every error with its base above it."""
    assert errors.__doc__ is not None
    pictured = {
        line.split("+-- ")[1].split()[0] for line in errors.__doc__.splitlines() if "+-- " in line
    }
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, MidstreamError)
    }
    assert defined - {"MidstreamError"} == pictured


@pytest.mark.parametrize("error", TELLING, ids=lambda error: type(error).__name__)
def test_one_error_is_its_own_cause(error: BaseException) -> None:
    """An error alone, or alone in groups, is what went wrong."""
    assert root_cause(error) is error
    assert root_cause(BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [error])])) is error


@pytest.mark.parametrize("index", range(len(TELLING) - 1))
def test_the_more_telling_error_wins(index: int) -> None:
    """Of two errors the more telling one is the cause, whichever came first."""
    telling = TELLING[index]
    for vague in TELLING[index + 1 :]:
        for pair in permutations([telling, vague]):
            assert root_cause(BaseExceptionGroup("both", pair)) is telling


def test_a_bug_does_not_hide_in_a_deep_group() -> None:
    """A bug is found among errors that came with it, however deep the groups are nested."""
    bug = KeyError("page")
    inner = BaseExceptionGroup("inner", [ConnectionLost("closed"), bug, Interrupted()])
    outer = BaseExceptionGroup("outer", [PeerAborted("why"), inner])
    assert root_cause(outer) is bug


def test_of_equals_the_first_wins() -> None:
    """Two errors of one kind tell the same, so the first is the cause."""
    first, second = ConnectionLost("precopy"), ConnectionLost("postcopy")
    assert root_cause(ExceptionGroup("both", [first, second])) is first


def test_a_derived_error_ranks_as_its_base() -> None:
    """An error that is derived from one of ours is as telling as that one."""
    aborted, faulty = PeerAborted("why"), Faulty("closed")
    assert root_cause(ExceptionGroup("both", [faulty, aborted])) is aborted
    bug = ZeroDivisionError()
    assert root_cause(ExceptionGroup("both", [aborted, faulty, bug])) is bug


NO_THREADS = "no more threads or processes may be started, raise the limit (ulimit -u, or -v)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionLost("the precopy connection broke"), "the precopy connection broke"),
        (RuntimeError("can't start new thread"), NO_THREADS),
        (KeyError("page"), "'page'"),
    ],
)
def test_what_the_peer_is_told(error: Exception, reason: str) -> None:
    """Errors that were written for users as they are, a shortage as the limit to raise."""
    assert reason_of(error) == reason
    wrapped = MigrationError("cannot make 16 MiB of memory")
    wrapped.__cause__ = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert reason_of(wrapped) == "cannot make 16 MiB of memory"


def test_what_makes_no_sense_is_a_loss() -> None:
    """The reason is kept."""
    loss = as_loss(RemoteProtocolError("kind 99 is not known"))
    assert isinstance(loss, ConnectionLost)
    assert str(loss).endswith("makes no sense: kind 99 is not known")


def test_other_errors_stay() -> None:
    """A peer that ends the session has said something that makes sense."""
    abort = PeerAborted("enough")
    assert as_loss(abort) is abort


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
