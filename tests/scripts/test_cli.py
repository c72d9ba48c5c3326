"""The commands that a person types are this program, however they are called."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

# Where pip puts a package's commands.
SCRIPT = Path(sys.executable).with_name("midstream")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "scripts"], [str(SCRIPT)]])
def test_both_ways_to_call_it(command: list[str], tmp_path: Path) -> None:
    """`midstream` and `python -m scripts` are the same, from any directory."""
    if command == [str(SCRIPT)] and not SCRIPT.exists():
        pytest.skip("midstream is not installed here")
    done = subprocess.run(
        [*command, "--version"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("midstream ")


def test_an_interrupted_start_is_one_line() -> None:
    """Even the first import of all may be interrupted without a traceback."""
    code = (
        "import sys, importlib.abc\n"
        "class Interrupted(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'scripts.runtime.interrupts':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "import scripts.cli\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "midstream: cancelled by SIGINT\n"


def test_the_launcher_holds_signals_back_until_they_can_be_answered(tmp_path: Path) -> None:
    """What `scripts/migrate` becomes has SIGINT and SIGTERM blocked; arguments pass unchanged."""
    if subprocess.run(["env", "--block-signal=INT", "true"], check=False).returncode:
        pytest.skip("env has no --block-signal")
    for folder in ("scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    # No shell, which has signals of its own to block; and a first line has no place for spaces.
    (tmp_path / "python").symlink_to(sys.executable)
    tell = "import signal, sys\nprint(sys.argv[1:], signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    files = {
        "scripts/migrate": (ROOT / "scripts" / "migrate").read_text(encoding="utf-8"),
        "scripts/setup": "#!/bin/sh\n",
        ".venv/bin/midstream": f"#!{tmp_path}/python\n{tell}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    # Without arguments it shows what this is about.
    for arguments, words in ((["--save", "a b"], ["migrate", "--save", "a b"]), ([], ["demo"])):
        done = subprocess.run(
            [tmp_path / "scripts" / "migrate", *arguments],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert done.stdout.startswith(f"{words} {{")
        assert all(repr(number) in done.stdout for number in (signal.SIGINT, signal.SIGTERM))


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("a b", ""), ("a'b c", ""),
        ('a "b', "'\"'"), ("a $b", "'$'"), ("a `b", "'`'"), ("a \\b", "'\\'"), ("a:b", "':'"),
        ("a\nb", "$'\\n'"), (f"{'a' * 101}$", "'$'"),
    ],
)  # fmt: skip
def test_a_folder_in_which_no_command_can_be_is_refused(
    tmp_path: Path, name: str, refused: str
) -> None:
    """Set-up works, or says at once which character in the folder's path is in the way."""
    folder = tmp_path / name
    (folder / "scripts").mkdir(parents=True)
    setup = (ROOT / "scripts" / "setup").read_text(encoding="utf-8")
    # What would take its time comes after this.
    path = folder / "scripts" / "setup"
    path.write_text(setup.replace("    is_current && return\n", "    exit 0\n", 1))
    path.chmod(0o755)
    done = subprocess.run(
        [path], capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path
    )
    assert done.stdout == ""
    if not refused:
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"whose path has {refused} in it: " in line


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        *((f"-n {count}", ("open files",)) for count in (5, 6, 7, 9, 12, 15, 16)),
        ("-v 60000", ("out of memory", "ulimit -v")),
    ],
)
def test_too_little_of_anything_is_a_line(tmp_path: Path, limit: str, words: tuple[str]) -> None:
    """Limits under which nothing can run end in one line that says which, and leave nothing."""
    command = [sys.executable, "-m", "scripts", "migrate", "--size=2MiB", "--page-size=4KiB"]
    done = subprocess.run(
        ["/bin/sh", "-c", f'ulimit {limit} && exec "$@"', "sh", *command, "--quiet"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("midstream: ")
    assert "internal error" not in line
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_nearly_enough_open_files_are_a_line_or_a_good_end(tmp_path: Path) -> None:
    """Wherever both sides run out, until they do not: no internal error says so, and none hangs."""
    command = [sys.executable, "-m", "scripts", "migrate", "--size=2MiB", "--page-size=4KiB"]
    ends = set()
    for count in range(17, 25):
        done = subprocess.run(
            ["/bin/sh", "-c", f'ulimit -n {count} && exec "$@"', "sh", *command, "--quiet"],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        ends.add(done.returncode)
        if done.returncode == 0:
            assert (done.stdout, done.stderr) == ("", "")
            break
        (line,) = done.stderr.splitlines()
        assert "open files" in line
        assert "internal error" not in line
        assert list(tmp_path.iterdir()) == []
    assert ends <= {0, 1}


# Writes what a tool remembers to where it is told to, and else into the project folder.
TOOL = """#!/bin/sh
set -e
case "$0" in
*/ruff) place=${RUFF_CACHE_DIR:-.ruff_cache} ;;
*/mypy) place=${MYPY_CACHE_DIR:-.mypy_cache} ;;
*/pytest) place=${PYTEST_ADDOPTS##*cache_dir=} && place=${place:-.pytest_cache} ;;
esac
mkdir -p "$place"
touch "$place/remembered"
echo "$0 has a place"
"""


def test_a_read_only_checkout_is_tested_without_a_trace(tmp_path: Path) -> None:
    """The tools remember elsewhere, and what they have remembered is gone in the end."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare")
    root, place = tmp_path / "root", tmp_path / "tmp"
    for folder in (root / "scripts", root / ".venv" / "bin", place):
        folder.mkdir(parents=True)
    files = {"scripts/test": (ROOT / "scripts" / "test").read_text(encoding="utf-8")}
    files |= {"scripts/setup": "#!/bin/sh\n"}
    files |= {f".venv/bin/{tool}": TOOL for tool in ("ruff", "mypy", "pytest")}
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
        (root / name).chmod(0o755)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$1/scripts/test"'
    is_root = os.geteuid() == 0
    namespaces = [unshare, "--mount", *([] if is_root else ["--user", "--map-root-user"])]
    done = subprocess.run(
        [*namespaces, "sh", "-c", script, "sh", root], env={**os.environ, "TMPDIR": str(place)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if not done.stdout:
        pytest.skip(f"no folder can be made read-only in a namespace: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("has a place") == 4
    assert list(place.iterdir()) == []
    assert not list(root.glob(".*_cache"))
