"""The shaped link: it is there, it is slow, and it is gone afterwards."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import MigrationError
from scripts.processes import link
from scripts.processes.link import ADDRESSES, ShapedLink, link_of_rate, shaped_link

RATE = 125_000_000


@pytest.fixture(scope="module")
def joined() -> Iterator[ShapedLink]:
    """A link of 1 Gbit/s, where one can be had."""
    try:
        with shaped_link(RATE) as made:
            yield made
    except MigrationError as error:
        pytest.skip(f"no shaped link can be had here: {error}")


def run(prefix: list[str], *command: str) -> str:
    """Run a command in a namespace and return its output."""
    return subprocess.run(
        [*prefix, *command], capture_output=True, text=True, check=True, timeout=10
    ).stdout


def test_each_side_has_its_own_network(joined: ShapedLink) -> None:
    """In its namespace each side has its address and nothing of this machine's."""
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert ip is not None

    for side, address in ADDRESSES.items():
        addresses = run(joined.prefixes[side], ip, "-brief", "-4", "address")
        assert [line.split()[0].split("@")[0] for line in addresses.splitlines()] == ["lo", "mig"]
        assert address in addresses


def test_both_directions_are_shaped(joined: ShapedLink) -> None:
    """A token bucket of the rate stands at each end."""
    tc = shutil.which("tc", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert tc is not None

    for prefix in joined.prefixes.values():
        shaping = run(prefix, tc, "qdisc", "show", "dev", "mig")
        assert "tbf" in shaping
        assert "rate 1Gbit" in shaping


def test_one_side_reaches_the_other(joined: ShapedLink) -> None:
    """A connection from the source's namespace arrives in the destination's."""
    listen = (
        "import socket; s = socket.create_server((%r, 4000)); print('up', flush=True); "
        "s.settimeout(9); print(s.accept()[1][0])"
    )
    server = subprocess.Popen(
        [*joined.prefixes["dest"], sys.executable, "-c", listen % ADDRESSES["dest"]],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    with server:
        assert server.stdout.readline() == "up\n"
        connect = f"import socket; socket.create_connection(({ADDRESSES['dest']!r}, 4000), 9)"
        run(joined.prefixes["source"], sys.executable, "-c", connect)
        assert server.stdout.readline().strip() == ADDRESSES["source"]


def test_nothing_is_left(joined: ShapedLink) -> None:
    """When the block is left no holder lives, and with the last holder goes its namespace."""
    with shaped_link(RATE) as made:
        pids = [prefix_pid(prefix) for prefix in made.prefixes.values()]
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)

    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_nothing_is_left_of_a_killed_process(joined: ShapedLink) -> None:
    """When the process that made the link is killed, its holders end by themselves."""
    code = (
        "import sys, time\n"
        "from scripts.processes.link import shaped_link\n"
        f"with shaped_link({RATE}) as made:\n"
        "    print(made.prefixes['source'][1], made.prefixes['dest'][1], flush=True)\n"
        "    time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    with maker:
        pids = [int(word.partition("=")[2]) for word in maker.stdout.readline().split()]
        handles = [Path(f"/proc/{pid}/stat") for pid in pids]
        assert all(handle.exists() for handle in handles)
        maker.send_signal(signal.SIGKILL)

    wait_gone(handles)


def test_a_machine_without_the_tools_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tool is missing, the error names it."""
    monkeypatch.setattr(link, "TOOLS", ("ip", "no-such-tool"))

    with pytest.raises(MigrationError, match="no-such-tool"), shaped_link(RATE):
        pass


def test_no_rate_is_no_link() -> None:
    """A rate of 0 stands for plain loopback."""
    with link_of_rate(0) as made:
        assert made is None


def prefix_pid(prefix: list[str]) -> int:
    """Return the holder's pid in a command line that enters its namespace."""
    return int(prefix[1].partition("=")[2])


def wait_gone(handles: list[Path]) -> None:
    """Wait until no process of these is alive; a zombie is not."""
    for _ in range(500):
        if not any(is_alive(handle) for handle in handles):
            return
        subprocess.run(["sleep", "0.02"], check=True)
    raise AssertionError("a holder lives on")


def is_alive(handle: Path) -> bool:
    """Tell whether /proc shows a process that is no zombie."""
    try:
        return handle.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
