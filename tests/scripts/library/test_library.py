"""`import midstream`: commands as functions, wherever Python runs, and results as data."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Unpack, get_type_hints

import click
import numpy as np
import pandas as pd
import pytest
import trio

import midstream
from scripts.commands import midstream as commands
from tests.processes import ROOT, SECONDS_MAX, Lab, until
from tests.reports import expect_valid

EXAMPLES = ROOT / "scripts" / "examples"


def small(**more: Unpack[midstream.MigrateOptions]) -> midstream.MigrateOptions:
    """Return the options of a migration that is soon over."""
    return {
        "size": "4MiB", "page_size": "4KiB", "vcpus": 1, "access_rate": 100, "seed": 3, **more,
    }  # fmt: skip


def test_a_migration_is_a_call() -> None:
    """Its report is the command's; a row of it is a row of a table; events are columns."""
    report = midstream.migrate(**small(policy="drop", start_paused=False, events=True))
    expect_valid(report.data)
    assert (report.status, report.reason, report.verified) == ("completed", "", True)
    assert report.options["seed"] == 3
    assert report.downtime_ms == report.own["downtime-ms"]
    frame = pd.DataFrame([report.row(run=1), report.row(run=2)])
    assert frame["policy"].tolist() == ["drop", "drop"]
    assert frame["option.size-bytes"].tolist() == [4 << 20, 4 << 20]
    assert report.events is not None
    assert report.events["t-ns"].dtype == np.int64
    assert len({len(column) for column in report.events.values()}) == 1
    events = pd.DataFrame(report.events)
    assert {"source", "dest"} <= set(events["side"])
    assert (events["event"] == "vcpu-wake").sum() == report.faults["count"]


def test_what_fails_raises_or_is_reported(tmp_path: Path) -> None:
    """The reason is the command's; a wrong option raises whatever was asked."""
    image = tmp_path / "image"
    image.write_bytes(bytes(8 << 20))
    with pytest.raises(midstream.RunFailed, match="do not fit") as wrong:
        midstream.migrate(check=False, **small(image=image))
    assert (wrong.value.exit_status, wrong.value.report) == (2, None)
    full = midstream.migrate(check=False, **small(html="/dev/full"))
    assert full.status == "failed"
    assert "No space left" in full.reason
    with pytest.raises(midstream.RunFailed, match="No space left") as failed:
        midstream.migrate(**small(html="/dev/full"))
    assert failed.value.exit_status == 1
    assert failed.value.report is not None


def test_a_comparison_is_a_mapping() -> None:
    """By policy its report, and every fault's latency."""
    compared = midstream.compare("ordered", "split", size="8MiB", vcpus=1)
    assert list(compared) == ["ordered", "split"]
    expect_valid(compared.data)
    report = compared["split"]
    assert len(compared.latencies_us("split")) == report.faults["count"]
    assert pd.DataFrame(compared.rows())["row"].tolist() == ["ordered", "split"]


_FAILS_LATER = """
from source.scheme import Prefetcher, Scheme

class Late(Prefetcher):
    def sent(self, page, channel):
        raise ValueError("not today")

late = Scheme("late", prefetcher=Late)
"""


def test_a_comparison_has_all_runs(tmp_path: Path) -> None:
    """Latencies of every repeat, not of the first; a run that failed, where it is let through."""
    mine = tmp_path / "mine.py"
    mine.write_text(_FAILS_LATER, encoding="utf-8")
    policies = ("ordered", f"{mine}:late")
    options: midstream.CompareOptions = {"size": "4MiB", "vcpus": 1, "repeats": 2}
    compared = midstream.compare(*policies, check=False, **options)
    expect_valid(compared.data)
    counts = [report.faults["count"] for report in compared.runs("ordered")]
    assert len(counts) == 2
    assert len(compared.latencies_us("ordered")) == sum(counts)
    assert compared.latencies_us("late") == []
    failures = [(each["row"], each["number"], each["exit-status"]) for each in compared.failures]
    assert failures == [("late", 1, 5), ("late", 2, 5)]
    assert [row.get("exit-status") for row in compared.rows()] == [None, None, 5, 5]
    with pytest.raises(midstream.RunFailed, match="2 of 2 runs did not end well") as failed:
        midstream.compare(policies[1], **options)
    assert failed.value.exit_status == 5
    assert failed.value.report is not None
    once = midstream.migrate(check=False, **small(policy=policies[1], postcopy_after=0))
    assert (once.status, once.verified) == ("completed", True)
    assert "not today" in once.reason


