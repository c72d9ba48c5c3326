"""The kinds of guest that can run here: machine code in threads, each part of a virtual machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from guest.kvm import abi, probe
from guest.native.code import functions
from scripts.doctor.feature import Question
from scripts.doctor.memory import UFFD_DEVICE

_NO_KVM = "--guest kvm is refused, auto takes another"


def questions() -> list[Question]:
    """Return all questions about guests, in the order in which they are told."""
    return [
        Question(
            "machine code in threads", _machine_code,
            "a machine of x86-64 that lets memory be executed (vm.memfd_noexec=0)",
            "--guest native is refused, auto takes threads of the interpreter",
        ),
        Question(
            "KVM", _tried(probe.try_device, "a virtual machine was made"), _device_remedy, _NO_KVM
        ),
        Question(
            "KVM, programs in user mode", _tried(probe.try_user_mode, "a vCPU ran one"),
            _machine_remedy, _NO_KVM,
        ),
        Question(
            "KVM, page faults and kicks",
            _tried(probe.try_machine, "a vCPU was stopped at a page, kicked out, and went on"),
            _machine_remedy, _NO_KVM,
        ),
    ]  # fmt: skip


def _machine_code() -> tuple[bool, str]:
    functions().counter()
    return True, "called"


def _tried(attempt: Callable[[], None], detail: str) -> Callable[[], tuple[bool, str]]:
    def ask() -> tuple[bool, str]:
        attempt()
        return True, detail

    return ask


def _device_remedy(detail: str) -> str:
    if detail.endswith(os.strerror(errno.EACCES)):
        return f"setfacl -m u:{os.geteuid()}:rw {abi.DEVICE}"
    if detail.endswith("is no KVM device"):
        return f"rm {abi.DEVICE} && mknod {abi.DEVICE} c 10 232"
    if detail.startswith(abi.DEVICE):
        return "modprobe kvm_intel, or kvm_amd; in a virtual machine: nested virtualisation"
    return "another kernel: this one's KVM is too old"


def _machine_remedy(detail: str) -> str:
    if detail.startswith(abi.DEVICE):
        return "see KVM"
    if "userfaultfd" in detail:
        return (
            f"sysctl vm.unprivileged_userfaultfd=1, or setfacl -m u:{os.geteuid()}:rw {UFFD_DEVICE}"
        )
    return "a machine of x86-64 whose KVM runs user mode in 64 bits"
