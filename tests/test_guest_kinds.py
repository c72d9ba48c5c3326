"""Whole migrations of guests of every kind: threads of machine code, virtual machines, neither."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from guest.spec import KVM, NATIVE
from protocol import events
from protocol.errors import GuestFailed, PeerAborted
from protocol.policy import PRESETS, preset
from source.convergence import SwitchRule
from tests.machines import skip_without
from tests.pairs import BUSY, GEOMETRY, PACED, Pair
from tests.processes import GONE_SECONDS_MAX, Lab, environment_of, has_state, until

SMALL = ("--size=8MiB", "--page-size=2MiB", "--quiet")


@pytest.fixture(params=[KVM, NATIVE])
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of guest that this machine can have."""
    name: str = request.param
    skip_without(name)
    return name


@pytest.mark.parametrize("policy", PRESETS)
async def test_a_busy_guest_is_moved_under_every_policy(policy: str, kind: str) -> None:
    """Its vCPUs fault, are served and find what must be there; every byte is as replayed."""
    pair = Pair(policy=preset(policy), guest=kind, **PACED)
    await pair.migrate()
    report = pair.expect_success()
    assert report["midstream"]["guest"] == kind
    assert report["midstream"]["faults"]["count"] > 0
    own_log = "kvm" if kind == KVM else "kernel"
    assert report["midstream"]["dirty-log"] in (own_log, "software")
    blackout_us = report["midstream"].get("guest-blackout-us")
    assert (blackout_us is not None) == (kind == KVM)
    told = pair.dest.events.of(events.GuestClock)
    assert [event["blackout_us"] for event in told] == ([blackout_us] if blackout_us else [])


@pytest.mark.parametrize("name", ["sequential", "zipf", "hotspot"])
async def test_every_program_is_moved(name: str, kind: str) -> None:
    """A pass of precopy, then postcopy: what was written meanwhile comes, whatever logs it."""
    spec = replace(BUSY, name=name, vcpu_count=4, access_rates=(3000.0,))
    rule = SwitchRule(postcopy_after=2, downtime_ms_max=0)
    pair = Pair(spec=spec, guest=kind, rule=rule, **PACED)
    await pair.migrate()
    report = pair.expect_success()
    assert report["midstream"]["passes"] == 2
    assert report["ram"]["normal"] > GEOMETRY.target_page_count


@pytest.mark.usefixtures("kvm")
async def test_precopy_alone_moves_a_virtual_machine() -> None:
    """Its log tells what it writes until it is stopped, wherever it is then."""
    rule = SwitchRule(postcopy_after=None, downtime_ms_max=1000)
    pair = Pair(spec=replace(BUSY, access_rates=(500.0,)), guest=KVM, rule=rule)
    await pair.migrate()
    report = pair.expect_success()
    assert report["midstream"]["faults"]["count"] == 0
    assert report["midstream"]["dirty-log"] == "kvm"


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize("log", ["kvm", "kernel"])
async def test_a_log_is_chosen_for_a_virtual_machine(log: str) -> None:
    """KVM's own, or the kernel's of the memory that it writes to."""
    pair = Pair(guest=KVM, dirty_log=log, rule=SwitchRule(postcopy_after=2, downtime_ms_max=0))
    await pair.migrate()
    if isinstance(pair.source.error, GuestFailed):
        pytest.skip(str(pair.source.error))
    assert pair.expect_success()["midstream"]["dirty-log"] == log


@pytest.mark.parametrize(
    ("kind", "log", "reason"),
    [
        (KVM, "software", "--guest kvm: a virtual machine neither looks"),
        (NATIVE, "kvm", "--dirty-log kvm: KVM keeps no log of --guest native"),
        ("python", "kvm", "--dirty-log kvm: KVM keeps no log of --guest python"),
    ],
)
@pytest.mark.usefixtures("kvm")
async def test_a_log_that_a_guest_cannot_have_is_refused(kind: str, log: str, reason: str) -> None:
    """The source says why, and nothing is migrated."""
    pair = Pair(guest=kind, dirty_log=log)
    pair.source.scope.deadline = float("inf")
    await _fail_alone(pair)
    assert isinstance(pair.source.error, GuestFailed)
    assert str(pair.source.error).startswith(reason)


async def _fail_alone(pair: Pair) -> None:
    """Run a pair whose source fails before it connects; end its destination then."""
    run = pair.source.run

    async def run_and_end(session: object) -> None:
        await run(session)  # type: ignore[arg-type]
        pair.dest.scope.cancel()

    pair.source.run = run_and_end  # type: ignore[method-assign]
    await pair.migrate()


@pytest.mark.usefixtures("kvm")
async def test_a_destination_that_does_not_stop_it_refuses_it() -> None:
    """A virtual machine does not look at a map: it is refused as it is announced, and stays."""
    pair = Pair(guest=KVM, placement="simulated")
    await pair.migrate()
    assert isinstance(pair.dest.error, GuestFailed)
    assert isinstance(pair.source.error, PeerAborted)
    assert "--placement userfault" in str(pair.source.error)
    assert pair.source.events.states == ["setup", "failed"]


async def test_the_first_that_works_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody asks for a kind, the source tries; the report says what, and why no better."""
    monkeypatch.setattr("guest.kvm.abi.DEVICE", "/nowhere")
    pair = Pair(guest="auto", rule=SwitchRule(postcopy_after=0, downtime_ms_max=0))
    await pair.migrate()
    own = pair.expect_success()["midstream"]
    assert own["guest"] in (NATIVE, "python")
    assert own["guest-reason"].startswith("kvm: /nowhere: No such file or directory")
    assert bool("native:" in own["guest-reason"]) == (own["guest"] == "python")


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize("side", ["source", "dest"])
def test_nothing_is_left_of_a_side_that_is_killed(lab: Lab, side: str) -> None:
    """VCPUs that wait for pages end with their side; the other side ends by itself."""
    events = lab.folder / "events.jsonl"
    source, dest = lab.start_pair(
        "--guest=kvm", "--vcpus=4", "--access-rate=0", "--postcopy-after=0", "--size=64MiB",
        "--max-postcopy-bandwidth=1MB/s", "--reconnect-timeout=0", "--quiet", f"--events={events}",
        dest_arguments=("--recover-timeout=0", "--quiet"),
    )  # fmt: skip
    until(lambda: has_state(events, "postcopy-active"))
    {"source": source, "dest": dest}[side].signal(signal.SIGKILL)
    for each in (source, dest):
        each.wait(GONE_SECONDS_MAX)
    lab.expect_nobody()


def test_another_device_is_no_kvm(lab: Lab) -> None:
    """What is there under that name and does something else is told to be no KVM."""
    hidden = ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "-"]
    if shutil.which("unshare") is None or not Path("/dev/kvm").exists():
        pytest.skip("no unshare, or no /dev/kvm to hide")
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces for this user")
    command = [*hidden, sys.executable, "-P", "-m", "scripts", "migrate", *SMALL]
    for guest, status in (("kvm", 1), ("auto", 0)):
        done = subprocess.run(
            [*command, f"--guest={guest}", "--report=report.json"],
            cwd=lab.folder, env=environment_of({}), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        if status:
            assert done.stderr == "midstream: --guest kvm: /dev/kvm: it is no KVM device\n"
    report = (lab.folder / "report.json").read_text(encoding="utf-8")
    assert '"guest-reason": "kvm: /dev/kvm: it is no KVM device' in report
