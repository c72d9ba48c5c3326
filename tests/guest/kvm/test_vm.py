"""A virtual machine that cannot be had is told in one line, and nothing stays open."""

import os
from pathlib import Path

import pytest

from guest.kvm import abi
from guest.kvm.vm import Vm, open_vm
from protocol.errors import GuestFailed
from tests.bounds import open_files
from tests.machines import needs_kvm


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("/dev/null", "/dev/null: it is no KVM device"),
        ("/dev/zero", "/dev/zero: it is no KVM device"),
        ("/nowhere/kvm", "/nowhere/kvm: No such file or directory"),
        ("/dev", "/dev: Is a directory"),
    ],
)
def test_what_is_no_kvm_is_refused(
    device: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, or another device: which, and what is wrong with it."""
    monkeypatch.setattr(abi, "DEVICE", device)
    before = open_files()
    with pytest.raises(GuestFailed) as failed:
        Vm()
    assert str(failed.value) == reason
    assert open_files() == before


def test_a_denied_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not open it is told that he may not."""
    device = tmp_path / "kvm"
    device.touch(0o000)
    monkeypatch.setattr(abi, "DEVICE", str(device))
    if os.access(device, os.R_OK):

        def deny(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("guest.kvm.vm.os.open", deny)
    with pytest.raises(GuestFailed, match=r"kvm: Permission denied$"):
        Vm()


@needs_kvm
def test_an_api_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this program does not know it does not use."""
    monkeypatch.setattr(abi, "API_VERSION", 13)
    before = open_files()
    with pytest.raises(GuestFailed, match="its API is 12, not 13"):
        Vm()
    assert open_files() == before


@needs_kvm
def test_what_a_machine_needs_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KVM that lacks something is refused by its name; whoever has it gives it back."""
    before = open_files()
    with open_vm() as vm:
        assert vm.check(abi.CAP_IMMEDIATE_EXIT) == 1
        assert 36 <= vm.address_bits <= 52
        vm.close()
    assert open_files() == before
    # One that nobody knows.
    monkeypatch.setattr(abi, "CAP_READONLY_MEM", 10_000)
    with pytest.raises(GuestFailed, match="KVM has no read-only memory here"):
        Vm()
    assert open_files() == before
