"""The shaped link: it is there, it is slow, it is gone afterwards, and there is always one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import MigrationError
from scripts.links import namespaces, relay, tools
from scripts.links.link import (
    LOOPBACK,
    NAMESPACES,
    PROXY,
    Link,
    link_of,
    namespaces_link,
)
from scripts.links.namespaces import ADDRESSES
from scripts.links.shape import RATE_MAX, RATE_MIN, burst_bytes
from scripts.links.spec import FIFO, FQ_CODEL, PFIFO_FAST, LinkSpec, parse_link
from tests.bounds import nothing_left
from tests.processes import Lab

RATE = 125_000_000
SPEC = LinkSpec(RATE)


@pytest.fixture(scope="module", params=["as it is", "user namespace"])
def joined(request: pytest.FixtureRequest) -> Iterator[Link]:
    """A link of 1 Gbit/s, where one can be had: as this user may, and in a user namespace."""
    with ExitStack() as stack:
        try:
            if request.param == "user namespace":
                prefixes = namespaces._join(stack, SPEC, new_user=True)
                made = Link(SPEC, NAMESPACES, PFIFO_FAST, prefixes, ADDRESSES["dest"])
            else:
                made = stack.enter_context(namespaces_link(SPEC))
        except MigrationError as error:
            pytest.skip(f"network namespaces ({request.param}): {error}")
        yield made


def run(prefix: Sequence[str], *command: str) -> str:
    """Run a command in a namespace and return its output."""
    return subprocess.run(
        [*prefix, *command], capture_output=True, text=True, check=True, timeout=10
    ).stdout


def test_each_side_has_its_own_network(joined: Link) -> None:
    """In its namespace each side has its address and nothing of this machine's."""
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert ip is not None

    for side, address in ADDRESSES.items():
        addresses = run(joined.prefixes[side], ip, "-brief", "-4", "address")
        assert [line.split()[0].split("@")[0] for line in addresses.splitlines()] == ["lo", "mig"]
        assert address in addresses


