"""What processes take of their own is found for all that a command starts."""

import os
import subprocess
import sys

from scripts.figures import memory_use

HOLDER = """
import subprocess, sys, time
held = b"x" * (int(sys.argv[1]) << 20)
if sys.argv[2:]:
    subprocess.run([sys.executable, "-c", *sys.argv[2:]])
else:
    time.sleep(0.5)
"""


def test_peaks_of_all_processes_are_found() -> None:
    """A child of a child is watched, too, and its memory is not its parent's."""
    status, peaks = memory_use.watch([sys.executable, "-c", HOLDER, "8", HOLDER, "40"])
    assert status == 0
    assert len(peaks) == 2
    less, more = sorted(peaks.values())
    assert less > 8 << 20
    assert more > less + (20 << 20)


def test_a_process_that_is_gone_has_nothing() -> None:
    """Whoever ends while it is looked at has no memory and no name."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert memory_use.anonymous_bytes(child.pid) == 0
    assert memory_use.command_of(child.pid) == ""
    assert memory_use.descendants(child.pid) == [child.pid]
    assert os.getpid() in memory_use.descendants(os.getppid())
