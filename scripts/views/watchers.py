"""Who watches a run, as the command line says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from scripts.configure import parse_address
from scripts.views.watch import Watcher


def watchers_of(values: Mapping[str, Any]) -> list[Watcher]:
    """Return who is shown a run while it goes on, for these options and this terminal.

    Raises:
        click.BadParameter, MidstreamError: As `servers_of`.
    """
    watchers: list[Watcher] = servers_of(values)
    # Between log lines a picture would only be in their way.
    if not (values["quiet"] or values["verbose"]) and sys.stderr is not None:
        # Imported late: only who draws waits for what it takes.
        from scripts.views.terminal import Screen, can_show  # noqa: PLC0415

        if can_show(sys.stderr):
            watchers.append(Screen())
    return watchers


def servers_of(values: Mapping[str, Any]) -> list[Watcher]:
    """Return the server that `--serve` asks for, if it does.

    Raises:
        click.BadParameter: It names no address.
        MidstreamError: Nobody can listen there.
    """
    if values.get("serve") is None:
        return []
    # Imported late, as above.
    from scripts.views.serve import Server  # noqa: PLC0415

    return [Server(*parse_address(values["serve"], "--serve"))]
