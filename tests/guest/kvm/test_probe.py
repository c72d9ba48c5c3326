"""Whether there can be a virtual machine is found by making one, and nothing is left of it."""

import threading

import pytest

from guest.kvm import probe
from protocol.errors import GuestFailed
from tests.bounds import open_files
from tests.machines import needs_kvm

pytestmark = needs_kvm


def probing() -> list[str]:
    """Return the threads that still run a probe's vCPU."""
    return [thread.name for thread in threading.enumerate() if thread.name == "probe"]


def test_each_part_is_tried_and_given_back() -> None:
    """The device, user mode, a fault, a kick: all work here, and no file and no thread stays."""
    probe.try_machine()
    files = open_files()
    probe.try_device()
    probe.try_user_mode()
    probe.try_machine()
    assert not probing()
    assert open_files() == files


def test_without_a_device_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says the same."""
    monkeypatch.setattr("guest.kvm.abi.DEVICE", "/dev/null")
    for attempt in (probe.try_device, probe.try_user_mode, probe.try_machine):
        with pytest.raises(GuestFailed, match="/dev/null: it is no KVM device"):
            attempt()


def test_a_userfaultfd_for_user_programs_alone_is_not_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A vCPU enters user mode, but nothing could stop it at a page."""

    def deny(flags: int) -> int:
        raise PermissionError(1, f"Operation not permitted, flags {flags}")

    monkeypatch.setattr("guest.libc.userfaultfd", deny)
    monkeypatch.setattr("guest.userfaultfd._DEVICE", "/nowhere")
    probe.try_user_mode()
    with pytest.raises(GuestFailed, match=r"userfaultfd"):
        probe.try_machine()


def test_a_vcpu_that_cannot_be_kicked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kick that does nothing is noticed, and the vCPU ends all the same."""
    monkeypatch.setattr(probe, "_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(probe._Run, "kick", lambda _: None)
    files = open_files()
    with pytest.raises(GuestFailed, match="cannot be kicked out of KVM"):
        probe.try_machine()
    assert not probing()
    assert open_files() == files
