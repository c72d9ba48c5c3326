"""Loads modules fast: what a command waits for most is its own modules and those of libraries."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator


def spare_threads() -> None:
    """Let this process and its children have no threads that nobody uses; before all imports.

    NumPy's linear algebra, which nobody calls, else starts one for every processor as it loads, and
    each of them first spins for a while.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Load modules in this block without a search for garbage.

    They make tens of thousands of objects and drop few; nothing else ends a search for what is
    dropped sooner than not to begin it.  What they have made is left out of later searches, too: it
    stays, and to look at all of it would hold a migration up for milliseconds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
