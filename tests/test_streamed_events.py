"""`--events -` is standard output: each line of it is an event, and no file has that name."""

import json

from tests.processes import LISTENING, Lab, Process, until

QUICK = ("--size=4MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=100")


def sides_of(process: Process) -> set[str]:
    """Return whose events a process has written to standard output; it has nothing else there."""
    lines = [json.loads(line) for line in process.output.splitlines()]
    assert {"state", "t-ns"} <= {key for line in lines for key in line}
    return {line["side"] for line in lines}


def test_both_sides_events_come_to_one_stream(lab: Lab) -> None:
    """`migrate` prints no table then; its report may be a file."""
    migrate = lab.run("migrate", *QUICK, "--events=-", "--report=report.json")
    assert migrate.wait() == 0, migrate.errors
    assert sides_of(migrate) == {"source", "dest"}
    assert not (lab.folder / "-").exists()
    report = json.loads((lab.folder / "report.json").read_text(encoding="utf-8"))
    assert report["status"] == "completed"


def test_a_shown_run_streams_too(lab: Lab) -> None:
    """Where what a side prints is caught, because the run is shown, its events are not."""
    migrate = lab.run("migrate", *QUICK, "--events=-", "--serve=127.0.0.1:0")
    assert migrate.wait() == 0, migrate.errors
    assert sides_of(migrate) == {"source", "dest"}


def test_each_side_by_itself(lab: Lab) -> None:
    """A destination tells its address on standard error then."""
    dest = lab.fork("dest", "--listen=127.0.0.1:0", "--events=-")
    until(lambda: dest.errors.endswith("\n"))
    assert dest.errors.startswith(LISTENING)
    source = lab.fork(
        "source", f"--connect={dest.errors.removeprefix(LISTENING).strip()}", *QUICK, "--events=-"
    )
    for process, side in ((source, "source"), (dest, "dest")):
        assert process.wait() == 0, process.errors
        assert sides_of(process) == {side}
    assert not (lab.folder / "-").exists()


def test_a_dash_is_no_file(lab: Lab) -> None:
    """Two streams would mix, and what is no stream would be a file of a name that nobody means."""
    for options, words in (
        (("--events=-", "--report=-"), "--report and --events name one file: '-'"),
        (("--html=-",), "a file of that name is ./-"),
        (("--perfetto=-",), "a file of that name is ./-"),
        (("--save=-",), "a file of that name is ./-"),
    ):
        lab.run("migrate", *options).fail(2, words)
    assert not (lab.folder / "-").exists()
