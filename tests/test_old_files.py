"""Files of an earlier run: a run that is refused, or fails, leaves every one of them as it was.

But for a report, which says how the command ended that was asked for it.
"""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes import Lab, has_state, read_events, until

QUICK = ("--size=4MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=100")
SOURCE = ("source", "--connect={shut}", *QUICK)
DEST = ("dest", "--listen={taken}")
RELAY = ("relay", "--listen=127.0.0.1:0", "--connect={shut}")

# What is asked for in files.
FILES = {
    "good.toml": '[migration]\nsize = "4MiB"\n[expect]\nstatus = "completed"\n',
    "wrong.toml": "wrong = [\n",
    "pair.toml": "[dest]\nwrong = 1\n",
    "wrong.py": "wrong = [\n",
}

OLD = b"of yesterday\n"
LEFT = "nothing was migrated, and {path} is as it was"


class Refused(NamedTuple):
    """A command that comes to nothing: which option names the old file, and how it ends."""

    option: str
    status: int
    words: tuple[str, ...]


REFUSED = {
    "nobody listens: events": Refused("events", 1, SOURCE),
    "nobody listens: page": Refused("html", 1, SOURCE),
    "nobody listens: trace": Refused("perfetto", 1, SOURCE),
    "a port is taken: events": Refused("events", 1, DEST),
    "a port is taken: page": Refused("html", 1, DEST),
    "a port is taken: memory": Refused("save", 1, DEST),
    "a port is taken for a relay: events": Refused(
        "events", 1, ("relay", "--listen={taken}", "--connect={shut}")
    ),
    "a port is taken for a relay: accesses": Refused(
        "save-accesses", 1, ("relay", "--listen={taken}", "--connect={shut}")
    ),
    "a wrong option: events": Refused("events", 2, ("migrate", "--size=5")),
    "a wrong option: report": Refused("report", 2, ("migrate", "--size=5")),
    "a wrong option: memory": Refused("save", 2, ("migrate", "--size=5")),
    "a wrong option of a side: events": Refused("events", 2, (*SOURCE, "--policy=none-such")),
    "a wrong option of a comparison: page": Refused("html", 2, ("compare", "--size=5")),
    "a wrong option of a comparison: picture": Refused("picture", 2, ("compare", "--size=5")),
    "a wrong option of a comparison: report": Refused("report", 2, ("compare", "--size=5")),
    "a wrong option of a simulation: events": Refused("events", 2, ("simulate", "--size=5")),
    "a wrong option of a benchmark: report": Refused("report", 2, ("bench", "--runs=0")),
    "a wrong scenario: report": Refused("report", 2, ("inject", "{folder}/wrong.toml")),
    "a wrong scenario: folder": Refused("keep", 2, ("inject", "{folder}/wrong.toml")),
    "a wrong scenario between QEMUs: report": Refused(
        "report", 2, ("inject", "{folder}/pair.toml")
    ),
    "a wrong policy of scenarios: report": Refused(
        "report", 2, ("inject", "--policy={folder}/wrong.py:Nothing", "{folder}/good.toml")
    ),
    "wrong steps of a relay: report": Refused("report", 2, (*RELAY, "--steps={folder}/wrong.toml")),
    "wrong steps of a relay: events": Refused("events", 2, (*RELAY, "--steps={folder}/wrong.toml")),
    "wrong steps of a relay: accesses": Refused(
        "save-accesses", 2, (*RELAY, "--steps={folder}/wrong.toml")
    ),
    "a policy of one's own: report": Refused(
        "report", 2, ("migrate", *QUICK, "--policy={folder}/wrong.py:Nothing")
    ),
    "a policy of one's own: memory": Refused(
        "save", 2, ("migrate", *QUICK, "--policy={folder}/wrong.py:Nothing")
    ),
    "a model: report": Refused("report", 2, ("simulate", *QUICK, "--model={folder}/wrong.toml")),
    "no link to calibrate on: model": Refused("out", 2, ("calibrate", "--link=0")),
    "no events to show: page": Refused("html", 2, ("report", "/nowhere/events")),
    "no events to show: trace": Refused("perfetto", 2, ("report", "/nowhere/events")),
    "no reports to list: table": Refused("csv", 2, ("report", "/nowhere/report")),
    "nothing to import: accesses": Refused(
        "out", 2, ("trace", "import", "--from=csv", "/nowhere/trace")
    ),
}


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """Return one at which somebody listens already, and one at which nobody does."""
    with socket.socket() as taken, socket.socket() as shut:
        for each in (taken, shut):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        yield {
            "taken": f"127.0.0.1:{taken.getsockname()[1]}",
            "shut": f"127.0.0.1:{shut.getsockname()[1]}",
        }


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_old_files(lab: Lab, addresses: dict[str, str], case: str) -> None:
    """Not a byte changes, nothing lies beside it, and what was left of a run that began is said."""
    option, status, words = REFUSED[case]
    folder = lab.folder / "files"
    folder.mkdir()
    path = folder / "old"
    path.write_bytes(OLD)
    for name, text in FILES.items():
        (lab.folder / name).write_text(text, encoding="utf-8")
    typed = [word.format(**addresses, folder=lab.folder) for word in words]
    process = lab.run(*typed, f"--{option}={path}")
    assert process.wait() == status, process.errors
    assert path.read_bytes() == OLD
    assert [each.name for each in folder.iterdir()] == ["old"]
    says_so = status == 1 and option in {"events", "html", "perfetto"}
    assert (LEFT.format(path=path) in process.errors) == says_so, process.errors


