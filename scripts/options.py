"""The command line's options, each told once: its help, its default, and whose side it is of.

Values stay strings until a side's configuration is made of them (`scripts/configure.py`), which is
what goes to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from guest.spec import BACKING_CHOICES, DIRTY_LOG_CHOICES, GUEST_CHOICES, PROGRAM_NAMES
from scripts.help_text import ACCESS, GUEST, MIGRATION, OUTPUT, complete_names
from scripts.named_files import Use, file_option
from scripts.policies import file_of, named_policies

SOURCE = "source"
DEST = "dest"
BOTH = f"{SOURCE} {DEST}"
# Of whoever starts both sides.
LAUNCH = "launch"
# Of a destination whose source is a QEMU, which says nothing of vCPUs.
QEMU = "qemu"
OURS = f"{SOURCE} {QEMU}"


# What `--postcopy-after` is where nobody says anything else.
PASSES_DEFAULT = "1"
PROGRAM_DEFAULT = "uniform"

Values = Mapping[str, Any]

# What a shell completes an option's value to.
_COMPLETED: dict[str, tuple[str, ...]] = {
    "page_size": ("4KiB", "2MiB", "1GiB"),
    "backing": BACKING_CHOICES,
    "guest": GUEST_CHOICES,
    "program": PROGRAM_NAMES,
    "policy": tuple(named_policies()),
    # `dest.config` has them, which takes a moment to load.
    "placement": ("auto", "userfault", "simulated"),
    "dirty_log": DIRTY_LOG_CHOICES,
    "postcopy_after": ("0", "1", "never"),
}

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Attributes:
        flag: As typed, with its dashes.
        sides: SOURCE, DEST, BOTH, LAUNCH, QEMU or OURS.
        section: Where the help shows it.
        help: A sentence; the default is added.
        default: As it would be typed; None for none.
        metavar: What the value is called in the help; None for a switch.
        use: What a command does with the file that the value names; None if it names none.
        prefix: What stands before a file's name, where not every value names one.
        find: Returns the file's name in a value, where that is not as simple; empty for none.
    """

    flag: str
    sides: str
    section: str
    help: str
    default: str | None = None
    metavar: str | None = "TEXT"
    use: Use | None = None
    prefix: str = ""
    find: Callable[[str], str] | None = None

    @property
    def name(self) -> str:
        """The name of its value in Python."""
        return self.flag.removeprefix("--").replace("-", "_")

    def decorate(self, command: C) -> C:
        """Add the option to a click command."""
        if self.metavar is None:
            return click.option(self.flag, is_flag=True, help=self.help)(command)
        shown: dict[str, Any] = {
            "metavar": self.metavar,
            "default": self.default,
            "show_default": self.default is not None,
            "help": self.help,
        }
        if self.name in _COMPLETED:
            names = _COMPLETED[self.name]
            shown["shell_complete"] = lambda _context, _option, text: complete_names(names, text)
        if self.use is None:
            return click.option(self.flag, **shown)(command)
        return file_option(self.flag, use=self.use, prefix=self.prefix, find=self.find, **shown)(
            command
        )


