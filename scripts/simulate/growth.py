"""How what a simulated run costs grows: with the faults, not with the pages.

    .venv/bin/python -m scripts.simulate.growth           # some seconds of CPU
    .venv/bin/python -m scripts.simulate.growth policies  # 64 GiB, 64 vCPUs, each policy
    .venv/bin/python -m scripts.simulate.growth largest   # 1 TiB without pause: some minutes

Each line is a process of its own; processor time does not depend on who else is busy.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from protocol.policy import PRESETS
from protocol.units import format_bytes
from scripts.runtime.spawn import package_environment

_COMMON = {
    "link": "100Gbit/s", "model": "native", "postcopy-after": "0", "write-ratio": "0",
    "access-rate": "50", "vcpus": "64", "size": "64GiB",
}  # fmt: skip

_SETS: dict[str, list[dict[str, str]]] = {
    "growth": [
        # As many faults each: the larger a guest, the longer it takes, and the less is touched.
        *(
            {"size": f"{gib}GiB", "access-rate": f"{32 / gib:g}"}
            for gib in (1, 4, 16, 64, 256, 1024)
        ),
        *({"size": "16GiB", "vcpus": vcpus} for vcpus in ("1", "8", "64", "512")),
    ],
    "policies": [{"policy": policy} for policy in PRESETS],
    "largest": [
        {"size": "1TiB", "link": "100Gbit/s,rtt=10ms", "access-rate": "0", "policy": policy}
        for policy in ("ordered", "critical-first")
    ],
}


def measure(options: dict[str, str]) -> dict[str, Any]:
    """Return the report of a run, in a process of its own.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    words = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts", "simulate", *words, "--start-paused", "--quiet",
         "--report=-"],
        env=package_environment(), capture_output=True, check=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def line(options: dict[str, str], report: dict[str, Any]) -> str:
    """Return a line about a run."""
    own = report["midstream"]
    made = own["simulated"]
    return (
        f"{own['policy']:20}{options['size']:>8}{options['vcpus']:>6}"
        f"{own['faults']['count']:>9}{made['events']:>10}{made['cpu-seconds']:>8.1f}"
        f"{format_bytes(made['memory-max-bytes']):>10}"
    )


def main(names: list[str]) -> None:
    """Print a table for each set of runs."""
    for name in names or ["growth"]:
        head = f"{'policy':20}{'size':>8}{'vCPUs':>6}{'faults':>9}{'events':>10}{'CPU s':>8}"
        sys.stdout.write(f"{head}{'memory':>10}\n")
        for changes in _SETS[name]:
            options = {**_COMMON, **changes}
            sys.stdout.write(f"{line(options, measure(options))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
