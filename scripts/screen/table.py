"""The result of a migration for a person: the verdict, then one or two lines an item."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from guest.spec import PYTHON
from protocol.units import format_bytes, format_rate
from scripts.screen.facts import facts_of
from scripts.screen.verdict import judge
from scripts.screen.words import counted, time_ms, time_us, wrapped

Report = dict[str, Any]

_COLUMNS = 80
# On a terminal that is narrower than this, lines wrap as it likes.
_WIDTH_MIN = 30
_NAME_CHARS = 16
_TEXT_CHARS = _COLUMNS - 1 - _NAME_CHARS


def table(report: Report, columns: int = _COLUMNS) -> str:
    """Return what matters of a report.

    Args:
        report: The report.
        columns: How wide the terminal is; 80 is as wide as it gets.
    """
    width = max(min(columns, _COLUMNS) - 1, _WIDTH_MIN)
    own = report["midstream"]
    items = _qemu_items(report) if own.get("peer") == "qemu" else _items(report)
    lines = "".join(_item(name, text, width) for name, text in items.items())
    return f"{judge(facts_of(report)).in_lines(width)}\n{lines}"


def _items(report: Report) -> dict[str, str]:
    own = report["midstream"]
    return {
        "status": _status(report),
        "policy": _policy(own),
        **({"guest": _guest(own)} if own["guest"] != PYTHON or own["guest-reason"] else {}),
        **({"link": link_words(own["link"])} if "link" in own else {}),
        "time": _times(report),
        **({"model": _model(own["simulated"])} if "simulated" in own else {}),
        **_trace(own["switch-over"]),
        "memory": _memory(report),
        "channels": _channels(own["channels"]),
        "page requests": _requests(own["requests"]),
        "preemptions": "{count}, {boosted} finished early on request".format(**own["preemptions"]),
        "fault latency": _latency(own["faults"], "wait of a vCPU", "waits of vCPUs"),
        "access latency": _latency(own["accesses"], "access", "accesses"),
        "verified": _verified(own["verified"]),
        **({"image": _changed(own["image"])} if "image" in own else {}),
    }


def _qemu_items(report: Report) -> dict[str, str]:
    """Return what can be told where the source is a QEMU, which keeps the rest to itself."""
    own, ram = report["midstream"], report["ram"]
    requests = (
        "{received}: preempt channel {on-postcopy-channel}, main channel {on-precopy-channel}"
    ).format(**own["requests"])
    total, setup = time_ms(report["total-time"]), time_ms(report["setup-time"])
    guest, came = format_bytes(ram["total"]), format_bytes(ram["normal-bytes"])
    reads = counted(own["verified"]["reads-unchecked"], "read", "reads")
    return {
        "status": report["status"],
        "source": f"QEMU, machine {own['machine']}",
        "policy": f"{own['policy']}, placement {own['placement']}, backing {own['backing']}",
        "time": f"{total}, including setup {setup}",
        "memory": f"{guest} guest, {came} of pages came at {format_rate(ram['mbps'] * 125e3)}",
        "channels": _channels(own["channels"]),
        "page requests": requests if own["requests"]["received"] else "none",
        "fault latency": _latency(own["faults"], "wait of a vCPU", "waits of vCPUs"),
        "access latency": _latency(own["accesses"], "access", "accesses"),
        "verified": f"not here: {reads} of memory that QEMU alone knows",
    }


def link_title(link: dict[str, Any]) -> str:
    """Return what a report says of the link between the sides, in a sentence."""
    return f"link of {link_words(link)}"


def link_words(link: dict[str, Any]) -> str:
    """Return the rate of a link and what else a report says of it, for a person."""
    kinds = {"namespaces": "network namespaces", "proxy": "a proxy", "modelled": "modelled"}
    mbits = link["bytes-per-second"] * 8 / 1e6
    rate = f"{mbits / 1000:g} Gbit/s" if mbits >= 1000 else f"{mbits:.6g} Mbit/s"
    # Reports of before said nothing of a queue, and a proxy has no other.
    queue = f", {link['queue']}" if link["kind"] != "proxy" and "queue" in link else ""
    rtt = f", RTT {link['rtt-ms']:g} ms" if "rtt-ms" in link else ""
    loss = f", loss {link['loss']:.3g}" if "loss" in link else ""
    return f"{rate}{queue}{rtt}{loss} ({kinds[link['kind']]})"


def _item(name: str, text: str, width: int) -> str:
    """Return an item's lines: its name stands before the first, the others below that."""
    room = width - _NAME_CHARS
    lines = [line for whole in text.split("\n") for line in wrapped(whole, room)] or [""]
    indent = "\n" + " " * _NAME_CHARS
    return f"{name:<{_NAME_CHARS}}{indent.join(lines)}\n"


