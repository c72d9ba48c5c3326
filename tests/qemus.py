"""The real QEMUs that tests can start: the one on PATH, and another that is named to them.

`MIDSTREAM_TEST_QEMU=FILE` names it, for tests about a version which the one on PATH is not.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess

import pytest

from guest import libc
from scripts.qemu.command import PROGRAM

VARIABLE = "MIDSTREAM_TEST_QEMU"


@functools.cache
def version_of(program: str) -> int:
    """Return a QEMU's major version, 0 if there is no such program."""
    if shutil.which(program) is None:
        return 0
    told = subprocess.run([program, "--version"], capture_output=True, check=True, text=True)
    match = re.search(r"version ([0-9]+)\.", told.stdout)
    assert match is not None, told.stdout
    return int(match[1])


def need_qemu() -> int:
    """Return the version of the one on PATH; skip a test where there is none."""
    version = version_of(PROGRAM)
    if not version:
        pytest.skip(f"{PROGRAM} is not installed")
    return version


def need_dest() -> int:
    """Return the version of the one on PATH; skip a test where it can be no destination."""
    version = need_qemu()
    try:
        # As 7.2 asks for it: for faults in the kernel, too.
        os.close(libc.userfaultfd(os.O_CLOEXEC))
    except OSError as error:
        pytest.skip(f"no postcopy into a QEMU of this user's: {error} (unprivileged_userfaultfd)")
    return version


def qemu_of(first: int, last: int) -> str:
    """Return one of a version from the first to the last; skip a test where there is none."""
    need_dest()
    there = {program: version_of(program) for program in (PROGRAM, os.environ.get(VARIABLE, ""))}
    for program, version in there.items():
        if first <= version <= last:
            return program
    found = " and ".join(str(version) for version in there.values() if version)
    about = str(first) if first == last else f"{first} and later"
    pytest.skip(
        f"this is about QEMU {about}, and here is {found} ({VARIABLE} may name another)"
        if found
        else f"{PROGRAM} is not installed"
    )
