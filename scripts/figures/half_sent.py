"""How long the vCPU on the half-sent page waits, as the requests after its own grow in number.

    python -m scripts.figures.half_sent --link 1Gbit/s --requests 10,30 --picture growth.svg

Page 5 is a quarter sent when page 10 is requested, then page 11, then page 5 itself, and then so
many others that the queue never runs empty until the last of them is served.
"""

from __future__ import annotations

from pathlib import Path

import click

from protocol import events
from protocol.errors import MigrationError
from protocol.limits import VCPU_COUNT_MAX
from scripts.figures.runs import run_migration
from scripts.reports import write_report
from scripts.runtime.folders import temporary_folder
from scripts.screen.words import time_ms
from scripts.views.saved import read_all

_HALF_SENT, _FIRST = 5, 10
_PAGE_BYTES = 2 << 20


def write_steps(path: Path, requests: int) -> None:
    """Write the script of a trace with so many page requests, the third for the half-sent page."""
    others = [_FIRST + number for number in range(requests - 1)]
    faults = [others[1], _HALF_SENT, *others[2:]]
    path.write_text(
        f"[[step]]\nwhen = {{ page = {_HALF_SENT}, received = 0.25 }}\nfault = [{others[0]}]\n"
        f"[[step]]\nwhen = {{ requested = {others[0]} }}\nfault = {faults}\n",
        encoding="utf-8",
    )


def measure_wait_ms(policy: str, requests: int, link: str, background: str = "0") -> float:
    """Run a trace and return how long the vCPU on the half-sent page waited, in milliseconds.

    Args:
        policy: The policy's name.
        requests: How many page requests the trace has.
        link: The link's rate; on plain loopback pages come before anybody can ask for them.
        background: The limit of background pages.

    Raises:
        MigrationError: The run failed, or did not come to the case.
    """
    with temporary_folder("half-sent") as folder:
        write_steps(folder / "steps.toml", requests)
        run_migration(
            {
                "policy": policy,
                "size": str((_FIRST + requests + 8) * _PAGE_BYTES),
                "link": link,
                "max-postcopy-bandwidth": background,
                "program": "scripted",
                "vcpus": str(VCPU_COUNT_MAX),
                "postcopy-after": "0",
                "steps": str(folder / "steps.toml"),
                "events": str(folder / "events.jsonl"),
            },
            folder,
        )
        for event in read_all(folder / "events.jsonl"):
            if (event["event"], event.get("page")) == (events.VcpuWake.event, _HALF_SENT):
                wait_ms: float = event["latency-us"] / 1000
                return wait_ms
    raise MigrationError(f"page {_HALF_SENT} had come before a vCPU touched it")


@click.command()
@click.option(
    "--policies", default="drop,ordered,priority-by-channel", show_default=True, metavar="NAMES"
)
@click.option("--requests", default="10,30,100,300,1000", show_default=True, metavar="COUNTS")
@click.option("--link", default="1Gbit/s", show_default=True, metavar="RATE")
@click.option("--report", metavar="FILE", help="Write the waits as JSON; - for standard output.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw them: .png, .svg.")
def main(policies: str, requests: str, link: str, report: str | None, picture: Path | None) -> None:
    """Measure the wait of the vCPU on the half-sent page for traces of different lengths."""
    counts = [int(count) for count in requests.split(",")]
    waits_ms: dict[str, dict[int, float]] = {}
    for policy in policies.split(","):
        for count in counts:
            wait_ms = measure_wait_ms(policy, count, link)
            waits_ms.setdefault(policy, {})[count] = wait_ms
            click.echo(f"{policy:<20}{count:>6} requests{time_ms(wait_ms):>10}")
    if report is not None:
        write_report(report, {"link": link, "wait-ms": waits_ms})
    if picture is not None:
        from scripts.figures.plots import draw_growth, save  # noqa: PLC0415 - takes half a second

        save(draw_growth(waits_ms, f"{link} link, 2 MiB pages, the queue never empty"), picture)


if __name__ == "__main__":
    main()
