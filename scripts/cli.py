"""The `midstream` command: parses, runs, and turns every end into one line and an exit status.

Exit status: 0 completed and verified; 1 failed or refused; 2 the command line is wrong; 3 the guest
found wrong memory; 4 the destination holds the guest but memory is lost; 5 completed and verified,
but a policy of the user's own failed on the way; 130 cancelled.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from importlib import import_module
from typing import NoReturn

try:
    from protocol.errors import shortage_of
    from scripts.runtime.interrupts import (
        end_if_signalled,
        exit_when_signalled,
        ignore_signals,
    )
    from scripts.runtime.loading import loading, spare_threads
    from scripts.runtime.parent import handed_run, has_listener, tell_parent
except KeyboardInterrupt:
    # Even this takes a moment; what the interpreter does before it is out of reach.
    sys.stderr.write("midstream: cancelled by SIGINT\n")
    sys.exit(130)


_COMPLETE_VARIABLE = "_MIDSTREAM_COMPLETE"

# It is open, whatever the shell has done (`_occupy_closed`); `sys.stderr` may be None.
_STANDARD_ERROR = 2


def main() -> None:
    """Run the command line and exit."""
    exit_when_signalled(at_once=False)
    spare_threads()
    _occupy_closed()
    # Where the interpreter itself crashes, the stacks of its threads are all that tells why.
    faulthandler.enable(_STANDARD_ERROR)
    try:
        with loading():
            # Imported here: it takes a moment, in which Ctrl-C should not print a traceback either.
            handed = handed_run()
            module = import_module("scripts.commands" if handed is None else "scripts.run_config")
            from scripts.screen.output import finish_messages, guard_streams  # noqa: PLC0415
    except (ImportError, OSError, MemoryError) as error:
        if not (reason := shortage_of(error)):
            raise
        _fail_early(reason)

    # Of a shell that asks what it can complete, click writes the answer itself.
    if _COMPLETE_VARIABLE not in os.environ:
        guard_streams()
    status: int = module.run(sys.argv[1:] if handed is None else handed)
    end_if_signalled()
    ignore_signals()
    finish_messages()
    sys.exit(status)


def _fail_early(reason: str) -> NoReturn:
    """End before anything could be loaded that ends in better order."""
    if has_listener():
        tell_parent(reason)
    else:
        sys.stderr.write(f"midstream: {reason}\n")
    sys.exit(1)


def _occupy_closed() -> None:
    """Let no file or socket get the number of a standard stream that is closed (`>&-`).

    Whatever is said to that number would go into it.  The stream itself stays closed: nobody is
    told that something has been written.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
