"""Text of a demo: a table, three sentences, and what of it is measured.  Pure.

Who reads it has seen nothing of the project yet: a term that is not explained here is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.units import format_bytes
from scripts.demo.cases import FIRST, HALF_SENT, LINK, LINK_WORDS, PAGE_BYTES, REQUESTS, SHARE, Case
from scripts.screen.words import counted, time_us, wrapped

WIDTH = 79
_NAME_CHARS = 16
_TIME_CHARS = 9

_SHARES = {0.25: "a quarter"}


def introduction(width: int = WIDTH) -> str:
    """Return what is printed before the runs, in lines of at most so many characters."""
    lines = wrapped(
        "A running virtual machine is being moved between two processes on this machine. It "
        f"already runs in the new one while its memory follows, in pages of "
        f"{format_bytes(PAGE_BYTES)}. It touches page {FIRST}, which has not arrived yet: the "
        f"sender leaves page {HALF_SENT}, of which {_SHARES[SHARE]} is sent, and sends page "
        f"{FIRST} first. Then the machine touches that half-sent page {HALF_SENT}, and "
        f"{REQUESTS - 2} others. How long it waits for page {HALF_SENT} depends on what the "
        "sender does with that request:",
        width,
    )
    return "\n".join(lines)


def _fate(case: Case) -> str:
    """Return what became of the request for the half-sent page."""
    return {
        "drop": f"forgets it until no other request is left: {_first(case.ahead)}",
        "ordered": f"finishes the page when its turn comes: {_first(case.ahead)}",
        "critical-first": "sends just the 4 KiB that are needed, and the rest later",
    }[case.policy]


def _pages(count: int) -> str:
    return counted(count, "other page", "other pages")


def _first(count: int) -> str:
    return f"{_pages(count)} {'goes' if count == 1 else 'go'} first"


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
            *wrapped(_fate(case), width, indent),
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
        f"What happened: page {HALF_SENT} was requested while it was half-sent; `drop` put that "
        f"request off until {_pages(of['drop'].ahead)} had been sent, `ordered` sent "
        f"{_pages(of['ordered'].ahead)} and then the rest of this one, from the byte where it had "
        "stopped, and `critical-first` sent only the 4 KiB that were needed."
    )


def _what_it_cost(of: Mapping[str, Case]) -> str:
    drop, ordered, critical = (of[name].wait_us for name in ("drop", "ordered", "critical-first"))
    times = drop / max(ordered, 1.0)
    longer = f"{times:.3g} times as long as" if times > 1 else "no longer than"
    twice = sum(case.bytes_sent_twice for case in of.values())
    nothing = f"{format_bytes(twice)} were sent twice" if twice else "nothing was sent twice"
    return (
        f"What it cost: the processor that needed page {HALF_SENT} stood still for "
        f"{time_us(drop)} with `drop`, {longer} with `ordered` ({time_us(ordered)}), and for "
        f"{time_us(critical)} with `critical-first`; each further request would add to the wait "
        f"with `drop`; {nothing}."
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
        f"{format_bytes(compared)} of memory was the same on both sides in the end, in each of "
        f"the {len(cases)} runs. Arranged: which pages are needed and when (everything stands "
        f"still at byte {round(SHARE * PAGE_BYTES):,} of page {HALF_SENT} until the sender has "
        f"all {REQUESTS} requests); the link of {LINK_WORDS}, which this program makes; and the "
        "machine itself, whose processors are threads that read its memory and check it."
    )


def story(cases: Sequence[Case], command: str, page: str | None = None, width: int = WIDTH) -> str:
    """Return all that is printed when the runs are over; arguments as of `sentences`."""
    told = "\n\n".join(
        "\n".join(wrapped(text, width, break_long_words=False))
        for text in (*sentences(cases, command, page), small_print(cases))
    )
    return f"{bars(cases, width)}\n\n{told}\n"
