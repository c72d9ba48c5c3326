"""`midstream relay`: stands between two QEMUs, passes everything on, and tells what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from guest.latency import summary_of
from protocol.channels import Channel
from protocol.errors import MidstreamError, MigrationError
from scripts.configure import outputs_of, parse_address
from scripts.named_files import Command, Use, file_option
from scripts.processes.dest_side import say_listening
from scripts.processes.sides import run_side
from scripts.qemu.configure import window_bytes
from scripts.relay.relay import Relay
from scripts.relay.steps import Step, read_relay_steps
from scripts.reports import Report
from scripts.screen.outlet import write_output
from scripts.screen.recorder import Recorder
from scripts.screen.words import time_us

SIDE = "relay"
SCHEMA = "midstream-relay/1"

# What a report names of the requests that nothing has answered.
_NAMED_MAX = 20


@click.command(cls=Command, report_schema=SCHEMA)
@click.option(
    "--listen", required=True, metavar="HOST:PORT",
    help="Where the source is to connect; port 0 picks one, `listening on HOST:PORT` tells which.",
)  # fmt: skip
@click.option(
    "--connect", required=True, multiple=True, metavar="HOST:PORT",
    help="Where the destination listens; may be repeated, for where it listens to recover.",
)  # fmt: skip
@file_option(
    "--steps", metavar="FILE", use=Use.READ, help="What is done to the connections, and when."
)
@click.option(
    "--socket-buffer", default="0", show_default=True, metavar="SIZE",
    help="What each connection's sockets may hold here, about; 0: as much as the kernel lets them.",
)  # fmt: skip
@file_option(
    "--report", metavar="FILE", use=Use.WRITE, help="Write what passed, in figures; - for here."
)
@file_option(
    "--events", metavar="FILE", use=Use.WRITE,
    help="Write what passes, a JSON object a line; - for standard output.",
)  # fmt: skip
@file_option("--perfetto", metavar="FILE", use=Use.WRITE, help="Write a trace for Perfetto.")
@file_option(
    "--save-accesses", metavar="FILE", use=Use.WRITE,
    help="Write the requests as a trace of accesses, for --accesses of compare.",
)  # fmt: skip
@file_option("--html", metavar="FILE", use=Use.WRITE, help="Write a page about the run.")
@click.option(
    "--serve", metavar="HOST:PORT",
    help="Show the run in a browser while it goes on; without a host, to this machine alone.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
@click.option("--verbose", is_flag=True, help="Log every state change.")
def relay(listen: str, connect: tuple[str, ...], **values: Any) -> None:  # noqa: ANN401 - click's
    """Stand between a source and a destination that are QEMUs, and see one migration through.

    Both channels and the return path pass; page runs, requests and their latency as seen here, and
    all messages are told. What cannot be read passes all the same.
    """
    host, port = parse_address(listen, "--listen")
    far = [parse_address(each, "--connect", port_min=1) for each in connect]
    outputs = outputs_of(values)
    steps = read_relay_steps(Path(values["steps"])) if values["steps"] is not None else ()
    window = window_bytes(values["socket_buffer"])
    relays: list[Relay] = []

    async def run(recorder: Recorder) -> tuple[Report, MidstreamError | None]:
        session = Relay(far, recorder, steps, window)
        relays.append(session)
        await session.run(host, port, say_listening(outputs))
        if values["save_accesses"] is not None:
            save_accesses(session, Path(values["save_accesses"]))
        return report_of(session), _undone(session.undone)

    def report_failure(status: str, reason: str) -> Report:
        told = report_of(relays[0]) if relays else {"schema": SCHEMA}
        return told | {"status": status, "reason": reason}

    run_side(SIDE, outputs, run, report_failure, line_of)


def report_of(relay: Relay) -> Report:
    """Return what has passed, in figures."""
    tracker = relay.tracker
    summary = summary_of(tracker.latencies_ns)
    geometry = tracker.geometry
    names = [block.name for block in geometry.blocks] if geometry is not None else []
    unanswered = [f"{names[page.block]}:{page.index}" for page in tracker.open_requests]
    return {
        "schema": SCHEMA,
        "status": tracker.state.value,
        "blocks": [
            {"name": block.name, "length-bytes": block.length_bytes, "page-bytes": block.page_bytes}
            for block in (geometry.blocks if geometry is not None else ())
        ],
        "requests": {
            "count": tracker.requested,
            "repeated": tracker.repeated,
            **{f"on-{channel.value}-channel": tracker.served[channel] for channel in Channel},
            "unanswered": unanswered[:_NAMED_MAX],
            "unanswered-count": len(unanswered),
        },
        "latency": {
            "count": summary.count, "p50-us": summary.p50_us, "p90-us": summary.p90_us,
            "p99-us": summary.p99_us, "max-us": summary.max_us,
            "measured": "from the request's passing here to that of the page's last byte; "
            "the guest waits longer",
        },
        "bytes": {
            **{channel.value: relay.carried[channel] for channel in Channel},
            "return-path": relay.returned_bytes,
        },
        "breaks": tracker.breaks,
        "unread": tracker.unread_count,
        "steps-not-done": [step.number for step in relay.undone],
    }  # fmt: skip


def save_accesses(relay: Relay, path: Path) -> None:
    """Write the requests as a trace of accesses (guest/trace.py), each when it passed.

    Which vCPU faulted cannot be seen from outside: one that waits makes no other request, so
    requests that were open at a time are of different ones.

    Raises:
        MidstreamError: It cannot be written.
    """
    geometry = relay.tracker.geometry
    lines = ["# Page requests between two QEMUs, from the switch-over on."]
    if geometry is not None:
        for at_ns, lane, page in relay.tracker.accesses:
            block = geometry.blocks[page.block]
            seconds, rest = divmod(at_ns, 10**9)
            address = page.index * block.page_bytes
            lines.append(f"@{seconds}.{rest:09} {lane} {block.name} {address:#x} r")
    try:
        write_output(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error


def line_of(report: Report) -> str:
    """Return a report in two lines, for a person."""
    requests, latency, carried = report["requests"], report["latency"], report["bytes"]
    text = (
        f"relayed: {report['status']}, {_megabytes(carried['precopy'])} on the precopy channel, "
        f"{_megabytes(carried['postcopy'])} on the postcopy channel, breaks: {report['breaks']}\n"
        f"page requests: {requests['count']}, unanswered: {requests['unanswered-count']}"
    )
    if latency["count"]:
        text += (
            f"; from one to the last byte of its page {time_us(latency['p50-us'])} (median), "
            f"at most {time_us(latency['max-us'])}, as seen here: the guest waits longer"
        )
    if report["unread"]:
        text += f"\npassed on unread in {report['unread']} places, see --events"
    return text + "\n"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _undone(steps: Sequence[Step]) -> MidstreamError | None:
    """Return what is wrong if steps were not done."""
    if not steps:
        return None
    listed = ", ".join(str(step.number) for step in steps)
    return MigrationError(f"the migration ended before these steps of --steps were due: {listed}")
