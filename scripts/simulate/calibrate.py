"""`midstream calibrate`: measures on this machine what a model needs, and writes it as TOML."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import click

from protocol.errors import MidstreamError, MigrationError
from scripts.bench.noise import Noise, machine, warnings
from scripts.configure import link_spec
from scripts.figures.runs import run_migration
from scripts.files import check_writable
from scripts.links.link import Link, link_of
from scripts.links.spec import LinkSpec
from scripts.named_files import Command, Use, file_option
from scripts.runtime.folders import temporary_folder
from scripts.runtime.parent import PARENT_VARIABLE
from scripts.runtime.spawn import package_environment
from scripts.screen.outlet import write_output
from scripts.screen.output import print_result, tell
from scripts.simulate import probes
from scripts.simulate.fitting import fit_costs, fit_crowding
from scripts.simulate.model import BUILT_IN, REFERENCE, SCHEMA, Model
from scripts.simulate.model_files import this_machine_path

_PROBE_SECONDS_MAX = 60.0
# So many runs of one kind: the typical fault of one may be a fifth off that of another.
_PARTS_RUNS = 3
# Of how many vCPUs they are.
_ONE, _SEVERAL = 1, 4
# A woken process that is this late in one of a hundred cases has others before it.
_LATE_NS_MAX = 1_000_000

Plain = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """The measured values.

    Attributes:
        kernel: What `probes` found on the link.
        late_ns: How late woken processes ran.
        whole: The report of a run whose pages go whole.
        parts: By the number of vCPUs, those of runs whose faults are served by 4 KiB.
    """

    kernel: Mapping[str, float]
    late_ns: Sequence[int]
    whole: Plain
    parts: Mapping[int, Sequence[Plain]]


@click.command("calibrate", cls=Command)
@click.option(
    "--link", default="1Gbit/s", show_default=True, metavar="RATE[,...]",
    help="The link on which it is measured, as in migrate.",
)  # fmt: skip
@file_option(
    "--out", default=None, metavar="FILE", use=Use.WRITE,
    help="Where the model goes; default: where `simulate --model this-machine` finds it.",
)  # fmt: skip
def command(link: str, out: str | None) -> None:
    """Measure on this machine what simulate needs to know of it.

    It takes a minute or two: sockets on a link of one's own, processes that wake each other, a few
    short migrations, and simulated ones until they take as long.
    """
    spec = link_spec(link)
    if not spec:
        raise click.BadParameter("it is measured on a link, give a rate", param_hint="--link")
    path = Path(out) if out is not None else this_machine_path()
    if out is not None:
        check_writable("--out", out)
    noise = Noise()
    found = measure(spec)
    reasons = too_noisy(warnings(noise.to_plain([])), found.late_ns)
    model = fitted(model_from(found, spec), found, spec)
    text = to_toml(model, link, reasons)
    try:
        if out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, text.encode())
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
    for reason in reasons:
        tell(f"midstream: this machine is not quiet: {reason}")
    if reasons:
        tell("midstream: with this model nothing is predicted beyond p90")
    print_result(f"{path}\n{text}")


def measure(spec: LinkSpec) -> Findings:
    """Measure all of it.

    Raises:
        MidstreamError: The link cannot be had, or a run fails.
    """
    with link_of(spec) as link:
        kernel = _probe(link)
    with temporary_folder("calibrate") as folder:
        whole = run_migration({**_run_options(spec), "policy": "ordered"}, folder)
        parts = {
            count: [run_migration(_parts_options(spec, count), folder) for _ in range(_PARTS_RUNS)]
            for count in (_ONE, _SEVERAL)
        }
    return Findings(kernel, probes.late_ns(), whole, parts)


def _run_options(spec: LinkSpec, vcpu_count: int = 1) -> dict[str, str]:
    return {
        "size": "64MiB", "postcopy-after": "0", "vcpus": str(vcpu_count), "access-rate": "0",
        "write-ratio": "0", "start-paused": "", "link": str(spec),
    }  # fmt: skip


def _parts_options(spec: LinkSpec, vcpu_count: int) -> dict[str, str]:
    return {**_run_options(spec, vcpu_count), "policy": "critical-first"}


def fitted(model: Model, found: Findings, spec: LinkSpec) -> Model:
    """Return the model with processor costs with which simulated runs are like the measured ones.

    Raises:
        MidstreamError: A run fails.
    """
    with temporary_folder("calibrate") as folder:
        path = folder / "model.toml"

        def simulate(vcpu_count: int, tried: Model) -> Plain:
            path.write_text(to_toml(tried, str(spec), []), encoding="utf-8")
            options = {**_parts_options(spec, vcpu_count), "model": str(path)}
            report: Plain = run_migration(options, folder, "simulate")["midstream"]
            return report

        one, several = (_typical(found.parts[count]) for count in (_ONE, _SEVERAL))
        model = fit_costs(model, one, partial(simulate, _ONE))
        return fit_crowding(model, several, partial(simulate, _SEVERAL))


def _typical(reports: Sequence[Plain]) -> Plain:
    """Return the one of several runs whose typical fault is in the middle."""
    parts: list[Plain] = [report["midstream"] for report in reports]
    return sorted(parts, key=lambda part: float(part["faults"]["p50-us"]))[len(parts) // 2]


def _probe(link: Link) -> dict[str, float]:
    """Return what the kernel does with connections over a link."""
    environment = {**package_environment(), PARENT_VARIABLE: str(os.getpid())}

    def words(side: str, *what: str) -> list[str]:
        return [*link.prefixes[side], sys.executable, "-P", "-m", "scripts.simulate.probes", *what]

    with subprocess.Popen(
        words("dest", "read", link.listen_host), env=environment, stdout=subprocess.PIPE
    ) as reader:
        try:
            assert reader.stdout is not None
            ready, _, _ = select.select([reader.stdout], [], [], _PROBE_SECONDS_MAX)
            port = reader.stdout.readline().decode().strip() if ready else ""
            if not port:
                raise MigrationError("nothing could be read at the other end of the link")
            done = subprocess.run(
                words("source", "write", link.listen_host, port), env=environment,
                capture_output=True, check=False, timeout=_PROBE_SECONDS_MAX,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise MigrationError("the probe of the link has not ended") from error
        finally:
            reader.kill()
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise MigrationError(f"the link could not be probed: {lines[-1] if lines else '?'}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def model_from(found: Findings, spec: LinkSpec) -> Model:
    """Return the model that measurements make; what none of them tells is `reference`'s.

    What processors take of a fault is still to be `fitted`.
    """
    base, kernel = BUILT_IN[REFERENCE], found.kernel
    full, writable = kernel["small-full-bytes"], kernel["small-writable-bytes"]
    whole, parts = found.whole["midstream"], _typical(found.parts[_ONE])
    late = sorted(found.late_ns)
    typical = int(median(late))
    values: dict[str, float] = {
        "efficiency": min(kernel["bytes-per-second"] / spec.bytes_per_second, 1.0),
        "round-trip-ns": max(kernel["round-trip-ns"] - spec.rtt_us * 1000, 1000),
        "small-buffer-factor": full / probes.SMALL_BYTES,
        "fill": min(max((full + writable) / (2 * full), 0.51), 1.0),
        "bounded-share": min(max(kernel["share-of-small"], 0.01), 0.99),
        "default-buffer-bytes": kernel["default-full-bytes"],
        "copy-bytes-per-second": 1e9 / max(kernel["copy-ns-per-byte"], 0.01),
        "map-ns": whole["stages"]["place"]["p50-us"] * 1000 / 512,
        "wake-ns": parts["stages"]["wake"]["p50-us"] * 1000,
        "late-ns": typical,
        "noise-ns": max(mean(late) - typical, 0),
        "takeover-ns": max(whole["downtime-ms"] * 1e6 - base.stop_ns, 1000),
    }
    plain = base.to_plain()
    rounded = {
        name: value if isinstance(plain[name], float) else round(value)
        for name, value in values.items()
    }
    return base.with_changes(f"{name}={value}" for name, value in rounded.items())


def too_noisy(told: Sequence[str], late_ns: Sequence[int]) -> list[str]:
    """Return why this machine cannot tell what happens rarely; nothing if it can."""
    rare_ns = sorted(late_ns)[len(late_ns) * 99 // 100]
    reasons = list(told)
    if rare_ns > _LATE_NS_MAX:
        reasons.append(f"one woken process in a hundred ran {rare_ns / 1e6:.3g} ms late")
    return reasons


def to_toml(model: Model, link: str, reasons: Sequence[str]) -> str:
    """Return a model's file, dated, with what machine it is of and why it is not quiet."""
    lines = [
        f"schema = {json.dumps(SCHEMA)}",
        f"date = {datetime.now(UTC).replace(microsecond=0).isoformat()}",
        f"quiet = {str(not reasons).lower()}",
        f"noise = {json.dumps(list(reasons))}",
        f"link = {json.dumps(link)}",
        "",
        "[machine]",
        *(f"{name} = {json.dumps(value)}" for name, value in machine().items()),
        "",
        "[model]",
        *(f"{name} = {json.dumps(value)}" for name, value in model.to_plain().items()),
    ]
    return "\n".join(lines) + "\n"
