"""Imports midstream's own events (`--events`): pages that vCPUs waited for, or that were asked for.

A page is named by its RAMBlock and its first byte, so the trace does not depend on the page size.
A wait's time is that of the fault (`fault-ns`), as long as the file has it.  Of both sides that
tell of a request the destination is heard; a relay between two QEMUs tells of requests alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from guest.access_line import WrongLineError
from protocol import events
from protocol.errors import LocalProtocolError
from scripts.traces.found import Found, Wishes
from scripts.views.saved import parse_event

# What tells of an access: of waits who waited, of requests only that there was one.
EVENTS = (events.VcpuWait.event, events.PageRequest.event)
_TELLERS = frozenset({events.DEST, events.RELAY})
_SELF = "this line"


class _Block(NamedTuple):
    name: str
    length_bytes: int
    page_bytes: int


def import_events(lines: Iterator[str], wishes: Wishes) -> Iterator[Found]:
    """Yield an access an event of the wished name, as the destination told it, or a relay.

    A last line without its end, as a full disk leaves it, is left out.

    Raises:
        WrongLineError: A line is no event, or names a page of a block that no line has told of.
    """
    blocks: dict[int, _Block] = {}
    for line in lines:
        if not line.strip():
            continue
        try:
            event = parse_event(line.encode(), _SELF)
        except LocalProtocolError as error:
            if not line.endswith("\n") and "no JSON" in str(error):
                return
            raise WrongLineError(str(error).removeprefix(f"{_SELF}: ")) from None
        if event["event"] == events.RamBlock.event:
            blocks[event["block"]] = _Block(
                event["name"], event["length-bytes"], event["page-bytes"]
            )
        elif event["event"] == wishes.event and event["side"] in _TELLERS:
            yield _found(event, blocks)


def _found(event: dict[str, Any], blocks: dict[int, _Block]) -> Found:
    block = blocks.get(event["block"])
    if block is None:
        raise WrongLineError(f"no line before it tells of block {event['block']}")
    address = event["page"] * block.page_bytes
    if address >= block.length_bytes:
        raise WrongLineError(f"page {event['page']} is outside RAMBlock {block.name!r}")
    return Found(address, event.get("fault-ns", event["t-ns"]), event.get("vcpu", 0), block.name)
