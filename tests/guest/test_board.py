"""Both sides see one board, and the dirty log loses nothing."""

import os
import threading

import numpy as np
import pytest

from guest.board import Board, VcpuCounters
from guest.latency import add_latencies
from protocol.errors import GuestFailed
from protocol.geometry import Geometry, RamBlock
from tests.bounds import open_files


def test_both_sides_see_the_same_board(geometry: Geometry) -> None:
    """Every part that one side writes the other reads, and no two parts overlap."""
    engine = Board.create(geometry, 3)
    vcpus = Board.attach(geometry, 3, os.dup(engine.fd))
    parts = ("generation", "vcpu_words", "latency_bins", "dirty", "present")
    for value, part in enumerate(parts, 1):
        assert not getattr(engine, part).any()
        getattr(engine, part)[...] = value
    for value, part in enumerate(parts, 1):
        assert (getattr(vcpus, part) == value).all()
    assert vcpus.dirty.shape == vcpus.present.shape == (1040,)
    vcpus.close()
    engine.close()
    engine.close()


def test_harvest_takes_each_page_once(geometry: Geometry) -> None:
    """Written pages come out ascending, as flat numbers, and are clean afterwards."""
    board = Board.create(geometry, 1)
    board.dirty[[5, 1039, 0]] = 1
    assert board.harvest_dirty().tolist() == [0, 5, 1039]
    assert board.harvest_dirty().tolist() == []


def test_harvest_keeps_a_mark_that_is_set_meanwhile(
    geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is marked while others are being taken waits for the next harvest."""
    board = Board.create(geometry, 1)
    board.dirty[5] = 1
    flatnonzero = np.flatnonzero

    def look_and_be_overtaken(array: np.ndarray) -> np.ndarray:
        found = flatnonzero(array)
        board.dirty[6] = 1
        return found

    monkeypatch.setattr(np, "flatnonzero", look_and_be_overtaken)
    assert board.harvest_dirty().tolist() == [5]
    monkeypatch.undo()
    assert board.harvest_dirty().tolist() == [6]


def test_copying_what_is_harvested_keeps_a_copy_up_to_date() -> None:
    """While another thread writes and marks, harvest-then-copy never misses the last write."""
    page_count = 500
    board = Board.create(Geometry((RamBlock("ram", page_count * 4096, 4096),)), 1)
    memory, copy = [0] * page_count, [0] * page_count
    marks = board.dirty.data

    def write() -> None:
        pages = np.random.default_rng(1).integers(0, page_count, 100_000).tolist()
        for value, page in enumerate(pages, 1):
            memory[page] = value
            marks[page] = 1

    writer = threading.Thread(target=write)
    writer.start()
    is_writing = True
    while is_writing:
        is_writing = writer.is_alive()
        for page in board.harvest_dirty().tolist():
            copy[page] = memory[page]
    assert copy == memory


def test_presence_is_set_by_slice_and_by_number(geometry: Geometry) -> None:
    """A placed page is one slice; a list of pages works as well."""
    board = Board.create(geometry, 1)
    board.set_present(slice(512, 1024))
    board.set_present(np.array([1, 3]))
    board.clear_present(slice(600, 1024))
    board.clear_present(np.array([512]))
    assert np.flatnonzero(board.present).tolist() == [1, 3, *range(513, 600)]


def test_counters_are_each_vcpus_own(geometry: Geometry) -> None:
    """A vCPU's words come out by name."""
    board = Board.create(geometry, 2)
    board.vcpu_words[1, :5] = [10, 7, 3, 2, 1]
    assert board.counters(0) == VcpuCounters()
    assert board.counters(1) == VcpuCounters(10, 7, 3, 2, 1)


def test_accesses_of_all_vcpus_are_added(geometry: Geometry) -> None:
    """One histogram speaks for the guest."""
    board = Board.create(geometry, 2)
    add_latencies(board.latency_bins[0], [1000, 2000])
    add_latencies(board.latency_bins[1], [5_000_000])
    assert board.accesses().get_total_count() == 3
    assert board.accesses().get_max_value() == pytest.approx(5_000_000, rel=0.001)


def test_a_board_that_cannot_be_made_is_refused() -> None:
    """The kernel's refusal becomes one line, and nothing stays open."""
    before = open_files()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: os.truncate("/missing", 0))
        with pytest.raises(GuestFailed, match="board"):
            Board.create(Geometry((RamBlock("ram", 4096, 4096),)), 1)
    assert open_files() - before == set()
