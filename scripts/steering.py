"""`midstream switch-over` and `midstream set`: steer a migrating source from another process."""

from __future__ import annotations

import click

from protocol.errors import MigrationError
from scripts.control import SESSION, check_session, tell_session
from scripts.named_files import Command
from source.steering import SETTABLE, parse_limits

_EPILOG = (
    "Exit status: 0 done; 1 the source refuses, or there is none; 2 the command line is wrong."
)


@click.command("switch-over", cls=Command, epilog=_EPILOG)
@SESSION
def switch_over(session: str | None) -> None:
    """Have a running source switch over to postcopy now.

    It does so between two frames, in whatever pass it is; with --postcopy-after never, too.
    """
    tell_session(check_session(session), "switch-over")


@click.command("set", cls=Command, epilog=_EPILOG)
@SESSION
@click.argument("limits", nargs=-1, required=True, metavar="NAME=VALUE...")
def set_limits(session: str | None, limits: tuple[str, ...]) -> None:
    """Change the limits of a running source.

    Names are max-bandwidth, max-postcopy-bandwidth and downtime-limit, values as for the options.
    """
    try:
        parse_limits([*limits])
    except MigrationError as error:
        raise click.BadParameter(str(error), param_hint="NAME=VALUE") from error
    tell_session(check_session(session), "set", " ".join(limits))


assert all(name in (set_limits.help or "") for name in SETTABLE)
