"""A recording is read from events or from a trace, and its pages are found in the guest."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.pageset import PageSet
from scripts.policies import WrongPolicy, policy_of
from scripts.traces.recording import recorded
from source.guarding import GuardedPrefetcher
from source.scheme import Remaining, Scheme

GEOMETRY = Geometry((RamBlock("ram", 64 << 20, 2 << 20), RamBlock("rom", 1 << 20, 4096)))


def replayed(scheme: Scheme, geometry: Geometry = GEOMETRY) -> list[tuple[int, int]]:
    """Return the pages that a scheme's prefetcher picks for a guest of which all remains."""
    assert scheme.prefetcher is not None
    prefetcher = GuardedPrefetcher(scheme.name, scheme.prefetcher)
    pages = PageSet(geometry)
    pages.fill()
    prefetcher.restart(geometry, Remaining(pages))
    found = []
    while (pick := prefetcher.next(Remaining(pages))) is not None:
        found.append(tuple(pick.page))
        pages.remove(geometry.page_span(pick.page))
    assert not prefetcher.failure, prefetcher.failure
    return [(block, index) for block, index in found]


def event(kind: str, **fields: Any) -> str:  # noqa: ANN401 - as events have them
    """Return a line of an events file."""
    return json.dumps({"t-ns": 5, "side": "dest", "event": kind, **fields}) + "\n"


EVENTS = (
    event("ram-block", block=0, name="ram", **{"length-bytes": 64 << 20, "page-bytes": 2 << 20})
    + event("ram-block", block=1, name="rom", **{"length-bytes": 1 << 20, "page-bytes": 4096})
    + event("vcpu-wait", vcpu=0, block=0, page=7, **{"fault-ns": 1})
    + event("vcpu-wait", vcpu=1, block=1, page=9, **{"fault-ns": 2})
    + event("vcpu-wait", vcpu=0, block=0, page=7, **{"fault-ns": 3})
    + event("vcpu-wait", vcpu=0, block=0, page=3, **{"fault-ns": 4})
)


def test_the_waits_of_a_run_are_its_recording(tmp_path: Path) -> None:
    """Each page once, in the order of the faults; in pages of another size, too."""
    path = tmp_path / "run.jsonl"
    path.write_text(EVENTS, encoding="utf-8")
    assert replayed(recorded(str(path))) == [(0, 7), (1, 9), (0, 3)]
    small = Geometry((RamBlock("ram", 64 << 20, 4096), RamBlock("rom", 1 << 20, 4096)))
    assert replayed(recorded(str(path)), small) == [(0, 7 * 512), (1, 9), (0, 3 * 512)]


def test_a_trace_is_a_recording(tmp_path: Path) -> None:
    """Of pages or addresses, with times or without."""
    path = tmp_path / "trace"
    path.write_text("# a trace\n0 ram 5 r\n1 rom 0x3000 w\n0 ram 0x400000 r\n", encoding="utf-8")
    scheme = policy_of(f"recorded={path}")
    assert isinstance(scheme, Scheme)
    assert (scheme.name, scheme.locality) == ("recorded", False)
    assert replayed(scheme) == [(0, 5), (1, 3), (0, 2)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (EVENTS.replace('"page": 9', '"page": 999'), "run:4: page 999 is outside RAMBlock 'rom'"),
        (EVENTS + "{nonsense}\n", "run:7: "),
        ("", "run: nothing in it tells of a page"),
        (event("guest-run"), "run: nothing in it tells of a page"),
        ("ram five\n", "run:1: 'five' is not PAGE"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """With its line, before anything runs."""
    path = tmp_path / "run"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WrongPolicy) as error:
        policy_of(f"recorded={path}")
    assert reason in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """And so is a name without one."""
    with pytest.raises(WrongPolicy, match="No such file"):
        policy_of(f"recorded={tmp_path / 'none'}")
    with pytest.raises(WrongPolicy, match="write recorded=FILE"):
        policy_of("recorded")


def test_a_recording_of_another_guest_is_refused(tmp_path: Path) -> None:
    """Where it is known which guest it is: before that has moved."""
    path = tmp_path / "trace"
    path.write_text("0 other 5 r\n", encoding="utf-8")
    scheme = recorded(str(path))
    assert scheme.prefetcher is not None
    prefetcher = scheme.prefetcher()
    with pytest.raises(LocalProtocolError, match="of another guest: no RAMBlock is named 'other'"):
        prefetcher.restart(GEOMETRY, Remaining(PageSet(GEOMETRY)))
