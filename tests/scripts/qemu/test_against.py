"""What `--against` names."""

from pathlib import Path

import click
import pytest

from scripts.qemu.against import peer_of


def program(folder: Path, *lines: str) -> Path:
    """Return a program that runs these lines of a shell."""
    path = folder / "qemu"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_qemu_is_known_by_its_version(tmp_path: Path) -> None:
    """It is the program that is named, and what that says it is; without a name there is none."""
    path = program(tmp_path, "echo 'QEMU emulator version 9.1.2 (Debian 1:9.1.2+ds-1)'")
    peer = peer_of(f"qemu={path}")

    assert peer is not None
    assert (peer.program, peer.title) == (str(path), "QEMU 9.1.2")
    assert peer_of(None) is None


def test_the_usual_program_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file it is the one on the path, and that it is not there is told."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(click.BadParameter, match="there is no program qemu-system-x86_64"):
        peer_of("qemu")
    program(tmp_path, "echo 'QEMU emulator version 7.2.0'").rename(tmp_path / "qemu-system-x86_64")
    peer = peer_of("qemu")

    assert peer is not None
    assert (peer.program, peer.title) == ("qemu-system-x86_64", "QEMU 7.2.0")


def test_what_is_no_qemu_is_refused(tmp_path: Path) -> None:
    """Another name, another program, and one that cannot be run are told apart."""
    with pytest.raises(click.BadParameter, match="'xen' is not qemu"):
        peer_of("xen")
    path = program(tmp_path, "echo 'version 3'")
    with pytest.raises(click.BadParameter, match="is no QEMU"):
        peer_of(f"qemu={path}")
    path.write_text("#!/nowhere/sh\n", encoding="utf-8")
    with pytest.raises(click.BadParameter, match="No such file"):
        peer_of(f"qemu={path}")
