"""Whose fault it is stands in the type.

    MidstreamError
    +-- ProtocolError            one side broke the rules of the wire
    |   +-- LocalProtocolError   this side was about to: a bug or bad input here, nothing was sent
    |   +-- RemoteProtocolError  the peer did: the session ends and the peer is told why
    +-- MigrationError           no rule was broken, the migration ends all the same
        +-- PeerAborted          the peer said so, with a reason
        +-- AuthenticationFailed a side could not prove that it may take part
        +-- ConnectionLost       a connection ended before the closing exchange
        +-- MigrationCancelled   the user said so
        +-- GaveUp               precopy did not converge in the time that the user gave it
        +-- GuestFailed          the guest could not be started, or died
        +-- PolicyFailed         what a user wrote for a policy raised, or answered what cannot be
        |   +-- PolicySwitchedOff  the guest had moved, and the migration went on without it
        +-- WrongMemory          the guest, or the digest, found memory that must not be there
        +-- MemoryLost           the destination runs the guest, its memory can no longer come

Bytes from the peer raise nothing but `RemoteProtocolError`.  The shape follows h11's
`_util.py`.

Loads next to nothing: a process without a descriptor left cannot import any more.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

# What this machine, or a limit of its user's, has run out of, in a line.
_OPEN_FILES = "too many open files, raise the limit (ulimit -n)"
_MEMORY = "out of memory, or a limit on it is too low (ulimit -v)"
# A thread needs memory for its stack, and where that is missing the error is the same.
_THREADS = "no more threads or processes may be started, raise the limit (ulimit -u, or -v)"

_BY_NUMBER = {
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: "this machine has too many open files",
    errno.ENOMEM: _MEMORY,
}

# What the loader of shared libraries says of them, and what Python says of threads.
_BY_WORDS = {
    "Too many open files": _OPEN_FILES,
    "failed to map segment": _MEMORY,
    "annot allocate memory": _MEMORY,
    "can't start new thread": _THREADS,
}

# An error of an error of an error is told by the first that tells anything.
_DEPTH_MAX = 16


class MidstreamError(Exception):
    """Base of all errors that end a migration with one line on standard error.

    Attributes:
        exit_status: What the command exits with.
        cancelled: A user, of either side, wanted the migration to end or said when it should: the
            state that it ends in is `cancelled`, and not `failed`.
    """

    exit_status = 1
    cancelled = False


class ProtocolError(MidstreamError):
    """Base of the two protocol errors; never raised itself."""


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""


class MigrationError(MidstreamError):
    """The migration failed though both sides kept to the protocol."""


class PeerAborted(MigrationError):
    """The peer ended the migration and said why.

    Attributes:
        reason: In the peer's words.
    """

    def __init__(self, text: str, reason: str = "", *, cancelled: bool = False) -> None:
        """Say who it was, and why, and whether its user wanted it."""
        super().__init__(text)
        self.reason = reason
        self.cancelled = cancelled


class AuthenticationFailed(MigrationError):
    """One side has not proved, by a secret or a certificate, that it may take part."""


class ConnectionLost(MigrationError):
    """A connection ended, or stayed silent for too long, before the closing exchange.

    Attributes:
        channel: The role of the connection, empty where none is to blame.
    """

    def __init__(self, reason: str, channel: str = "") -> None:
        """Say which connection, and what became of it."""
        super().__init__(reason)
        self.channel = channel


class MigrationCancelled(MigrationError):
    """The user cancelled the migration (Ctrl-C, SIGTERM, SIGHUP or SIGQUIT)."""

    exit_status = 130
    cancelled = True


class GaveUp(MigrationError):
    """Precopy was still going on when the user's patience was over; the guest was not touched."""

    cancelled = True


class GuestFailed(MigrationError):
    """The guest's memory or its vCPUs could not be started, or a vCPU process died."""


class PolicyFailed(MigrationError):
    """A prefetcher or an order that a user wrote raised, or answered what cannot be."""


class PolicySwitchedOff(PolicyFailed):
    """It did so when the guest had moved: the migration has ended well, but not by that policy."""

    exit_status = 5


class WrongMemory(MigrationError):
    """A guest read or the closing digest found memory that is lost, stale or torn."""

    exit_status = 3


class MemoryLost(MigrationError):
    """The source is gone in postcopy: the destination holds the guest, but not all its memory."""

    exit_status = 4

    def __init__(self, reason: str, *, cancelled: bool = False) -> None:
        """Say what is lost and why, and whether a user wanted the migration to end."""
        super().__init__(reason)
        self.cancelled = cancelled


def shortage_of(error: BaseException | None) -> str:
    """Return what an error came of, if that is a shortage; empty if it is anything else."""
    for _ in range(_DEPTH_MAX):
        if error is None:
            break
        if isinstance(error, MemoryError):
            return _MEMORY
        if isinstance(error, OSError) and error.errno in _BY_NUMBER:
            return _BY_NUMBER[error.errno]
        if isinstance(error, (ImportError, RuntimeError)):
            for words, reason in _BY_WORDS.items():
                if words in str(error):
                    return reason
        error = error.__cause__ or error.__context__
    return ""


def is_cancellation(error: BaseException) -> bool:
    """Return whether a migration that an error ended was cancelled, and has not failed.

    What is no `Exception` ends a task from outside, as a cancelled scope does.
    """
    if isinstance(error, MidstreamError):
        return error.cancelled
    return not isinstance(error, Exception)


def reason_of(error: BaseException) -> str:
    """Return what a peer is told of why this side has failed."""
    if isinstance(error, MidstreamError):
        return str(error)
    return shortage_of(error) or str(error)


def root_cause(error: BaseException) -> BaseException:
    """Return the one error that says best why a group of tasks ended.

    When a migration fails, several tasks see it: one gets the peer's reason, another only that a
    connection is gone.  The most telling one is what the user should read.
    """
    leaves = list(_leaves(error))
    return min(leaves, key=_vagueness)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _vagueness(error: BaseException) -> int:
    """Return a rank: a bug first, so that none hides; a lost connection, which says least, last."""
    # Most telling first; an error counts as the nearest of its classes that is named here.
    order: tuple[type[BaseException], ...] = (
        Exception,
        # Whoever cancels must hear of it, too, and of where the guest is.
        MemoryLost,
        MigrationCancelled,
        # What ends a task from outside: a cancelled scope, an interrupt.
        BaseException,
        LocalProtocolError,
        RemoteProtocolError,
        WrongMemory,
        AuthenticationFailed,
        GuestFailed,
        PolicyFailed,
        PeerAborted,
        MidstreamError,
        ConnectionLost,
    )
    return next(order.index(kind) for kind in type(error).__mro__ if kind in order)


def as_loss(error: BaseException) -> BaseException:
    """Return the loss of the connection that brought what makes no sense; other errors as is.

    A bit that changes on its way can make a frame mean anything.  Where the guest lives half here
    and half there that costs no more than a break does, however often it comes: another connection
    may mend it, and only the time that a migration may stay paused ends it.
    """
    if not isinstance(error, RemoteProtocolError):
        return error
    return ConnectionLost(f"what came over the connections makes no sense: {error}")
