"""How much memory of their own the processes of a migration take, beside the guest's.

    python -m scripts.figures.memory_use --size 2GiB

Guest memory is shared (a memfd); what a process has of its own is anonymous.  A copy of the guest,
or of a part that grows with it, would show there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from scripts.runtime.spawn import package_environment

# Interpreter, libraries, and what is kept of a guest of some GiB.
_ANONYMOUS_BYTES_MAX = 96 << 20
_SAMPLE_SECONDS = 0.02
_RUN_SECONDS_MAX = 1800.0


def anonymous_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return how much anonymous memory a process has, 0 if it is gone."""
    try:
        lines = (proc / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = [line.split() for line in lines if line.startswith("RssAnon:")]
    return int(found[0][1]) << 10 if found else 0


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Return a process and all that it and its children have started."""
    pids = [pid]
    for each in pids:
        for children in proc.glob(f"{each}/task/*/children"):
            try:
                pids += map(int, children.read_text(encoding="ascii").split())
            except OSError:
                continue  # Gone meanwhile.
    return pids


def command_of(pid: int, proc: Path = Path("/proc")) -> str:
    """Return what a process is called here: its module and, of a side, its command."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(words[words.index("-m") + 1 :][:2]) if "-m" in words else ""


def watch(command: list[str]) -> tuple[int, dict[str, int]]:
    """Run a migration; return its exit status and each process's peak of anonymous bytes."""
    peaks: dict[str, int] = {}
    deadline = time.monotonic() + _RUN_SECONDS_MAX
    with subprocess.Popen(command, env=package_environment(), stdin=subprocess.DEVNULL) as root:
        while root.poll() is None and time.monotonic() < deadline:
            for pid in descendants(root.pid):
                name = f"{pid} {command_of(pid)}"
                peaks[name] = max(peaks.get(name, 0), anonymous_bytes(pid))
            time.sleep(_SAMPLE_SECONDS)
        root.terminate()
        return root.wait(), peaks


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--size", default="2GiB", show_default=True, help="Guest memory.")
@click.argument("options", nargs=-1)
def main(size: str, options: tuple[str, ...]) -> None:
    """Migrate a guest, with more OPTIONS of `midstream migrate`; print each process's peak."""
    arguments = ["-P", "-m", "scripts", "migrate", f"--size={size}", "--quiet", *options]
    status, peaks = watch([sys.executable, *arguments])
    for name, peak_bytes in peaks.items():
        if not peak_bytes:
            continue  # Seen only as it began or ended.
        click.echo(f"{peak_bytes / (1 << 20):8.1f} MiB  {name}")
    too_much = max(peaks.values(), default=0) > _ANONYMOUS_BYTES_MAX
    if too_much:
        click.echo(f"more than {_ANONYMOUS_BYTES_MAX >> 20} MiB", err=True)
    sys.exit(status or int(too_much))


if __name__ == "__main__":
    main()
