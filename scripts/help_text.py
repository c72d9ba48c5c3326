"""Help of every command: its options in sections, and examples that can be typed as they stand."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem

# The sections of a command's help, in their order.
GUEST = "Guest"
MIGRATION = "Migration"
RUNS = "Runs"
ACCESS = "Security"
OUTPUT = "Output"
OTHER = "Other options"
SECTIONS = (GUEST, MIGRATION, RUNS, ACCESS, OUTPUT, OTHER)

# Of options that `scripts.options` does not have, or that mean another thing in some command.
_SECTION_OF = {
    **dict.fromkeys(
        ("accesses", "accel", "base", "pack", "block", "column", "event", "step", "running"), GUEST
    ),
    **dict.fromkeys(
        (
            *("policies", "connect", "listen", "peer", "resume", "preempt", "compress", "precopy"),
            *("session", "steps", "kind"),
        ),
        MIGRATION,
    ),
    **dict.fromkeys(
        (
            *("runs", "repeat", "breaks", "breaks_seed", "only", "quick", "against", "qemu"),
            *("first", "last", "vcpus_kept", "workers", "engine", "scheduler"),
        ),
        RUNS,
    ),
    **dict.fromkeys(("keep", "picture", "out", "save_accesses", "csv", "parquet"), OUTPUT),
    **dict.fromkeys(("help", "version"), OTHER),
}

# By a command's words behind `midstream`.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "bench": ("midstream bench --quick --only stream,latency --report bench.json",),
    "calibrate": ("midstream calibrate --link 1Gbit/s",),
    "compare": (
        "midstream compare --link 1Gbit/s --policies drop,ordered,critical-first",
        "midstream compare --link 1Gbit/s,rtt=10ms --picture compare.svg",
    ),
    "demo": ("midstream demo --html demo.html",),
    "dest": (
        "midstream dest --listen 127.0.0.1:4444",
        "midstream dest --listen 0.0.0.0:4444 --secret-file secret --save memory",
    ),
    "doctor": ("midstream doctor",),
    "inject": (
        "midstream inject tests/scenarios/half-sent-ordered.toml",
        "midstream inject --repeat 20 --keep runs tests/scenarios/half-sent-drop.toml",
    ),
    "migrate": (
        "midstream migrate --size 1GiB --vcpus 4 --link 1Gbit/s --html run.html",
        "midstream migrate --policy critical-first --postcopy-after 0 --report r.json",
        "midstream migrate --image memory --save arrived --write-ratio 0",
    ),
    "pause": (
        "midstream pause",
        "midstream source --resume --connect 10.0.0.2:4444",
    ),
    "qemu": ("midstream qemu --connect 127.0.0.1:4444 --report query-migrate.json",),
    "relay": ("midstream relay --listen :5555 --connect 10.0.0.2:4444 --html relay.html",),
    "report": (
        "midstream report events.jsonl",
        "midstream report drop.jsonl ordered.jsonl --html both.html",
    ),
    "set": ("midstream set max-bandwidth=1Gbit/s downtime-limit=100ms",),
    "simulate": ("midstream simulate --size 64GiB --link 10Gbit/s,rtt=1ms --report sim.json",),
    "source": (
        "midstream source --connect 127.0.0.1:4444",
        "midstream source --connect 10.0.0.2:4444 --secret-file secret --size 4GiB",
    ),
    "sweep": ("midstream sweep sweep.toml --out sweep",),
    "switch-over": ("midstream switch-over",),
    "trace": ("midstream trace show accesses.trace",),
    "trace import": ("midstream trace import --from perf perf.txt --out accesses.trace",),
    "trace show": ("midstream trace show accesses.trace",),
    "trace cut": ("midstream trace cut accesses.trace --out part.trace",),
}


def write_options(context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a command's options in sections; one that no section is known of stands at the end."""
    # Late: options are declared with commands, which are declared with this.
    from scripts.options import OPTIONS  # noqa: PLC0415

    sections = {option.name: option.section for option in OPTIONS} | _SECTION_OF
    records: dict[str, list[tuple[str, str]]] = {}
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        # The usage line has arguments.
        if record is not None and isinstance(parameter, click.Option):
            title = sections.get(parameter.name or "", OTHER)
            records.setdefault(title, []).append(record)
    for title in SECTIONS:
        if title in records:
            with formatter.section(title):
                # Long options get a line of their own, so that there is room for what they mean.
                formatter.write_dl(records[title], col_max=24)


def write_examples(context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a command's examples, each in a line of its own, however long."""
    words = context.command_path.removeprefix("midstream").strip()
    lines = EXAMPLES.get(words, ())
    if not lines:
        return
    with formatter.section("Example" if len(lines) == 1 else "Examples"):
        for line in lines:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def complete_names(names: tuple[str, ...], incomplete: str) -> list[CompletionItem]:
    """Return what a shell completes a value to; of a list with commas its last item."""
    before, comma, begun = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{name}") for name in _beginning(names, begun)]


def _beginning(names: tuple[str, ...], begun: str) -> Iterator[str]:
    yield from (name for name in names if name.startswith(begun))
