"""Which files saving a guest makes, and what is found out before there is a guest."""

import os
from pathlib import Path

import pytest

from guest.save_names import has_map, names, partial_names, try_to_save

MAP = b'{"schema": "midstream-missing/1"}'


def test_all_names_are_known(tmp_path: Path) -> None:
    """Whole or in part, beside a whole one or not: no other name is ever written."""
    assert [path.name for path in names(tmp_path / "f")] == [
        "f", "f.missing.json", "f.partial", "f.partial.missing.json",
    ]  # fmt: skip


def test_a_part_goes_where_no_whole_guest_is(tmp_path: Path) -> None:
    """Nothing, an empty file and another part are no guest that is worth keeping."""
    file, beside = tmp_path / "f", tmp_path / "f.missing.json"
    assert partial_names(file) == [file, beside]
    file.touch()
    assert partial_names(file) == [file, beside]
    file.write_bytes(b"whole")
    assert partial_names(file) == [
        tmp_path / "f.partial", tmp_path / "f.partial.missing.json",
    ]  # fmt: skip
    beside.write_bytes(MAP)
    assert partial_names(file) == [file, beside]


def test_a_map_lies_beside_files_and_named_pipes_only(tmp_path: Path) -> None:
    """The folders of devices and descriptors are no place for it."""
    os.mkfifo(tmp_path / "fifo")
    assert has_map(tmp_path / "fifo")
    assert has_map(tmp_path / "new")
    reader, writer = os.pipe()
    try:
        assert partial_names("/dev/null") == [Path("/dev/null")]
        assert partial_names(f"/dev/fd/{writer}") == [Path(f"/dev/fd/{writer}")]
        assert not has_map(Path(f"/proc/self/fd/{reader}"))
    finally:
        os.close(reader)
        os.close(writer)


def test_a_descriptor_of_a_file_is_that_file(tmp_path: Path) -> None:
    """`--save /dev/stdout > f` has its map beside f."""
    with (tmp_path / "f").open("wb") as file:
        name = Path(f"/dev/fd/{file.fileno()}")
        assert partial_names(name) == [name, tmp_path / "f.missing.json"]


def test_trying_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """Neither a new file nor a byte of an old one comes of it."""
    (tmp_path / "old").write_bytes(b"old")
    try_to_save(tmp_path / "new")
    try_to_save(tmp_path / "old")
    try_to_save("/dev/full")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_what_cannot_be_made_is_found_at_once(tmp_path: Path) -> None:
    """A folder that is missing or takes no files."""
    for path in (tmp_path / "no" / "f", Path("/proc/f")):
        with pytest.raises(OSError, match=r"."):
            try_to_save(path)
