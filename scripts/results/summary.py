"""A report in a few lines: what was run, how it went, and the figures that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scripts.results.reading import Report, run_of, schema_of
from scripts.screen.facts import facts_of
from scripts.screen.table import link_title
from scripts.screen.verdict import judge
from scripts.screen.words import counted, time_us

# Options that were typed are shown so far; the file has them all.
_OPTIONS_CHARS_MAX = 160


def lines_of(name: str, report: Report) -> list[str]:
    """Return a report in lines, the first with its file's name.

    Args:
        name: The file's.
        report: What it holds.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: It is not as the schema says.
    """
    run = run_of(report)
    lines = [f"{name}: {_command(run, schema_of(report))}", *_asked(run)]
    kind = schema_of(report).partition("/")[0]
    return [*lines, *(f"  {line}" for line in _KINDS.get(kind, _unknown)(report))]


def _command(run: Mapping[str, Any], schema: str) -> str:
    if not run:
        return f"a report ({schema}) of before they said what was run"
    versions, machine = run["versions"], run["machine"]
    cpus = counted(machine["cpus"], "CPU", "CPUs")
    return (
        f"midstream {run['command']}, {run['started']}, version {versions['midstream']}, Python "
        f"{versions['python']}, Linux {versions['kernel']}, {cpus} ({machine['cpu-model']}), load "
        f"{machine['load-average'][0]:.1f}"
    )


def _asked(run: Mapping[str, Any]) -> Iterator[str]:
    given = run.get("options", {}).get("given", {})
    if not given:
        return
    words = (f"--{name}" if value is True else f"--{name}={_typed(value)}"
             for name, value in given.items())  # fmt: skip
    text = " ".join(words)
    yield f"  {text if len(text) <= _OPTIONS_CHARS_MAX else f'{text[:_OPTIONS_CHARS_MAX]}...'}"


def _typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _migration(report: Report) -> Iterator[str]:
    own = report["midstream"]
    yield from judge(facts_of(report)).text.splitlines()
    if "faults" in own and "policy" in own:
        link = f", {link_title(own['link'])}" if "link" in own else ""
        yield f"{own['policy']}, {own.get('guest', 'QEMU')} guest, backing {own['backing']}{link}"
        yield _latency(own["faults"])


def _latency(faults: Mapping[str, Any]) -> str:
    if not faults["count"]:
        return "no vCPU waited in postcopy"
    figures = ", ".join(f"{key} {time_us(faults[f'{key}-us'])}" for key in ("p50", "p99", "max"))
    return f"{counted(faults['count'], 'wait', 'waits')} of vCPUs: {figures}"


def _qemu(report: Report) -> Iterator[str]:
    ram = report.get("ram", {})
    yield (
        f"a QEMU as the source: {report['status']}, total {report.get('total-time')} ms, downtime "
        f"{report.get('downtime')} ms, {ram.get('postcopy-requests', 0)} page requests"
    )


def _ended(report: Report) -> Iterator[str]:
    reason = report.get("reason")
    yield f"{report.get('status', 'no status')}{f': {reason}' if reason else ''}"


def _comparison(report: Report) -> Iterator[str]:
    yield from _ended(report)
    for name, row in report.get("policies", {}).items():
        runs = row.get("runs", [row])
        failures = {n: run["failure"] for n, run in enumerate(runs, 1) if "failure" in run}
        if len(failures) < len(runs):
            yield f"{name}: {_repeated(row, len(runs) - len(failures))}"
        yield from (
            f"{name}{f' ({number})' if len(runs) > 1 else ''}: FAILED: {reason}"
            for number, reason in failures.items()
        )


def _repeated(row: Mapping[str, Any], count: int) -> str:
    """Return the waits of a row: of one run, or the medians of several."""
    if "spread" not in row:
        return _latency(row["report"]["midstream"]["faults"])
    medians = {key: values[0] for key, values in row["spread"].items()}
    told = _latency(medians)
    return told if count == 1 else f"medians of {count} runs: {told}"


def _benchmark(report: Report) -> Iterator[str]:
    yield from _ended(report)
    figures = report.get("figures", [])
    missed = [figure["name"] for figure in figures if figure.get("met") is False]
    if figures:
        yield f"{counted(len(figures), 'figure', 'figures')}, {len(missed)} beyond their targets"
    yield from (f"missed: {name}" for name in missed)


def _injection(report: Report) -> Iterator[str]:
    yield from _ended(report)
    for scenario in report.get("scenarios", []):
        good = sum(run["met"] for run in scenario["runs"])
        yield f"{scenario['name']}: {good} of {len(scenario['runs'])} as expected"
        for run in scenario["runs"]:
            for failure in run["failures"][:1]:
                yield f"  {failure['what']}: expected {failure['expected']}, seen {failure['seen']}"


def _demonstration(report: Report) -> Iterator[str]:
    yield from _ended(report)
    for name, case in report.get("policies", {}).items():
        yield f"{name}: the half-sent page was waited for {time_us(case['wait-us'])}"


def _relayed(report: Report) -> Iterator[str]:
    yield from _ended(report)
    if "requests" in report:
        latency = report["latency"]
        yield (
            f"{counted(report['requests']['count'], 'page request', 'page requests')}, median "
            f"{time_us(latency['p50-us'])}, at most {time_us(latency['max-us'])}, as seen between"
        )


def _unknown(report: Report) -> Iterator[str]:
    yield from _ended(report)


_KINDS: Mapping[str, Callable[[Report], Iterator[str]]] = {
    "midstream-report": _migration,
    "midstream-qemu": _qemu,
    "midstream-compare": _comparison,
    "midstream-bench": _benchmark,
    "midstream-inject": _injection,
    "midstream-demo": _demonstration,
    "midstream-relay": _relayed,
}
