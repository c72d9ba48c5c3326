"""Says in a line what this machine, or a limit of its user's, has run out of.

Loads next to nothing: a process without a descriptor left cannot import any more.
"""

from __future__ import annotations

import errno

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
