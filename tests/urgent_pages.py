"""Urgent pages without a gap, on a link of this host's in whose queue they go first.

    python -m tests.urgent_pages --seconds 60

migrates a guest whose vCPUs touch pages without pause, over a link that needs so long for all of
it, and prints what was sent without a background page between, and whether a connection was taken
for dead.  The precopy connection carries nothing meanwhile but signs of life, in the low band.
"""

from __future__ import annotations

import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import click

from scripts.figures.runs import run_migration
from scripts.links.spec import PFIFO_FAST

PAGE_BYTES = 2 << 20
RATE_BITS = 50_000_000
# Many enough that somebody always waits.
VCPU_COUNT = 8
# So long either side may be silent.
SILENCE_SECONDS_MAX = 2.0


class Told(NamedTuple):
    """What a run came to.

    Attributes:
        in_a_row: The most urgent pages that went without one of the background between.
        total: All pages that went.
        lost: Why connections were taken for lost.
        recoveries: How often it was resumed.
    """

    in_a_row: int
    total: int
    lost: list[str]
    recoveries: int


def run(page_count: int, policy: str = "ordered") -> Told:
    """Migrate so many huge pages of which nearly all are asked for, and that take their time.

    Raises:
        MigrationError: The run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        options = {
            "policy": policy, "size": str(page_count * PAGE_BYTES), "page-size": "2MiB",
            "backing": "base", "vcpus": str(VCPU_COUNT), "access-rate": "0", "write-ratio": "0",
            "postcopy-after": "0", "start-paused": "", "events": str(events),
            "keepalive-timeout": f"{SILENCE_SECONDS_MAX:g}s",
            "link": f"{RATE_BITS}bit/s,queue={PFIFO_FAST}",
        }  # fmt: skip
        report = run_migration(options, Path(folder))
        lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    sent = [bool(line["urgent"]) for line in lines if line["event"] == "page-sent"]
    rows = [len(list(group)) for urgent, group in groupby(sent) if urgent]
    lost = [line["reason"] for line in lines if line["event"] == "channel-lost"]
    return Told(max(rows, default=0), len(sent), lost, report["midstream"]["recoveries"])


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long all of it takes.")
@click.option("--policy", default="ordered", show_default=True, help="As in migrate.")
def main(seconds: float, policy: str) -> None:
    """Migrate for so long, and print what came of it."""
    page_bits = PAGE_BYTES * 8
    told = run(round(seconds * RATE_BITS / page_bits) + VCPU_COUNT, policy)
    click.echo(
        f"{told.in_a_row} of {told.total} pages in a row, "
        f"{told.in_a_row * page_bits / RATE_BITS:.1f} s of the link; "
        f"{len(told.lost)} connections lost {told.lost or ''}, {told.recoveries} recoveries"
    )


if __name__ == "__main__":
    main()