def test_an_injection_tells_what_was_not_as_expected(tmp_path: Path) -> None:
    """A scenario of the tree is met; one that expects something else is not, and says what."""
    scenario = ROOT / "tests" / "scenarios" / "blocks.toml"
    found = midstream.inject(scenario)
    assert (found.met, found.failures) == (True, [])
    wrong = tmp_path / "wrong.toml"
    text = scenario.read_text(encoding="utf-8").partition("[expect]")[0]
    wrong.write_text(f"{text}[expect]\nrecoveries = 7\n", encoding="utf-8")
    found = midstream.inject(scenario, wrong)
    assert not found.met
    assert [(failure["what"], failure["expected"]) for failure in found.failures] == [
        ("recoveries", "7")
    ]
    assert len(found.rows()) == 2
    wrong.write_text("[migration]\nsize = 1\n", encoding="utf-8")
    with pytest.raises(midstream.RunFailed):
        midstream.inject(wrong)


def test_it_works_in_loops_that_run() -> None:
    """In asyncio's as in Trio's, directly and in a thread of theirs."""

    async def in_asyncio() -> list[str]:
        direct = midstream.migrate(**small())
        threaded = await asyncio.to_thread(midstream.migrate, **small())
        return [direct.status, threaded.status]

    async def in_trio() -> str:
        return midstream.migrate(**small()).status

    assert asyncio.run(in_asyncio()) == ["completed", "completed"]
    assert trio.run(in_trio) == "completed"


def test_nothing_is_left_of_a_call_that_is_interrupted(lab: Lab) -> None:
    """A notebook interrupts its own process: both sides end with the call."""
    script = lab.folder / "slow.py"
    script.write_text(
        "import midstream\n"
        "midstream.migrate(size='64MiB', max_bandwidth='10kB/s', access_rate=1)\n",
        encoding="utf-8",
    )
    process = lab.start(program=(str(script),))
    pid = lab.pid_of("scripts source")
    process.signal(signal.SIGINT)
    process.wait()
    assert "KeyboardInterrupt" in process.errors
    until(lambda: not Path(f"/proc/{pid}").exists())
    lab.expect_nobody()


@pytest.mark.parametrize("command", ["migrate", "compare"])
def test_every_option_has_a_type(command: str) -> None:
    """An option that is added is one of the library's, but for what a person alone needs."""
    kinds = {"migrate": midstream.MigrateOptions, "compare": midstream.CompareOptions}
    known = commands.get_command(click.Context(commands), command)
    assert known is not None
    own = {
        "migrate": {"report", "quiet", "verbose", "serve", "serve_after"},
        "compare": {"report", "policies", "more"},
    }
    names = {parameter.name for parameter in known.params}
    assert set(get_type_hints(kinds[command])) == names - own[command]


def test_what_is_public_is_told_and_typed() -> None:
    """All that the module names is there, has a docstring, and the package says it is typed."""
    for name in midstream.__all__:
        assert name == "__version__" or getattr(midstream, name).__doc__, name
    assert resources.files("midstream").joinpath("py.typed").is_file()
    assert midstream.schema()["$defs"]
    assert midstream.__version__[0].isdigit()


@pytest.mark.parametrize(
    ("example", "arguments", "words"),
    [
        ("links", ["2MiB", "links.png"], ["critical-first", "400Mbit/s"]),
        ("events", ["2MiB"], ["queue-us"]),
        ("in_a_loop", ["2MiB"], ["vanilla completed", "the loop went on: True"]),
    ],
)
def test_examples_do_what_they_say(
    tmp_path: Path, example: str, arguments: list[str], words: list[str]
) -> None:
    """Each runs as it stands, on small guests; what draws leaves its picture."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{example}.py", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS_MAX * 4, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
    for picture in (argument for argument in arguments if argument.endswith(".png")):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
