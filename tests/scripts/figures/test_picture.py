"""The picture of a run's channels."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from protocol.errors import LocalProtocolError
from scripts.figures.picture import draw, main, read_run
from scripts.figures.plots import save
from tests.processes import Lab


def told(event: str, ms: float, page: int, **fields: object) -> dict[str, object]:
    """Return one event of the source."""
    return {
        "t-ns": int(ms * 1e6), "side": "source", "event": event, "block": 0, "page": page, **fields
    }  # fmt: skip


BACKGROUND = {"channel": "precopy", "urgent": False, "boosted": False}
URGENT = {"channel": "postcopy", "urgent": True, "boosted": False}
BOOSTED = {"channel": "precopy", "urgent": True, "boosted": True}
EVENTS = [
    told("page-start", 0, 5, **BACKGROUND),
    told("page-request", 9, 9),
    told("preempt", 10, 5, **BACKGROUND),
    told("page-start", 10, 9, **URGENT),
    told("page-request", 12, 5),
    {"t-ns": 11_000_000, "side": "dest", "event": "vcpu-wait", "block": 0, "page": 5,
     "vcpu": 0},
    told("page-sent", 20, 9, **URGENT),
    told("page-start", 20, 5, **BOOSTED),
    told("page-sent", 30, 5, **BOOSTED),
    {"t-ns": 31_000_000, "side": "dest", "event": "vcpu-wake", "block": 0, "page": 5,
     "vcpu": 0, "latency-us": 20_000},
]  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file of events in which page 5 is preempted, waited for, and finished urgently."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return path


def test_bars_are_what_each_channel_carried(saved: Path) -> None:
    """Times count from the preemption; a page that was broken off has a bar for each part."""
    run = read_run("ordered", saved, 5)

    assert [
        (send.channel, send.page, send.kind, run.ms(send.start_ns), run.ms(send.end_ns))
        for send in run.history.sends
    ] == [
        ("precopy", 5, "background", -10, 0),
        ("postcopy", 9, "urgent", 0, 10),
        ("precopy", 5, "boosted", 10, 20),
    ]
    requests = run.history.requests
    assert [(each.page, run.ms(each.asked_ns)) for each in requests] == [(9, -1), (5, 2)]
    assert run.wait_ms == (1, 21)


def test_the_picture_says_all(saved: Path, tmp_path: Path) -> None:
    """It is well-formed, with every lane, the legend, the wait in words and the axis' unit."""
    figure = draw([read_run("ordered", saved, 5), read_run("again", saved, 5)], 5)
    save(figure, tmp_path / "picture.svg")

    words = {element.text for element in ET.parse(tmp_path / "picture.svg").iter() if element.text}
    assert {"background page", "requested page", "9", "5"} <= words
    assert {"ordered", "again", "precopy channel", "postcopy channel"} <= words
    assert "the vCPU on page 5 waits 20 ms" in words
    assert "since page 5 was interrupted" in words


@pytest.mark.parametrize("content", ["", "no json\n", "[]\n", '{"event": "state"}\n'])
def test_what_is_no_such_run_is_refused(tmp_path: Path, content: str) -> None:
    """A file without events, or without the case, is named in the error."""
    path = tmp_path / "events.jsonl"
    path.write_text(content)

    with pytest.raises(LocalProtocolError, match=r"events\.jsonl"):
        read_run("ordered", path, 5)


def test_the_command_writes_the_file(saved: Path, tmp_path: Path) -> None:
    """NAME=FILE gives a panel of that name."""
    out = tmp_path / "picture.svg"

    result = CliRunner().invoke(main, [f"ordered={saved}", "--page=5", f"--out={out}"])

    assert result.exit_code == 0
    assert "ordered" in out.read_text()


def test_the_scenarios_of_pictures_come_to_their_case(lab: Lab) -> None:
    """What the pictures of the README were drawn of can be run again."""
    scenarios = sorted((Path(__file__).parents[3] / "scripts" / "pictures").glob("*.toml"))
    assert [path.stem for path in scenarios] == ["half-sent-page", "html-timeline"]
    done = lab.run("inject", *scenarios)
    assert done.status == 0, done.output + done.errors
