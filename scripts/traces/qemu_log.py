"""Imports a QEMU's log of its postcopy faults, which its destination writes.

    qemu-system-x86_64 ... -incoming ... -msg timestamp=on -D FILE
        -trace postcopy_ram_fault_thread_request

The event's words are in QEMU's migration/trace-events: `Request for HVA=0x... rb=NAME offset=0x...
pid=N`.  The RAMBlock and the offset in it name the page.  With `-msg timestamp=on` PID@SECONDS:
stands before them (scripts/tracetool/backend/log.py); without it there is no time.  `pid` is the
thread that faulted, which QEMU knows with the capability postcopy-blocktime, and else 0: threads
are vCPUs.  All other lines are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guest.access_line import WrongLineError
from scripts.traces.found import Found, Wishes, parse_clock, quoted

_EVENT = "postcopy_ram_fault_thread_request"
_LINE = re.compile(
    r"(?:[0-9]{1,10}@(?P<time>[0-9]{1,12}\.[0-9]{6}):)?" + _EVENT + r" Request for "
    r"HVA=0x[0-9a-f]{1,16} rb=(?P<block>.+) offset=0x(?P<offset>[0-9a-f]{1,16}) "
    r"pid=(?P<pid>[0-9]{1,10})\s*"
)


def import_qemu(lines: Iterator[str], wishes: Wishes) -> Iterator[Found]:
    """Yield an access a fault; what it is, a read or a write, is not told.

    Raises:
        WrongLineError: A line names the event and is not as QEMU writes it.
    """
    del wishes
    for line in lines:
        if _EVENT not in line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise WrongLineError(f"not as QEMU logs {_EVENT}: {quoted(line)}")
        time_ns = parse_clock(match["time"]) if match["time"] else None
        yield Found(int(match["offset"], 16), time_ns, f"thread {match['pid']}", match["block"])
