"""The destination for QEMU as the command line says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from protocol.geometry import Geometry, RamBlock
from scripts.options import DEST, QEMU, options_of
from scripts.qemu.configure import qemu_dest_config
from scripts.run_config import WrongTrace

GUEST = Geometry((RamBlock("pc.ram", 4 << 20, 2 << 20), RamBlock("rom", 4096, 4096)))


def values(**given: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the options' values, as given or by default."""
    return {option.name: option.default for option in options_of(DEST, QEMU)} | given


def test_vcpus_only_read_what_nobody_here_knows() -> None:
    """Whatever the program, it writes nothing and expects nothing."""
    spec = qemu_dest_config(values(vcpus="3", seed="9"), "", 0).spec_of(GUEST)
    assert (spec.name, spec.vcpu_count, spec.seed) == ("uniform", 3, 9)
    assert spec.write_ratio == 0
    assert spec.image


def test_a_trace_is_read_when_the_guest_is_known(tmp_path: Path) -> None:
    """A trace names QEMU's blocks; that it cannot be found is told at once."""
    trace = tmp_path / "trace"
    trace.write_text("0 pc.ram 1+3 r\n", encoding="utf-8")
    config = qemu_dest_config(values(program=f"trace:{trace}"), "", 0)
    recorded = config.spec_of(GUEST).trace
    assert recorded is not None
    assert recorded.flat_pages.tolist() == [512 + 3]
    trace.write_text("0 ram 0 r\n", encoding="utf-8")
    with pytest.raises(WrongTrace, match="no RAMBlock is named 'ram'") as caught:
        config.spec_of(GUEST)
    assert caught.value.exit_status == 2
    with pytest.raises(click.BadParameter, match="No such file"):
        qemu_dest_config(values(program=f"trace:{tmp_path / 'none'}"), "", 0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"socket_buffer": "4KiB"}, "neither 0 nor from 16KiB to 64MiB"),
        ({"socket_buffer": "much"}, "is not a size"),
        ({"vcpus": "65"}, "1 to 64"),
        ({"program": "nothing"}, "is not one of"),
    ],
)
def test_values_that_cannot_be(given: dict[str, str], reason: str) -> None:
    """What is wrong is told before anybody listens."""
    with pytest.raises(click.BadParameter, match=reason):
        qemu_dest_config(values(**given), "", 0)


def test_a_window_is_bytes() -> None:
    """The window is a size."""
    assert qemu_dest_config(values(socket_buffer="64KiB"), "", 0).window_bytes == 64 << 10
