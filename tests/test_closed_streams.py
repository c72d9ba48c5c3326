"""Standard streams that a shell has closed, or that lead to a full device: one line at most."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import SECONDS_MAX, environment_of

SMALL = "--size=4MiB --page-size=4KiB"
NO_OUTPUT = "midstream: cannot write standard output: "


def shell(folder: Path, arguments: str, redirections: str) -> tuple[int, str, str]:
    """Run `midstream ARGUMENTS` by a shell; return its status and what it wrote to both streams."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -P -m scripts {arguments} {redirections}', sys.executable],
        cwd=folder,
        env=environment_of({}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "redirections", "status", "told"),
    [
        # Nothing is to be said, so nothing is missing.
        (f"migrate {SMALL} --quiet", ">&-", 0, ""),
        (f"migrate {SMALL} --quiet", "<&- >&- 2>&-", 0, ""),
        (f"migrate {SMALL} --quiet", "2>&-", 0, ""),
        # The result is to be printed, and cannot be.
        (f"migrate {SMALL}", ">&-", 1, f"{NO_OUTPUT}it is closed\n"),
        (f"migrate {SMALL}", "<&- >&- 2>&-", 1, ""),
        (f"migrate {SMALL}", ">/dev/full", 1, f"{NO_OUTPUT}No space left on device\n"),
        (f"migrate {SMALL} --report=-", ">&-", 1, f"{NO_OUTPUT}it is closed\n"),
        ("--help", ">/dev/full", 1, f"{NO_OUTPUT}No space left on device\n"),
        ("migrate --help", ">/dev/full", 1, f"{NO_OUTPUT}No space left on device\n"),
        ("--version", ">/dev/full", 1, f"{NO_OUTPUT}No space left on device\n"),
        # Nobody would learn the address.
        ("dest --listen=127.0.0.1:0", ">&-", 1, f"{NO_OUTPUT}it is closed\n"),
        ("dest --listen=127.0.0.1:0", ">/dev/full", 1, f"{NO_OUTPUT}No space left on device\n"),
        ("nonsense", "2>/dev/full", 2, ""),
        (
            "source --connect=-", "<&-", 2,
            "midstream: Invalid value for --connect: standard input is closed\n",
        ),
        (
            f"migrate {SMALL} --quiet --save=/dev/stdout", ">&-", 2,
            "midstream: Invalid value for --save: '/dev/stdout': is closed\n",
        ),
    ],
)  # fmt: skip
def test_the_status_is_right_and_the_reason_one_line(
    tmp_path: Path, arguments: str, redirections: str, status: int, told: str
) -> None:
    """Whatever of the three is closed or full, nothing hangs and nothing is left unsaid."""
    assert shell(tmp_path, arguments, redirections) == (status, "", told)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """What is said to standard error, which is closed, does not go into the events."""
    arguments = f"migrate {SMALL} --quiet --verbose --events=events --save=memory"
    assert shell(tmp_path, arguments, "<&- >&- 2>&-") == (0, "", "")
    lines = (tmp_path / "events").read_bytes().splitlines()
    assert lines
    assert all(line.startswith(b'{"t-ns":') and line.endswith(b"}") for line in lines)
    assert (tmp_path / "memory").stat().st_size == 4 << 20