def test_what_is_refused_says_so_in_new_files(lab: Lab, addresses: dict[str, str]) -> None:
    """Where there is nothing to lose, events and a page tell of what did not come to anything."""
    folder = lab.folder
    source = [word.format(**addresses) for word in SOURCE]
    lab.run(*source, f"--events={folder / 'events'}", f"--html={folder / 'page'}").fail(1)
    told = read_events(folder / "events", "state", "source")
    assert [event["state"] for event in told] == ["failed"]
    assert b"<html" in (folder / "page").read_bytes()


def test_a_run_that_began_takes_the_place_of_an_earlier_one(lab: Lab) -> None:
    """Of both sides all that was told is there, and nothing of yesterday."""
    folder = lab.folder
    for name in ("events", "page", "trace"):
        (folder / name).write_bytes(OLD)
    lab.run(
        "migrate", *QUICK, "--quiet", f"--events={folder / 'events'}", f"--html={folder / 'page'}",
        f"--perfetto={folder / 'trace'}",
    ).succeed()  # fmt: skip
    for side in ("source", "dest"):
        assert len(read_events(folder / "events", "run", side)) == 1
        states = [event["state"] for event in read_events(folder / "events", "state", side)]
        assert states == ["setup", "active", "device", "postcopy-active", "completed"]
    for name in ("events", "page", "trace"):
        assert OLD not in (folder / name).read_bytes()


def test_both_sides_leave_old_events_if_nothing_begins(lab: Lab) -> None:
    """Cancelled while the guest's memory is being filled, which may take as long as it likes."""
    events, image = lab.folder / "events", lab.folder / "image"
    events.write_bytes(OLD)
    os.mkfifo(image)
    process = lab.start("migrate", "--size=4MiB", f"--image={image}", f"--events={events}")
    writer = until(lambda: _opened(image))
    try:
        process.signal(signal.SIGINT)
        assert process.wait() == 130, process.errors
    finally:
        os.close(writer.pop())
    assert events.read_bytes() == OLD
    assert process.errors.count(LEFT.format(path=events)) == 1, process.errors


def _opened(fifo: Path) -> list[int]:
    """Return the end for writing as soon as the source reads the other, nothing before."""
    try:
        return [os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)]
    except OSError:
        return []


def test_what_fails_later_has_its_own_events(lab: Lab) -> None:
    """They say how far it came; an earlier run's would only mislead who looks for that."""
    events = lab.folder / "events"
    events.write_bytes(OLD)
    process = lab.start(
        "migrate", *QUICK, "--quiet", "--max-bandwidth=10kB/s", f"--events={events}",
    )  # fmt: skip
    until(lambda: OLD not in events.read_bytes() and has_state(events, "active", "source"))
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.errors
    assert "as it was" not in process.errors
    last = read_events(events, "state", "source")[-1]
    assert last["state"] == "cancelled"
