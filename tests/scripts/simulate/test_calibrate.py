"""`midstream calibrate`: what it makes of what it measures, and what it says of a noisy machine."""

import tomllib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.commands import run
from scripts.links.link import LOOPBACK
from scripts.links.spec import LinkSpec
from scripts.simulate import probes
from scripts.simulate.calibrate import Findings, _probe, model_from, to_toml, too_noisy
from scripts.simulate.model import Model
from scripts.simulate.model_files import choose_model
from tests.points import simulated

KERNEL = {
    "round-trip-ns": 30_000, "bytes-per-second": 120e6, "small-full-bytes": 128 << 10,
    "small-writable-bytes": 64 << 10, "default-full-bytes": 4 << 20, "copy-ns-per-byte": 0.25,
    "share-of-small": 0.3,
}  # fmt: skip


def found(late_ns: list[int]) -> Findings:
    """Return measurements of a machine, the middle one of whose runs is like the reference's."""
    whole, part = simulated(vcpus="1"), simulated(vcpus="1", policy="critical-first")
    parts = [part]
    for factor in (0.5, 2):
        other = deepcopy(part)
        other["midstream"]["faults"]["p50-us"] *= factor
        other["midstream"]["stages"]["wake"]["p50-us"] *= factor
        parts.append(other)
    return Findings(KERNEL, late_ns, whole, {1: parts, 4: parts})


def test_a_model_is_made_of_what_was_measured(tmp_path: Path) -> None:
    """Each measurement has its value, what none tells is the reference's, and the file is read."""
    model = model_from(found([20_000] * 99 + [120_000]), LinkSpec(125_000_000))
    assert model.efficiency == pytest.approx(0.96)
    assert (model.round_trip_ns, model.small_buffer_factor, model.fill) == (30_000, 2.0, 0.75)
    assert (model.late_ns, model.noise_ns) == (20_000, 1000)
    assert model.copy_bytes_per_second == 4_000_000_000
    assert model.map_ns == pytest.approx(Model().map_ns, rel=0.01)
    assert model.wake_ns == pytest.approx(Model().wake_ns, rel=0.01)
    assert model.bounded_share == 0.3
    assert model.access_ns == Model().access_ns
    path = tmp_path / "model.toml"
    path.write_text(to_toml(model, "1Gbit/s", []))
    chosen = choose_model(str(path))
    assert chosen.model == model
    assert chosen.quiet
    assert tomllib.loads(path.read_text())["date"].year >= 2026


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_connection_that_was_starved_makes_a_model(share: float) -> None:
    """On a busy machine one of the probe's two may get nothing; a model's gets a little."""
    starved = replace(found([20_000] * 100), kernel={**KERNEL, "share-of-small": share})
    assert abs(model_from(starved, LinkSpec(125_000_000)).bounded_share - share) == pytest.approx(
        0.01
    )


def test_a_noisy_machine_says_why(tmp_path: Path) -> None:
    """Woken processes that run late, or a load from before, forbid to tell of anything rare."""
    assert too_noisy([], [20_000] * 100) == []
    reasons = too_noisy(["the load average was 9"], [20_000] * 97 + [5_000_000] * 3)
    assert len(reasons) == 2
    path = tmp_path / "model.toml"
    path.write_text(to_toml(Model(), "1Gbit/s", reasons))
    assert not choose_model(str(path)).quiet


def test_this_machine_is_what_was_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a file of it nothing is made up; with one it is the default."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert run(["simulate", "--model=this-machine"]) == 2
    assert "midstream calibrate" in capfd.readouterr().err
    assert choose_model(None).name == "reference"
    path = tmp_path / "midstream" / "model.toml"
    path.parent.mkdir()
    path.write_text(to_toml(Model(access_ns=77), "1Gbit/s", []))
    chosen = choose_model(None)
    assert chosen.model.access_ns == 77
    assert chosen.name.startswith("this-machine of 20")


def test_the_kernel_is_asked() -> None:
    """Two real processes find out what real connections hold."""
    kernel = _probe(LOOPBACK)
    assert kernel.keys() == KERNEL.keys()
    assert kernel["small-full-bytes"] > 0
    assert kernel["small-writable-bytes"] <= kernel["small-full-bytes"]
    assert kernel["default-full-bytes"] > kernel["small-full-bytes"]
    assert 0 <= kernel["share-of-small"] <= 1
    assert kernel["round-trip-ns"] > 0


def test_a_woken_process_is_waited_for() -> None:
    """Each time has a length, however busy the machine."""
    late = probes.late_ns(count=5, pause_seconds=0)
    assert len(late) == 5
    assert min(late) > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--link=0"], "give a rate"), (["--link=fast"], "rate"), (["--out=/nonexistent/x"], "--out")],
)
def test_wrong_options_are_refused(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured, in a line."""
    assert run(["calibrate", *arguments]) == 2
    told = capfd.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
