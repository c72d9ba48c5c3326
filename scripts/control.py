"""Steers a running source of this user, over its control socket: `pause`, `switch-over`, `set`."""

from __future__ import annotations

import re

import click
import trio

from protocol.errors import MigrationError
from protocol.limits import SESSION_ID_BYTES
from scripts.named_files import Command
from scripts.screen.output import print_result
from source.control_client import tell_source
from source.steering import SETTABLE, parse_limits

SESSION = click.option(
    "--session", metavar="SESSION",
    help="Which source: the session's name or its control socket's path, as --verbose tells them. "
    "Not needed where only one source of this user runs.",
)  # fmt: skip

_EPILOG = (
    "Exit status: 0 done; 1 the source refuses, or there is none; 2 the command line is wrong."
)


@click.command(cls=Command)
@SESSION
def pause(session: str | None) -> None:
    """Pause a running postcopy, so that it can go on at another address.

    Both sides close their connections and wait: the guest runs on at the destination, where its
    pages are there. `midstream source --resume SESSION --connect HOST:PORT` has it go on. Where
    nobody says so while the source's --reconnect-timeout and the destination's --recover-timeout
    last, the source tries the old address once more.
    """
    tell_session(check_session(session), "pause")


def tell_session(session: str | None, command: str, argument: str = "") -> None:
    """Send a source a command and print what it answers.

    Args:
        session: As `check_session` returns it.
        command: The command's name.
        argument: What goes with it, one line.

    Raises:
        MidstreamError: There is no such source, or several; or it refuses.
    """
    print_result(f"{trio.run(tell_source, session, command, argument)}\n")


def check_session(text: str | None, option: str = "--session") -> str | None:
    """Return a session's name or its control socket's path, None for the only session.

    Raises:
        click.BadParameter: It is neither.
    """
    if text is None or "/" in text or re.fullmatch(rf"[0-9a-f]{{{2 * SESSION_ID_BYTES}}}", text):
        return text
    raise click.BadParameter(
        f"{text[:40]!r} is not {2 * SESSION_ID_BYTES} hexadecimal digits, and no path with a slash",
        param_hint=option,
    )


@click.command("switch-over", cls=Command, epilog=_EPILOG)
@SESSION
def switch_over(session: str | None) -> None:
    """Switch a running source over to postcopy now.

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
