"""Who watches a run, as the command line and the terminal say."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from scripts.configure import parse_address

if TYPE_CHECKING:
    from scripts.views.watch import Watcher


def servers_of(values: Mapping[str, Any]) -> list[Watcher]:
    """Return the server that `--serve` asks for, if it does.

    Raises:
        click.BadParameter: It names no address.
        MidstreamError: Nobody can listen there.
    """
    if values.get("serve") is None:
        return []
    # Imported late: only who serves waits for what it takes.
    from scripts.views.serve import Server  # noqa: PLC0415

    return [Server(*parse_address(values["serve"], "--serve"))]


def is_drawn(values: Mapping[str, Any]) -> bool:
    """Tell whether a run is drawn on standard error, for these options and this terminal."""
    # Between log lines a picture would only be in their way.
    return not (values["quiet"] or values["verbose"]) and can_show(sys.stderr)


def can_show(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal that can be drawn on."""
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM", "dumb") not in {"dumb", ""}
    )


def screens_of(values: Mapping[str, Any]) -> list[Watcher]:
    """Return what draws a run on standard error, if it is drawn."""
    if not is_drawn(values):
        return []
    # Imported late, as above; it takes longer than all that is needed to start both sides.
    from scripts.views.terminal import Screen  # noqa: PLC0415

    return [Screen()]
