"""Text of a demo: a table, three sentences, and what of it is measured.  Pure.

Who reads it has seen nothing of the project yet: a term that is not explained here is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

from protocol.units import format_bytes
from scripts.demo.cases import FIRST, HALF_SENT, LINK, LINK_WORDS, PAGE_BYTES, REQUESTS, SHARE, Case
from scripts.screen.words import time_us

WIDTH = 79
_NAME_CHARS = 16
_TIME_CHARS = 9

_SHARES = {0.25: "a quarter"}


def introduction(width: int = WIDTH) -> str:
    """Return what is printed before the runs, in lines of at most so many characters."""
    return fill(
        "A virtual machine is being moved, from one process to another on this machine, and "
        f"already runs at its new place while its memory follows in pages of "
        f"{format_bytes(PAGE_BYTES)}. It needs page {FIRST} now: that goes first, and page "
        f"{HALF_SENT}, of which {_SHARES[SHARE]} was sent, is left half-sent. Next it needs that "
        f"very page {HALF_SENT}, and {REQUESTS - 2} others. How long it waits for page "
        f"{HALF_SENT} depends on what the sender does with that request:",
        width,
    )


def _fate(case: Case) -> str:
    """Return what became of the request for the half-sent page."""
    return {
        "drop": f"forgets it until no other request is left, after {_pages(case.ahead)}",
        "ordered": f"finishes the page at once, in its turn, after {_pages(case.ahead)}",
        "critical-first": "sends just the 4 KiB that are needed, and the rest later",
    }[case.policy]


def _pages(count: int) -> str:
    return f"{count} other {'page' if count == 1 else 'pages'}"


def bars(cases: Sequence[Case], width: int = WIDTH) -> str:
    """Return the wait of each case as a bar, on one scale, and why it was so long."""
    most = max(case.wait_us for case in cases)
    bar_chars = max(width - _NAME_CHARS - _TIME_CHARS - 2, 1)
    indent = " " * _NAME_CHARS
    lines = []
    for case in cases:
        # Nothing that was waited for has no bar.
        bar = "#" * max(1, round(case.wait_us / most * bar_chars))
        lines += [
            f"  {case.policy:<{_NAME_CHARS - 2}} {time_us(case.wait_us):>{_TIME_CHARS - 1}}  {bar}",
            fill(_fate(case), width, initial_indent=indent, subsequent_indent=indent),
        ]
    return "\n".join(lines)


def sentences(cases: Sequence[Case], command: str, page: str | None) -> tuple[str, str, str]:
    """Return what happened, what it cost, and what to try next.

    Args:
        cases: Of all policies of `cases.POLICIES`.
        command: How this user types `midstream`.
        page: The page that was written about the runs; None for none.
    """
    of = {case.policy: case for case in cases}
    try_next = (
        f"What to try next: {_open(command, page)}, migrate a whole busy guest with `{command} "
        f"migrate`, or set all policies side by side with `{command} compare --link {LINK}`."
    )
    return _what_happened(of), _what_it_cost(of), try_next


def _what_happened(of: Mapping[str, Case]) -> str:
    return (
        f"What happened: page {HALF_SENT} was asked for while it lay half-sent; `drop` put that "
        f"request off until {_pages(of['drop'].ahead)} had gone, `ordered` sent "
        f"{_pages(of['ordered'].ahead)} and then the rest of this one, from the byte where it had "
        "stopped, and `critical-first` sent the missing 4 KiB alone."
    )


def _what_it_cost(of: Mapping[str, Case]) -> str:
    drop, ordered, critical = (of[name].wait_us for name in ("drop", "ordered", "critical-first"))
    times = drop / max(ordered, 1.0)
    longer = f"{times:.3g} times as long" if times > 1 else "here no longer"
    twice = sum(case.bytes_sent_twice for case in of.values())
    nothing = f"{format_bytes(twice)} went twice" if twice else "nothing was sent twice"
    return (
        f"What it cost: with `drop` the processor that needed the page stood still for "
        f"{time_us(drop)}, {longer} as with `ordered` ({time_us(ordered)}; `critical-first`: "
        f"{time_us(critical)}), and it would be longer still with more requests behind it; "
        f"{nothing}."
    )


def _open(command: str, page: str | None) -> str:
    if page is None:
        return f"see every wait as a picture with `{command} demo --html demo.html`"
    return f"open {page} in a browser"


def small_print(cases: Sequence[Case]) -> str:
    """Return what is measured and what was arranged."""
    compared = min(case.compared_bytes for case in cases)
    return (
        f"Measured in this run: the times, each from when the sender had the request for page "
        f"{HALF_SENT} until the processor went on; the order of the pages; and that all "
        f"{format_bytes(compared)} of memory were the same on both sides in the end, in each of "
        f"the {len(cases)} runs. Arranged: which pages are needed and when (everything stands "
        f"still at byte {round(SHARE * PAGE_BYTES):,} of page {HALF_SENT} until the sender has "
        f"all {REQUESTS} requests); the link of {LINK_WORDS}, which this program makes; and the "
        "machine itself, whose processors are threads that read its memory and check it."
    )


def story(cases: Sequence[Case], command: str, page: str | None = None, width: int = WIDTH) -> str:
    """Return all that is printed when the runs are over; arguments as of `sentences`."""
    told = "\n\n".join(
        fill(text, width, break_on_hyphens=False, break_long_words=False)
        for text in (*sentences(cases, command, page), small_print(cases))
    )
    return f"{bars(cases, width)}\n\n{told}\n"