OPTIONS = (
    Option(
        "--size", SOURCE, GUEST,
        "Memory, or several RAMBlocks with a page size each: ram=192MiB@2MiB,rom=64MiB@4KiB.",
        "256MiB", "SIZE",
    ),
    Option("--page-size", SOURCE, GUEST, "4KiB, 2MiB or 1GiB.", "2MiB", "SIZE"),
    Option(
        "--backing", BOTH, GUEST,
        "Kernel pages to use: auto, hugetlb, thp or base.", "auto", "KIND",
    ),
    Option(
        "--image", SOURCE, GUEST,
        "Fill the memory from this file, the rest with zeros, instead of with a pattern.",
        None, "FILE", use=Use.READ,
    ),
    Option(
        "--guest", SOURCE, GUEST,
        "What runs the vCPUs: kvm (a virtual machine), native (machine code in threads), python "
        "(threads of the interpreter), auto (the first of these that works here).",
        "python", "KIND",
    ),
    Option("--vcpus", OURS, GUEST, "Number of vCPUs, up to 64.", "2", "N"),
    Option(
        "--program", OURS, GUEST,
        "How vCPUs access memory: uniform, sequential, zipf, hotspot, trace:FILE, scripted.",
        PROGRAM_DEFAULT, "NAME", use=Use.READ, prefix="trace:",
    ),
    Option(
        "--accesses", OURS, GUEST,
        "Replay this trace of accesses; short for --program trace:FILE.", None, "FILE",
        use=Use.READ,
    ),
    Option(
        "--access-rate", OURS, GUEST,
        "Accesses a second of each vCPU; 0 for no pause.", "5000", "N",
    ),
    Option(
        "--write-ratio", SOURCE, GUEST, "Share of accesses that write, 0 to 1.", "0.3", "RATIO"
    ),
    Option(
        "--start-paused", SOURCE, GUEST,
        "Keep vCPUs still on the source, so that their program begins on the destination.",
        None, None,
    ),
    Option("--seed", OURS, GUEST, "Seed of pattern and program.", "0", "N"),
    Option(
        "--socket-buffer", QEMU, MIGRATION,
        "What may lie in each connection's sockets, about; 0: as much as the kernel lets QEMU put.",
        "0", "SIZE",
    ),
    Option(
        "--policy", SOURCE, MIGRATION,
        f"Which page goes next: {', '.join(named_policies())}; or your own, FILE.py:NAME.",
        "ordered", "NAME", use=Use.READ, find=file_of,
    ),
    Option(
        "--placement", DEST, MIGRATION,
        "Who stops a vCPU at a missing page: userfault (the kernel), simulated (it looks), auto.",
        "auto", "KIND",
    ),
    Option(
        "--dirty-log", SOURCE, MIGRATION,
        "Who notes what the guest writes to: kvm (with --guest kvm), kernel, software (its vCPUs), "
        "auto.", "auto", "KIND",
    ),
    Option("--chunk-size", SOURCE, MIGRATION, "Maximum frame size.", "8MiB", "SIZE"),
    Option(
        "--postcopy-after", SOURCE, MIGRATION,
        "Precopy passes before postcopy; 0: postcopy at once; never: precopy until it converges. "
        "Default: 1, or never with --postcopy-after-time.",
        None, "N",
    ),
    Option(
        "--postcopy-after-time", SOURCE, MIGRATION,
        "Switch over to postcopy after so much time of precopy, such as 30s, in whatever pass.",
        None, "TIME",
    ),
    Option(
        "--give-up-after", SOURCE, MIGRATION,
        "Cancel a migration that is still in precopy after so long, such as 10min; the guest "
        "stays at the source.",
        None, "TIME",
    ),
    Option(
        "--downtime-limit", SOURCE, MIGRATION,
        "Finish in precopy when the downtime would be no longer than this.",
        "300ms", "TIME",
    ),
    Option(
        "--max-bandwidth", SOURCE, MIGRATION,
        "Limit in precopy, such as 1Gbit/s or 125MB/s; 0 for none.", "0", "RATE",
    ),
    Option(
        "--max-postcopy-bandwidth", SOURCE, MIGRATION,
        "Limit in postcopy, of what no vCPU waits for.", "0", "RATE",
    ),
    Option(
        "--reconnect-timeout", SOURCE, MIGRATION,
        "How long to keep trying to resume when postcopy is interrupted; 0 for not at all.",
        "60s", "TIME",
    ),
    Option(
        "--recover-timeout", DEST, MIGRATION,
        "How long the guest waits for a source that is gone to come back; 0 for not at all.",
        "90s", "TIME",
    ),
    Option(
        "--keepalive-timeout", BOTH, MIGRATION,
        "How long the other side may be silent before its connections are taken for broken.",
        "10s", "TIME",
    ),
    Option(
        "--dscp", BOTH, MIGRATION,
        "Mark packets that go first, pages that vCPUs wait for and requests, for the queues of the "
        "network: 0 to 63, or a name such as EF or CS6; which it heeds is its owner's to say.",
        None, "DSCP",
    ),
    Option(
        "--checksum", SOURCE, MIGRATION,
        "Send a checksum before each frame of pages; what comes changed goes again.", None, None,
    ),
    Option(
        "--steps", DEST, MIGRATION,
        "Scripted page faults, [[step]] tables of a TOML file; with --program scripted.",
        None, "FILE", use=Use.READ,
    ),
    Option(
        "--link", LAUNCH, MIGRATION,
        "Put the two sides on a shaped link of their own, such as 1Gbit/s or 1Gbit/s,queue=fifo; "
        "0: plain loopback.",
        "0", "RATE[,...]",
    ),
    Option(
        "--secret-file", BOTH, ACCESS,
        "A secret that both sides prove to know; nobody else may read the file. Default of "
        "migrate: a fresh one.",
        None, "FILE", use=Use.READ,
    ),
    Option(
        "--tls-cert", BOTH, ACCESS, "Encrypt (TLS 1.3), with this side's certificate, as PEM.",
        None, "FILE", use=Use.READ,
    ),
    Option("--tls-key", BOTH, ACCESS, "The certificate's private key.", None, "FILE", use=Use.READ),
    Option(
        "--tls-ca", BOTH, ACCESS, "Who must have signed the other side's certificate.",
        None, "FILE", use=Use.READ,
    ),
    Option(
        "--tls-hostname", SOURCE, ACCESS,
        "The name or address that the destination's certificate is for; default: where it is "
        "connected to.",
        None, "NAME",
    ),
    Option(
        "--allow-from", QEMU, ACCESS,
        "The one machine whose QEMU may connect, by its IP address; needed off loopback.",
        None, "ADDRESS",
    ),
    Option(
        "--save", DEST, OUTPUT, "Write the guest's memory here when all of it is there.",
        None, "FILE", use=Use.SAVE,
    ),
    Option(
        "--report", BOTH, OUTPUT, "Write the report as JSON; - for standard output.",
        None, "FILE", use=Use.WRITE,
    ),
    Option(
        "--events", BOTH, OUTPUT,
        "Write what happens as it happens, one JSON object a line; - for standard output.",
        None, "FILE", use=Use.WRITE,
    ),
    Option(
        "--perfetto", BOTH, OUTPUT, "Write a trace that the Perfetto UI opens.",
        None, "FILE", use=Use.WRITE,
    ),
    Option(
        "--html", BOTH, OUTPUT,
        "Write a page that shows what went when, and who waited why.", None, "FILE", use=Use.WRITE,
    ),
    Option(
        "--serve", f"{DEST} {LAUNCH}", OUTPUT,
        "Show the run in a browser while it goes on; without a host, to this machine alone.",
        None, "HOST:PORT",
    ),
    Option(
        "--serve-after", f"{DEST} {LAUNCH}", OUTPUT,
        "Keep that page there for so long after the end, with the whole run on it; Ctrl-C ends it.",
        "0", "TIME",
    ),
    Option("--quiet", BOTH, OUTPUT, "No progress and no result table.", None, None),
    Option("--verbose", BOTH, OUTPUT, "Log every state change.", None, None),
)  # fmt: skip


def program_text(values: Values) -> str:
    """Return what vCPUs do, as `--program` says it, or by the trace that `--accesses` names.

    Raises:
        click.BadParameter: Both are there.
    """
    program, accesses = str(values["program"]), values.get("accesses")
    if accesses is None:
        return program
    if program != PROGRAM_DEFAULT:
        raise click.BadParameter(
            f"it is a program by itself, and --program says {program!r}", param_hint="--accesses"
        )
    return f"trace:{accesses}"


def postcopy_after_of(values: Values) -> str:
    """Return what `--postcopy-after` is: what was said, or what stands for nothing said.

    Who gives a time means the time: the first pass is not to come before it.
    """
    after: str | None = values["postcopy_after"]
    if after is None:
        after = PASSES_DEFAULT if values.get("postcopy_after_time") is None else "never"
    return after


def options_of(*sides: str) -> list[Option]:
    """Return the options that belong to any of the sides."""
    return [option for option in OPTIONS if any(side in option.sides for side in sides)]


def with_options(options: Iterable[Option]) -> Callable[[C], C]:
    """Return a decorator that adds options to a click command, in their order."""

    def decorate(command: C) -> C:
        for option in reversed(tuple(options)):
            command = option.decorate(command)
        return command

    return decorate
