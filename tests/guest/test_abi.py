"""The kernel's numbers are those of its headers, and of this kernel."""

import os
import re
from pathlib import Path

import pytest

from guest import abi

HEADERS = [Path("/usr/include/linux") / name for name in ("userfaultfd.h", "fs.h", "mman.h")] + [
    Path("/usr/include/asm-generic/mman-common.h")
]


def test_every_constant_is_the_headers() -> None:
    """What a header of this machine defines as a number or a shifted one has the same value."""
    text = "".join(path.read_text("utf-8") for path in HEADERS if path.exists())
    number = r"\(*(?:\(__u64\))?\s*(0x\w+|\d+)\s*(?:<<\s*(\d+))?"
    defined = re.findall(rf"^\s*#\s*define\s+(\w+)\s+{number}", text, re.MULTILINE)
    values = {name: int(value, 0) << int(shift or 0) for name, value, shift in defined}
    # The rest of it (UFFDIO_API, PAGEMAP_SCAN) is made by a formula.
    ours = {name: value for name, value in vars(abi).items() if isinstance(value, int)}
    common = {name for name in ours.keys() & values.keys() if not name.startswith("UFFDIO_API")}
    if not common:
        pytest.skip("no kernel headers (linux-libc-dev) here")
    assert {name: ours[name] for name in common} == {name: values[name] for name in common}


def test_features_have_their_kernel_names() -> None:
    """Each feature bit is one bit with one name."""
    assert abi.FEATURE_NAMES[abi.UFFD_FEATURE_WP_ASYNC] == "WP_ASYNC"
    assert all(bit.bit_count() == 1 for bit in abi.FEATURE_NAMES)


def test_this_machine_has_a_number_for_the_call() -> None:
    """The machine that tests run on is one of those in the table."""
    assert os.uname().machine in abi.SYS_USERFAULTFD
