"""Questions about guests: what is missing is told with its cause, and what helps against that."""

import os

import pytest

from guest.kvm import abi
from scripts.doctor import guests
from scripts.doctor.feature import Feature
from tests.machines import needs_kvm, needs_native

KVM = ("KVM", "KVM, programs in user mode", "KVM, page faults and kicks")


def answer(name: str) -> Feature:
    """Ask one question."""
    (question,) = (each for each in guests.questions() if each.name == name)
    return question.answer()


@needs_kvm
@pytest.mark.parametrize("name", KVM)
def test_each_part_of_a_virtual_machine_is_tried(name: str) -> None:
    """Where all of it works, each says so."""
    assert answer(name).ok


@needs_native
def test_machine_code_is_called() -> None:
    """Where it runs, there is nothing to do."""
    found = answer("machine code in threads")
    assert (found.ok, found.remedy) == (True, "")


@pytest.mark.parametrize(
    ("device", "detail", "remedy"),
    [
        ("/nowhere", "/nowhere: No such file or directory", "modprobe kvm_intel, or kvm_amd"),
        ("/dev/null", "/dev/null: it is no KVM device", "mknod /dev/null c 10 232"),
    ],
)
def test_a_device_that_is_none(
    device: str, detail: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, or another: why, and what to type; the other parts point at it."""
    monkeypatch.setattr(abi, "DEVICE", device)
    found = answer("KVM")
    assert (found.ok, found.detail) == (False, detail)
    assert remedy in found.remedy
    assert "auto" in found.without
    if os.uname().machine == "x86_64":
        assert [answer(name).remedy for name in KVM[1:]] == ["see KVM", "see KVM"]


def test_a_device_that_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right that is missing can be given."""

    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("guest.kvm.vm.os.open", deny)
    assert answer("KVM").remedy == f"setfacl -m u:{os.geteuid()}:rw /dev/kvm"


@needs_kvm
def test_a_userfaultfd_that_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vCPU enters, but nothing could stop it at a page: what allows that is told."""

    def deny(flags: int) -> int:
        raise PermissionError(1, f"Operation not permitted, flags {flags}")

    monkeypatch.setattr("guest.libc.userfaultfd", deny)
    monkeypatch.setattr("guest.userfaultfd._DEVICE", "/nowhere")
    assert answer("KVM, programs in user mode").ok
    found = answer("KVM, page faults and kicks")
    assert not found.ok
    assert "vm.unprivileged_userfaultfd=1" in found.remedy