def test_both_directions_are_shaped(joined: Link) -> None:
    """A token bucket of the rate stands at each end."""
    tc = shutil.which("tc", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert tc is not None

    for prefix in joined.prefixes.values():
        shaping = run(prefix, tc, "qdisc", "show", "dev", "mig")
        assert "tbf" in shaping
        assert "rate 1Gbit" in shaping


@pytest.mark.parametrize(
    ("queue", "kinds"),
    [("", ["tbf", "pfifo_fast"]), (PFIFO_FAST, ["tbf", "pfifo_fast"]), (FIFO, ["tbf"])],
)
def test_the_queue_is_the_one_that_is_wanted(joined: Link, queue: str, kinds: list[str]) -> None:
    """What Linux gives a card, or one FIFO, which is the bucket's own; the link says which."""
    with namespaces_link(LinkSpec(RATE, queue)) as made:
        for prefix in made.prefixes.values():
            assert [each["kind"] for each in queues(prefix)] == kinds
        assert made.queue == (queue or PFIFO_FAST)
        assert made.note is not None
        assert made.note.to_plain()["queue"] == made.queue
        assert parse_link(made.option) == made.spec


def test_what_the_kernel_has_not_is_refused_by_name(
    joined: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that no module is there for is named, and what to type; nothing takes its place."""
    monkeypatch.setattr(namespaces, "_shape", lambda _: [["qdisc", "show"], ["qdisc", "add", "x"]])
    refusal = r"^the link cannot have queue=fq_codel here: .* lacks it \(modprobe sch_fq_codel\)"
    with (
        nothing_left(),
        pytest.raises(MigrationError, match=refusal),
        link_of(LinkSpec(RATE, FQ_CODEL)),
    ):
        pass


def test_fq_codel_is_used_where_the_kernel_has_it_and_refused_in_one_line_elsewhere(
    lab: Lab, joined: Link
) -> None:
    """What this kernel does with it is what is said of it; nothing less takes its place."""
    try:
        with namespaces_link(LinkSpec(RATE, FQ_CODEL)) as made:
            for prefix in made.prefixes.values():
                assert [each["kind"] for each in queues(prefix)] == ["tbf", "fq_codel"]
            assert made.queue == FQ_CODEL
    except MigrationError:
        # Which it says itself, and not that something else is missing.
        process = lab.fork("migrate", "--size=4MiB", f"--link={RATE}B/s,queue=fq_codel")
        process.fail(1, "the link cannot have queue=fq_codel here", "modprobe sch_fq_codel")


def test_one_side_reaches_the_other(joined: Link) -> None:
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


@pytest.mark.parametrize("text", ["1Gbit/s", "1Gbit/s,rtt=1ms"])
def test_nothing_is_left(joined: Link, text: str) -> None:
    """When the block is left no holder lives, and with the last holder goes its namespace."""
    with relayed_link(text) as made:
        pids = [prefix_pid(prefix) for prefix in made.prefixes.values()]
        handles = [Path(f"/proc/{pid}/stat") for pid in (*pids, *relays_of(os.getpid()))]
        assert all(handle.exists() for handle in handles)
        assert len(handles) == 2 + made.spec.is_relayed

    assert not any(handle.exists() for handle in handles)


@pytest.mark.parametrize("text", ["1Gbit/s", "1Gbit/s,rtt=1ms"])
def test_nothing_is_left_of_a_killed_process(joined: Link, text: str) -> None:
    """When the process that made the link is killed, its holders and its relay end, too."""
    with relayed_link(text):
        pass
    code = (
        "import sys, time\n"
        "from scripts.links.link import namespaces_link\n"
        "from scripts.links.spec import parse_link\n"
        f"with namespaces_link(parse_link({text!r})) as made:\n"
        "    print(made.prefixes['source'][1], made.prefixes['dest'][1], flush=True)\n"
        "    time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    with maker:
        pids = [int(word.partition("=")[2]) for word in maker.stdout.readline().split()]
        pids += relays_of(maker.pid)
        handles = [Path(f"/proc/{pid}/stat") for pid in pids]
        assert len(handles) == 2 + ("rtt" in text)
        assert all(handle.exists() for handle in handles)
        maker.send_signal(signal.SIGKILL)

    wait_gone(handles)


def test_a_machine_without_the_tools_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tool is missing, the error names it."""
    monkeypatch.setattr(namespaces, "TOOLS", ("ip", "no-such-tool"))

    with pytest.raises(MigrationError, match="no-such-tool"), namespaces_link(SPEC):
        pass


@pytest.mark.parametrize("tool", ["/bin/false", "/no/such/tool"])
def test_what_the_tools_refuse_is_told(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    """A tool that fails, or cannot even be started, is a reason and no crash."""
    monkeypatch.setattr(tools, "path_of", lambda _: tool)

    with (
        nothing_left(),
        pytest.raises(MigrationError, match=r"cannot start|can be made"),
        namespaces_link(SPEC),
    ):
        pass


@pytest.mark.parametrize(("user", "ways"), [(0, [False, True]), (1000, [True])])
def test_a_user_namespace_is_tried_too(
    monkeypatch: pytest.MonkeyPatch, user: int, ways: list[bool]
) -> None:
    """Root tries its own right first, everybody a user namespace; the first refusal is told."""
    tried: list[bool] = []

    def refuse(_stack: ExitStack, _spec: LinkSpec, *, new_user: bool) -> Link:
        tried.append(new_user)
        raise MigrationError(f"refusal {len(tried)}")

    monkeypatch.setattr(namespaces, "_join", refuse)
    monkeypatch.setattr("os.geteuid", lambda: user)

    with pytest.raises(MigrationError, match="refusal 1"), namespaces_link(SPEC):
        pass
    assert tried == ways


def test_no_rate_is_no_link() -> None:
    """A rate of 0 stands for plain loopback."""
    with link_of(LinkSpec()) as made:
        assert made is LOOPBACK
        assert not made.note


def test_where_there_is_no_namespace_there_is_a_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That it is a proxy is told, in one line that says why; it is a FIFO, and nothing else."""
    monkeypatch.setattr(namespaces, "TOOLS", ("no-such-tool",))

    with (
        pytest.raises(MigrationError, match=r"cannot have queue=pfifo_fast here: .*no-such-tool"),
        link_of(LinkSpec(RATE, PFIFO_FAST)),
    ):
        pass
    with link_of(LinkSpec(RATE, FIFO)) as made:
        assert made.kind == PROXY
    capsys.readouterr()
    with link_of(SPEC) as made:
        assert (made.kind, made.bytes_per_second, made.queue) == (PROXY, RATE, FIFO)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("midstream: the link is a proxy")
    assert line.endswith("this machine lacks no-such-tool")


def test_a_migration_goes_through_the_proxy(lab: Lab, tmp_path: Path) -> None:
    """Without namespaces `--link` works all the same, no faster than it says, and says what it is.

    The rate is one for both connections: all that was sent took its time.
    """
    done = lab.fork(
        "migrate", "--size=8MiB", "--link=30MB/s", "--vcpus=1", "--postcopy-after=0",
        "--report=report", rig="no-namespaces",
    )  # fmt: skip

    assert done.wait() == 0
    (line,) = done.errors.splitlines()
    assert line.startswith("midstream: the link is a proxy")
    assert "240 Mbit/s (a proxy)" in done.output
    report = json.loads((tmp_path / "report").read_text(encoding="utf-8"))
    own = report["midstream"]
    assert own["link"] == {"kind": "proxy", "bytes-per-second": 30_000_000, "queue": "fifo"}
    assert own["channels"]["postcopy"]
    seconds = (report["total-time"] - report["setup-time"]) / 1000
    # What the buffers on the way hold is not counted by who has the clock.
    assert report["ram"]["transferred"] / seconds < 30_000_000 * 1.2


@pytest.mark.parametrize("rate", [RATE_MIN, 12_500_000, RATE_MAX])
def test_any_rate_can_be_had(joined: Link, rate: int) -> None:
    """The kernel takes the sizes of the slowest link and of the fastest."""
    with namespaces_link(LinkSpec(rate)) as made:
        for prefix in made.prefixes.values():
            assert [each["kind"] for each in queues(prefix)] == ["tbf", "pfifo_fast"]
        # Nobody has sent enough for that yet.
        assert not made.has_held()


def test_a_slow_link_lets_no_more_pass_at_once(joined: Link) -> None:
    """A burst is in proportion to the rate: 64 KiB take their time, and then the link has held."""
    rate = 128_000
    serve = (
        "import socket\n"
        f"s = socket.create_server(({ADDRESSES['dest']!r}, 4000)); print('up', flush=True)\n"
        "c = s.accept()[0]; n = 0\n"
        "while n < 65536: n += len(c.recv(65536))"
    )
    say = (
        "import socket, time; began = time.monotonic()\n"
        f"c = socket.create_connection(({ADDRESSES['dest']!r}, 4000), 9)\n"
        "c.sendall(bytes(65536)); c.recv(1); print(time.monotonic() - began)"
    )
    with namespaces_link(LinkSpec(rate)) as made:
        server = subprocess.Popen(
            [*made.prefixes["dest"], sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        with server:
            assert server.stdout.readline() == "up\n"
            seconds = float(run(made.prefixes["source"], sys.executable, "-c", say))
        # Heads of packets are more than what passes at once.
        assert seconds > (65536 - burst_bytes(rate)) / rate
        assert made.has_held()


@pytest.mark.parametrize("rig", ["", "no-namespaces"])
def test_a_link_that_held_nothing_is_told(lab: Lab, joined: Link, rig: str) -> None:
    """Where the link never was what anybody waited for, figures are not of that link."""
    done = lab.fork("migrate", "--size=2MiB", "--link=1000Gbit/s", "--quiet", rig=rig)
    assert done.wait() == 0
    assert done.errors.splitlines()[-1].endswith("never was the limit: nothing had to wait for it")


@pytest.mark.parametrize("rig", ["", "no-namespaces"])
def test_a_link_that_moves_is_not_dead(lab: Lab, joined: Link, rig: str) -> None:
    """A guest that takes longer than a silent peer is waited for comes over all the same."""
    done = lab.fork(
        "migrate", "--size=96KiB", "--page-size=4KiB", "--link=256kbit/s", "--vcpus=1",
        "--access-rate=1", "--keepalive-timeout=2s", "--quiet", "--report=report", rig=rig,
    )  # fmt: skip
    assert done.wait() == 0, done.errors
    report = json.loads((lab.folder / "report").read_text(encoding="utf-8"))
    assert report["total-time"] > 2000
    assert report["midstream"]["recoveries"] == 0


@pytest.mark.parametrize("joined", ["as it is"], indirect=True)
def test_a_migration_goes_over_its_own_network(lab: Lab, tmp_path: Path, joined: Link) -> None:
    """Where there are namespaces `--link` uses them, and the report says so."""
    lab.fork("migrate", "--size=8MiB", "--link=1Gbit/s", "--quiet", "--report=report").succeed()

    report = json.loads((tmp_path / "report").read_text(encoding="utf-8"))
    assert report["midstream"]["link"] == {
        "kind": NAMESPACES, "bytes-per-second": RATE, "queue": PFIFO_FAST
    }  # fmt: skip


def queues(prefix: Sequence[str]) -> list[dict[str, Any]]:
    """Return what tc says of the queues of a namespace's end of the link."""
    tc = shutil.which("tc", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert tc is not None
    found: list[dict[str, Any]] = json.loads(
        run(prefix, tc, "-s", "-j", "qdisc", "show", "dev", "mig")
    )
    return found


@contextmanager
def relayed_link(text: str) -> Iterator[Link]:
    """Make a link of namespaces, which may need a TUN device."""
    try:
        with namespaces_link(parse_link(text)) as made:
            yield made
    except MigrationError as error:
        if relay.DEVICE not in str(error):
            raise
        pytest.skip(f"TUN devices: {error}")


def relays_of(parent: int) -> list[int]:
    """Return the relays that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.with_name("cmdline").read_bytes().split(b"\0")
            ppid = int(path.read_text().rpartition(")")[2].split()[1])
            if b"scripts.links.relay" in words and ppid == parent:
                found.append(int(path.parent.name))
    return found


def prefix_pid(prefix: Sequence[str]) -> int:
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
