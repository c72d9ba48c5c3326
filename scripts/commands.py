"""The commands and their options, as click knows them.

A command imports what it runs only when it is run: starting takes a migration's processes longer
than anything else, and each needs a part of midstream only.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from protocol.errors import MidstreamError
from scripts.named_files import Command
from scripts.options import DEST, LAUNCH, QEMU, SOURCE, options_of, with_options
from scripts.reports import EXIT_USAGE
from scripts.runtime.interrupts import EXIT_CANCELLED, ignore_signals
from scripts.runtime.loading import loading
from scripts.runtime.parent import follow_parent, take_orders
from scripts.screen.output import end_of_failure, tell, tell_failure

_EPILOG = (
    "Exit status: 0 completed and verified; 1 failed or refused; 2 the command line is wrong; "
    "3 the guest found wrong memory; 4 the destination holds the guest, but memory is lost; "
    "5 completed and verified, but a policy of your own failed on the way; "
    "130 cancelled by Ctrl-C, SIGTERM, SIGHUP or SIGQUIT."
)

# What `--resume` without a name stands for: the only source.
ONLY = "only"


@dataclass(frozen=True)
class Elsewhere:
    """A command that a module of its own defines, under the same name.

    Attributes:
        module: Which.
        help: The first sentence of its help: to ask each module for it would load them all.
        function: What defines it there, where that is not called as the command.
    """

    module: str
    help: str
    function: str = ""


ELSEWHERE = {
    "inject": Elsewhere(
        "scripts.injection.inject",
        "Run scripted fault injections between a real source and destination.",
    ),
    "bench": Elsewhere(
        "scripts.bench.command",
        "Measure streams, latencies and costs, each beside what limits it, on this machine.",
    ),
    "calibrate": Elsewhere(
        "scripts.simulate.calibrate",
        "Measure on this machine what simulate needs to know of it.",
        "command",
    ),
    "compare": Elsewhere(
        "scripts.figures.compare", "Run one guest and one access trace under several policies."
    ),
    "demo": Elsewhere(
        "scripts.demo.command",
        "Show what a half-sent page that is asked for costs under three policies.",
    ),
    "doctor": Elsewhere(
        "scripts.doctor.command",
        "Try what this machine can do, and tell what to do about what is missing.",
    ),
    "pause": Elsewhere(
        "scripts.control", "Pause a running postcopy, so that it can go on at another address."
    ),
    "relay": Elsewhere(
        "scripts.relay.command",
        "Stand between a source and a destination that are QEMUs, and see one migration through.",
    ),
    "report": Elsewhere(
        "scripts.views.report",
        "Say what reports are, and show runs again from their events; each file is one of its own.",
    ),
    "simulate": Elsewhere(
        "scripts.simulate.command",
        "Simulate a migration in virtual time, with the engines and policies of a real one.",
        "command",
    ),
    "sweep": Elsewhere(
        "scripts.sweep.command",
        "Run each combination of options that a TOML file names, real or in virtual time.",
        "command",
    ),
    "switch-over": Elsewhere(
        "scripts.control", "Switch a running source over to postcopy now.", "switch_over"
    ),
    "set": Elsewhere("scripts.control", "Change the limits of a running source.", "set_limits"),
    "trace": Elsewhere(
        "scripts.traces.command",
        "Make traces of what other tools record, show what they are like, and cut parts out.",
    ),
    "qemu": Elsewhere(
        "scripts.qemu.command",
        "Start a QEMU of its own and migrate its memory to a destination, with postcopy.",
    ),
}


class LazyGroup(click.Group):
    """A group that imports other modules' commands when they are asked for."""

    command_class = Command

    def list_commands(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context
    ) -> list[str]:
        """Return all names."""
        return sorted({*super().list_commands(ctx), *ELSEWHERE})

    def get_command(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context, cmd_name: str
    ) -> click.Command | None:
        """Return a command, None if there is none of that name."""
        if cmd_name in ELSEWHERE:
            elsewhere = ELSEWHERE[cmd_name]
            module = import_module(elsewhere.module)
            command: click.Command = getattr(module, elsewhere.function or cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(  # type: ignore[explicit-override] # typing.override: from 3.12
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write all names and what they are for, without loading what is elsewhere."""
        told = {name: elsewhere.help for name, elsewhere in ELSEWHERE.items()}
        told |= {name: here.get_short_help_str(80) for name, here in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(told.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    epilog=_EPILOG,
)
@click.version_option(package_name="midstream", message="%(prog)s %(version)s")
@click.pass_context
def midstream(context: click.Context) -> None:
    """Move a running guest's memory from one process to another over two TCP sockets.

    Begin with `midstream demo`, then `midstream migrate --html run.html`. Each command's help has
    examples.
    """
    if context.invoked_subcommand is None:
        tell(context.get_help())
        context.exit(EXIT_USAGE)


@midstream.command(cls=Command, epilog=_EPILOG)
@with_options(options_of(SOURCE, DEST, LAUNCH))
def migrate(**values: Any) -> None:  # noqa: ANN401 - click's values
    """Migrate a guest between two processes on this machine and report."""
    with loading():
        from scripts.configure import (
            check_program,
            check_steps,
            dest_config,
            link_spec,
            outputs_of,
            program_of,
            source_config,
        )
        from scripts.credentials import access_of, with_secret
        from scripts.links.link import link_of
        from scripts.processes.pair import both_sides
        from scripts.run_config import DestRun, SourceRun
        from scripts.views.spool import is_drawn, screens_of, servers_of, stay_after, viewed

    check_program(values)
    source, dest, outputs = source_config(values), dest_config(values), outputs_of(values)
    check_steps(source, dest)
    access = with_secret(access_of(values))
    access.credentials(server=True)
    runs = (
        SourceRun.of(source, program_of(values), access, outputs),
        DestRun.of(dest, access, outputs),
    )
    servers = servers_of(outputs)
    watched = bool(servers) or is_drawn(outputs)
    with (
        link_of(link_spec(values["link"])) as link,
        viewed(outputs, live=watched) as spool,
        both_sides(*runs, link, spool, watched=watched) as sides,
    ):
        # Both sides load by now; so does what this process needs from here on.
        with loading():
            import trio

            from scripts.processes.launcher import Launcher

            watchers = [*servers, *screens_of(outputs)]
        launcher = Launcher(outputs, sides, link, spool, watchers)
        try:
            try:
                trio.run(launcher.run)
            finally:
                launcher.pass_on_kept()
            launcher.check_outputs()
        except MidstreamError as error:
            # Of what failed people want to see the whole, too; who cancelled wants to be gone.
            if error.exit_status != EXIT_CANCELLED:
                stay_after(servers, spool)
            raise
        stay_after(servers, spool)


@midstream.command(cls=Command, epilog=_EPILOG)
@click.option(
    "--connect", required=True, metavar="HOST:PORT",
    help="Where the destination listens; - to read it from standard input.",
)  # fmt: skip
@click.option(
    "--resume", metavar="SESSION", is_flag=False, flag_value=ONLY,
    help="Hold no guest; tell the paused source of that session to connect there, and end. "
    "Without a name: the only source of this user. Also its control socket's path.",
)  # fmt: skip
@with_options(options_of(SOURCE))
def source(connect: str, resume: str | None, **values: Any) -> None:  # noqa: ANN401 - click's values
    """Hold a guest and migrate it to a destination."""
    with loading():
        from scripts.configure import outputs_of, parse_address, source_config
        from scripts.control import check_session, tell_session
        from scripts.credentials import credentials
        from scripts.processes.source_side import run_source

    if resume is not None:
        parse_address(connect, "--connect", port_min=1)
        session = None if resume == ONLY else check_session(resume, "--resume")
        tell_session(session, "resume", connect)
        return
    outputs = outputs_of(values)
    address = _read_address() if connect == "-" else connect
    host, port = parse_address(address, "--connect", port_min=1)
    run_source(source_config(values, host, port, credentials(values, server=False)), outputs)


@midstream.command(cls=Command, epilog=_EPILOG)
@click.option(
    "--listen", required=True, metavar="HOST:PORT",
    help="Where to listen, on all addresses of HOST ([::]: of this machine, IPv4 too); port 0 "
    "picks one. The line `listening on HOST:PORT` tells which.",
)  # fmt: skip
@click.option(
    "--peer", default="midstream", show_default=True, type=click.Choice(["midstream", "qemu"]),
    help="What the source is. A qemu is to have the capability postcopy-ram.",
)  # fmt: skip
@with_options(options_of(DEST, QEMU))
@click.pass_context
def dest(
    context: click.Context,
    /,
    listen: str,
    peer: str,
    **values: Any,  # noqa: ANN401 - click's values
) -> None:
    """Wait for a source and take its guest over.

    What vCPUs do is the source's to say; with --peer qemu it is said here, and they only read.
    """
    with loading():
        from scripts.configure import dest_config, outputs_of, parse_address
        from scripts.credentials import credentials
        from scripts.processes.dest_side import run_dest

    host, port = parse_address(listen, "--listen")
    outputs = outputs_of(values)
    if peer == "qemu":
        with loading():
            from scripts.qemu.configure import check_heeded, qemu_dest_config, run_qemu_dest

        check_heeded(values)
        run_qemu_dest(qemu_dest_config(values, host, port), outputs)
        return
    for option in options_of(QEMU):
        if context.get_parameter_source(option.name) is not ParameterSource.DEFAULT:
            raise click.BadParameter("the source says it", param_hint=option.flag)
    run_dest(dest_config(values, host, port, credentials(values, server=True)), outputs)


def _read_address() -> str:
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint="--connect")
    return sys.stdin.readline().strip()


def run(arguments: Sequence[str]) -> int:
    """Run a command line; return the exit status, with every failure told in one line."""
    follow_parent()
    try:
        take_orders()
        status = midstream.main(arguments, prog_name="midstream", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _fail("cancelled", EXIT_CANCELLED)
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_USAGE)
    except Exception as error:  # noqa: BLE001 - told in one line, whatever it is
        return end_of_failure(error, verbose="--verbose" in arguments)
    return status if isinstance(status, int) else 0


def _fail(reason: str, status: int) -> int:
    # The end is decided; a second Ctrl-C would only add a line.
    ignore_signals()
    tell_failure(reason)
    return status