def _status(report: Report) -> str:
    verified = report["midstream"]["verified"]
    if verified is None:
        return f"{report['status']}, simulated"
    good = verified["digest-equal"] and not verified["mismatches"]
    return f"{report['status']}{', verified' if good else ', but the memory is WRONG'}"


def _policy(own: dict[str, Any]) -> str:
    line = f"{own['policy']}, placement {own['placement']}, backing {own['backing']}"
    reason = own["placement-reason"]
    return "\n".join([line, *wrap(f"no userfaultfd: {reason}", _TEXT_CHARS)] if reason else [line])


def _guest(own: dict[str, Any]) -> str:
    """Return what runs the vCPUs, and what a guest with a clock of its own saw of its move."""
    lines = [f"{own['guest']}, dirty log {own['dirty-log']}"]
    if "guest-blackout-us" in own:
        stall = time_us(own.get("guest-stall-us", 0.0))
        blackout = time_us(own["guest-blackout-us"])
        lines.append(f"by its own clock: blackout {blackout}, longest stall {stall}")
    return "\n".join([*lines, *wrap(own["guest-reason"], _TEXT_CHARS)])


def _model(simulated: dict[str, Any]) -> str:
    """Return by what model a run was simulated, and what that took here."""
    took = f"simulated in {simulated['cpu-seconds']:.3g} s of CPU"
    quiet = "" if simulated["model-quiet"] else "\nof a noisy machine: p99 and beyond not predicted"
    return f"{simulated['model']}, {took}{quiet}"


def _times(report: Report) -> str:
    total, setup = time_ms(report["total-time"]), time_ms(report["setup-time"])
    return (
        f"{total}, including setup {setup}; downtime {time_ms(report['midstream']['downtime-ms'])}"
    )


def _trace(switch_over: dict[str, Any]) -> dict[str, str]:
    """Return what to say of a trace: that it had come to its end when it was to begin to matter."""
    if switch_over.get("trace-accesses-left") != 0:
        return {}
    return {"trace": "used up before the switch-over: the destination's vCPUs were idle"}


def _memory(report: Report) -> str:
    ram = report["ram"]
    guest, sent = format_bytes(ram["total"]), format_bytes(ram["normal-bytes"])
    passes = counted(report["midstream"]["passes"], "precopy pass", "precopy passes")
    return f"{guest} guest, {sent} of pages sent at {format_rate(ram['mbps'] * 125e3)}\n{passes}"


def _channels(channels: dict[str, int]) -> str:
    sizes = {name.replace("-", " "): format_bytes(count) for name, count in channels.items()}
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _requests(requests: dict[str, int]) -> str:
    if not requests["received"]:
        return "none"
    return (
        "{received}: postcopy channel {on-postcopy-channel}, precopy channel {on-precopy-channel}\n"
        "already sent {already-sent}, duplicate {duplicate}, postponed {postponed}"
    ).format(**requests)


def _latency(summary: dict[str, Any], one: str, many: str) -> str:
    if not summary["count"]:
        return "none"
    names = ("p50", "p90", "p99", "max")
    # Of a simulated run the rare ones may be left out.
    told = [name for name in names if summary[f"{name}-us"] is not None]
    figures = ", ".join(f"{name} {time_us(summary[f'{name}-us'])}" for name in told)
    return f"{figures}\n{counted(summary['count'], one, many)} in postcopy"


def _verified(verified: dict[str, Any] | None) -> str:
    if verified is None:
        return "nothing: no memory was made, and no byte compared"
    reads = counted(verified["reads"], "guest read", "guest reads")
    mismatches = counted(verified["mismatches"], "mismatch", "mismatches")
    pages = counted(verified["pages"], "page", "pages")
    digests = "equal" if verified["digest-equal"] else "DIFFER"
    unchecked = counted(verified["reads-unchecked"], "read", "reads")
    # What an image holds, only its digest tells.
    more = f"\n{unchecked} of what the image holds and no vCPU has written"
    told = f"{reads} checked, {mismatches}{more if verified['reads-unchecked'] else ''}"
    return f"{told}\n{pages} compared, digests {digests}"


def _changed(image: dict[str, Any]) -> str:
    count = image["changed-target-pages"]
    if not (count or image["at-least"]):
        return "not changed by the guest"
    least = "at least " if image["at-least"] else ""
    pages = counted(count, "target page", "target pages")
    return f"{least}{pages} changed by the guest since;\nwith --write-ratio 0 it changes none"
