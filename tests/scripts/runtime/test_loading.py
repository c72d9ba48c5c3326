"""What a start is spared: threads that nobody uses, and searches for garbage."""

import contextlib
import gc
import subprocess
import sys

import pytest

from scripts.runtime.loading import loading
from tests.processes import environment_of

COUNT_THREADS = (
    "import os\n"
    "from scripts.runtime.loading import spare_threads\n"
    "spare_threads()\n"
    "import numpy\n"
    "print(len(os.listdir('/proc/self/task')), os.environ['OPENBLAS_NUM_THREADS'])\n"
)


@pytest.mark.parametrize(("given", "told"), [({}, "1 1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")])
def test_numpy_starts_no_threads_that_nobody_asked_for(given: dict[str, str], told: str) -> None:
    """One is enough, unless the user says otherwise."""
    environment = environment_of({})
    environment.pop("OPENBLAS_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-P", "-c", COUNT_THREADS], env={**environment, **given},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    # How many there are then is the number of processors' business, too.
    assert done.stdout.strip().endswith(told)


def test_nothing_is_collected_while_modules_load() -> None:
    """Afterwards everything is as before, also if a module cannot be loaded."""
    try:
        with contextlib.suppress(ImportError), loading():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
