"""`migrate` by a user without rights: files that it was given, and views of a run on a link.

Where tests run as root, commands run as a user who owns nothing, with files of root's: a pipe or a
file that a process was given works, though that user may open no path to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.processes import ROOT, SECONDS_MAX, environment_of

NOBODY = 65534
SMALL = ("--size=4MiB", "--page-size=4KiB", "--quiet")


def as_user(
    command: list[str], folder: Path, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as an ordinary user, its standard streams pipes of this process's user."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    path = [entry for entry in sys.path if entry]
    more = {"PYTHONPATH": os.pathsep.join(path), "HOME": str(folder)}
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        command,
        cwd=folder,
        env={**environment_of({}), **more},
        input=stdin or b"",
        capture_output=True,
        timeout=SECONDS_MAX,
        check=False,
        **user,  # type: ignore[call-overload]
    )
    return done


@cache
def interpreter() -> str:
    """Return a Python like this one that an ordinary user may run, empty if there is none."""
    number = "{}.{}".format(*sys.version_info)
    program = (
        f"import sys, trio, numpy; sys.exit(sys.version_info[:2] != ({number.replace('.', ',')}))"
    )
    with tempfile.TemporaryDirectory() as name:
        for candidate in (sys.executable, f"/usr/bin/python{number}"):
            try:
                if not as_user([candidate, "-P", "-c", program], Path(name)).returncode:
                    return candidate
            except OSError:
                continue
    return ""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder where anybody may write."""
    if not interpreter():
        pytest.skip("no Python of this version that an ordinary user may run")
    with tempfile.TemporaryDirectory(prefix="midstream-user-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def migrate(folder: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    """Migrate as an ordinary user; return what came to standard output."""
    done = as_user(
        [interpreter(), "-P", "-m", "scripts", "migrate", *SMALL, *arguments], folder, stdin
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_views_of_a_run_on_a_link(folder: Path) -> None:
    """Both sides leave their events in a file that they have no path to from their namespaces."""
    migrate(folder, "--link=1Gbit/s", "--html=page.html", "--perfetto=trace.json")
    assert "vCPU" in (folder / "page.html").read_text(encoding="utf-8")
    assert (folder / "trace.json").read_bytes().endswith(b"}")


@pytest.mark.parametrize("link", [(), ("--link=1Gbit/s",)])
def test_memory_in_and_out_through_pipes(folder: Path, link: tuple[str, ...]) -> None:
    """What standard input held is what comes out, though both are another user's pipes."""
    image = os.urandom(1 << 20)
    saved = migrate(
        folder, *link, "--write-ratio=0", "--image=/dev/stdin", "--save=/dev/stdout", stdin=image
    )
    assert saved == image + bytes((4 << 20) - len(image))


def test_events_on_standard_output(folder: Path) -> None:
    """Both sides' lines come, whole."""
    lines = migrate(folder, "--events=/dev/stdout").splitlines()
    assert {b'"side":"source"' in line for line in lines} == {True, False}
    assert all(line.startswith(b'{"t-ns":') and line.endswith(b"}") for line in lines)


def test_a_user_who_may_not_use_kvm_is_told_so(folder: Path) -> None:
    """Asking for it fails with one line; where nobody asks the report says why it is another."""
    command = [interpreter(), "-P", "-m", "scripts", "migrate", *SMALL]
    refused = as_user([*command, "--guest=kvm"], folder)
    if not refused.returncode:
        pytest.skip("any user may use KVM here")
    assert refused.returncode == 1
    (line,) = refused.stderr.decode().splitlines()
    assert line.startswith("midstream: --guest kvm: ")
    done = as_user([*command, "--guest=auto", "--report=report.json"], folder)
    assert done.returncode == 0, done.stderr.decode()
    report = (folder / "report.json").read_text(encoding="utf-8")
    reason = line.removeprefix("midstream: --guest kvm: ")
    assert f'"guest-reason": "kvm: {reason}' in report


def test_tests_need_no_place_to_keep_anything(folder: Path) -> None:
    """They run from a folder that cannot be written to, as a read-only checkout is one."""
    folder.chmod(0o555)
    test_file = ROOT / "tests" / "protocol" / "test_text.py"
    options = ("-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT)
    words = [interpreter(), "-P", "-m", "pytest", *map(str, options), str(test_file)]
    done = as_user(words, folder)
    assert done.returncode == 0, done.stdout.decode()
    assert not list(folder.iterdir())
