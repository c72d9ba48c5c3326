"""Imports what `perf script` prints of page faults and of sampled loads and stores.

    perf record -e page-faults -c 1 -d -- COMMAND, perf script -F comm,tid,time,event,addr
    perf record -e exceptions:page_fault_user -- COMMAND, perf script
    perf mem record -- COMMAND, perf script

A line is COMM [PID/]TID [CPU] TIME: [PERIOD] [EVENT:] and then the data's address, or for the trace
point `address=0x... error_code=0x...`, of which bit 1 says that it was a write (arch/x86/include/
asm/trap_pf.h).  A sample's `|OP STORE` does, or an event of stores.  Threads are vCPUs.  Remarks
and call chains, which are indented and have no time, are passed over.

perf prints the address of the code that faulted in the same place when it was not asked for that of
the data; such lines are refused, as they tell another thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guest.access_line import WrongLineError
from scripts.traces.found import Found, Wishes, parse_clock, quoted

# perf pads a thread's name to 16 characters, and the name may hold anything, spaces and brackets.
_LINE = re.compile(
    r"(?:.*?\s)?(?:-?[0-9]++/)?(?P<tid>[0-9]{1,10})\s++(?:\[[0-9]++\]\s++)?"
    r"(?P<time>[0-9]{1,12}\.[0-9]{6,9}):(?P<rest>.*)"
)
_EVENT = re.compile(r"\s+(?:[0-9]+\s+)?(?P<event>[^\s0-9]\S*):(?P<rest>\s.*|)")
_CHAIN = re.compile(r"\s+[0-9a-f]{1,16}\s.*", re.DOTALL)
_TRACE_POINT = re.compile(
    r"\s*address=(?:0x)?(?P<address>[0-9a-f]{1,16})\s.*\berror_code=(?:0x)?(?P<code>[0-9a-f]{1,8})"
)
_WRITE_BIT = 1 << 1
_DATA = re.compile(r"\s*(?P<address>[0-9a-f]{1,16})(?P<rest>\s.*|)")
# A symbol and where it is, which follow an address of code.
_CODE = re.compile(r"\s+\S+\s+\(.*\)")


def import_perf(lines: Iterator[str], wishes: Wishes) -> Iterator[Found]:
    """Yield an access a sample.

    Raises:
        WrongLineError: A line is no sample, or tells no address of data.
    """
    del wishes
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            if _CHAIN.fullmatch(line):
                continue
            raise WrongLineError(f"not a line of perf script: {quoted(line)}")
        event = _EVENT.fullmatch(match["rest"])
        name, rest = (event["event"], event["rest"]) if event else ("", match["rest"])
        address, is_write = _place(name, rest)
        yield Found(address, parse_clock(match["time"]), f"thread {match['tid']}", "", is_write)


def _place(event: str, rest: str) -> tuple[int, bool]:
    """Return the address of what a sample is about, and whether it was written to."""
    point = _TRACE_POINT.fullmatch(rest)
    if point is not None:
        return int(point["address"], 16), bool(int(point["code"], 16) & _WRITE_BIT)
    data = _DATA.fullmatch(rest)
    if data is None or _CODE.fullmatch(data["rest"]):
        raise WrongLineError(
            "it tells no address of data: record with -d, and print with "
            f"-F comm,tid,time,event,addr: {quoted(rest)}"
        )
    return int(data["address"], 16), "stores" in event or "|OP STORE" in data["rest"]
