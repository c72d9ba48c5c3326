"""From the command line's strings to the configuration of a destination for QEMU."""

from __future__ import annotations

from dataclasses import replace

from dest.qemu.config import QemuDestConfig
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from scripts.configure import dest_config, program_spec
from scripts.files import check_readable
from scripts.options import Values

# Stands for a guest until QEMU has told of the real one.
_ANY_GUEST = Geometry((RamBlock("ram", TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))


def qemu_dest_config(values: Values, host: str, port: int) -> QemuDestConfig:
    """Return the destination's configuration.

    Raises:
        click.BadParameter: An option's value is none that it can have.
    """
    config = dest_config(values, host, port)
    # What the memory holds is QEMU's to know: nothing is checked, and nothing written that would
    # keep the memory from being compared with QEMU's afterwards.
    known = {**values, "write_ratio": "0", "image": None}
    program, _, path = str(values["program"]).partition(":")
    if program == "trace" and path:
        # Which blocks and pages it may name, nobody knows before QEMU has come.
        check_readable("--program", path)
        program_spec({**known, "program": "uniform"}, _ANY_GUEST)
    else:
        program_spec(known, _ANY_GUEST)
    return QemuDestConfig(
        host=host,
        port=port,
        spec_of=lambda geometry: replace(program_spec(known, geometry), image=True),
        backing=config.backing,
        save=config.save,
        steps=config.steps,
        touches=config.touches,
    )
