"""Digests of the files that a command reads."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from scripts import file_digests
from scripts.commands import midstream
from scripts.file_digests import digests_of, file_digest
from scripts.options import OPTIONS

TEXT = b"0 ram 0 r\n"
DIGEST = hashlib.sha256(TEXT).hexdigest()


def test_a_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    """So that anybody can say which file it was."""
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    told = subprocess.run(["sha256sum", path], stdout=subprocess.PIPE, check=True).stdout
    assert file_digest(path) == told.split()[0].decode()


def test_what_is_no_file_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither has a pipe, which would be read empty, nor a device, nor what is not there."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "missing", tmp_path, "/dev/zero", "a\0b"):
        assert file_digest(path) is None
    monkeypatch.setattr(file_digests, "_BYTES_MAX", len(TEXT) - 1)
    (tmp_path / "large").write_bytes(TEXT)
    assert file_digest(tmp_path / "large") is None


def test_files_are_found_by_their_options(tmp_path: Path) -> None:
    """A policy's, a trace behind its prefix, a script; neither secrets nor images nor results."""
    path = tmp_path / "mine.py"
    path.write_bytes(TEXT)
    values = {
        "policy": f"critical-first+{path}:x", "program": f"trace:{path}", "steps": str(path),
        "accesses": None, "secret_file": str(path), "tls_key": str(path), "image": str(path),
        "report": str(path), "save": str(path),
    }  # fmt: skip
    assert digests_of(OPTIONS, values) == dict.fromkeys(("policy", "program", "steps"), DIGEST)
    assert digests_of(OPTIONS, {"policy": "ordered", "program": "uniform", "steps": "/none"}) == {}


def test_each_of_several_has_its_own(tmp_path: Path) -> None:
    """In the order in which they were typed; null for one without a file."""
    path = tmp_path / "mine.py"
    path.write_bytes(TEXT)
    context = midstream.make_context("midstream", ["compare"])
    compare = midstream.get_command(context, "compare")
    assert compare is not None
    told = digests_of(compare.params, {"more": (f"{path}:x", "ordered"), "accesses": path})
    assert told == {"more": [DIGEST, None], "accesses": DIGEST}
