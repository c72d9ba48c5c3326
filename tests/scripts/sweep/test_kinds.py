"""From a point to a job: its key, its files, its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from scripts.simulate.model import BUILT_IN, SCHEMA
from scripts.sweep import kinds
from scripts.sweep.kinds import KINDS, chosen_of, code_hash

POLICY = "from protocol.policy import preset\nMINE = preset('drop')\n"


def key_of(folder: Path = Path(), **point: Any) -> str:  # noqa: ANN401 - what TOML has
    """Return the key of a simulated run."""
    return KINDS["simulate"].job(point, folder).key


def test_a_key_is_of_the_point() -> None:
    """The same point has the same key, in whatever order it is written."""
    assert key_of(seed=1, vcpus=2) == key_of(vcpus=2, seed=1)
    assert len({key_of(seed=1), key_of(seed=2), key_of(seed=1, policy="drop")}) == 3
    assert len({key_of(model="reference"), key_of(model="native")}) == 2


def test_a_key_is_of_the_command() -> None:
    """A real run is another than a simulated one."""
    assert KINDS["migrate"].job({"seed": 1}, Path()).key != key_of(seed=1)


def test_a_key_is_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of other code are made again."""
    before = key_of(seed=1)
    monkeypatch.setattr(kinds, "code_hash", lambda: "other")
    assert key_of(seed=1) != before


def test_code_is_every_module_of_the_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash changes with a module, with a module's name, and not with what only shows runs."""
    module, page = tmp_path / "source" / "a.py", tmp_path / "scripts" / "views" / "a.py"
    monkeypatch.setattr(kinds, "_ROOT", tmp_path)
    hashes = []
    for path, text in ((module, "x"), (page, "x"), (page, "y"), (module, "y")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        code_hash.cache_clear()
        hashes.append(code_hash())
    module.rename(module.with_name("b.py"))
    code_hash.cache_clear()
    hashes.append(code_hash())
    code_hash.cache_clear()
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes)) == 3


def test_files_are_named_from_where_the_sweep_is(tmp_path: Path) -> None:
    """A policy, a trace and a model lie beside it; their contents are in the key."""
    (tmp_path / "mine.py").write_text(POLICY, encoding="utf-8")
    first = KINDS["simulate"].job({"policy": "mine.py:MINE"}, tmp_path)
    assert first.values["policy"] == f"{tmp_path}/mine.py:MINE"
    assert first.point["policy"] == "mine.py:MINE"
    (tmp_path / "mine.py").write_text(f"{POLICY}# another\n", encoding="utf-8")
    assert key_of(tmp_path, policy="mine.py:MINE") != first.key


def test_a_trace_is_named_behind_its_program(tmp_path: Path) -> None:
    """It is read when the sweep is looked at."""
    (tmp_path / "t.trace").write_text("0 0 0 r\n", encoding="utf-8")
    with pytest.raises(click.BadParameter, match=str(tmp_path / "t.trace")):
        key_of(tmp_path, program="trace:t.trace")


def test_a_job_has_its_model(tmp_path: Path) -> None:
    """Whoever runs it needs no file, and takes the very values."""
    (tmp_path / "m.toml").write_text(
        f'schema = "{SCHEMA}"\ndate = "2026-01-01"\nquiet = false\n[model]\nnoise-ns = 7\n',
        encoding="utf-8",
    )
    job = KINDS["simulate"].job({"model": "m.toml"}, tmp_path)
    assert job.model is not None
    chosen = chosen_of(job.model)
    assert (chosen.name, chosen.quiet) == ("m.toml of 2026-01-01", False)
    assert chosen.model.noise_ns == 7
    (tmp_path / "m.toml").write_text(f'schema = "{SCHEMA}"\n[model]\n', encoding="utf-8")
    assert key_of(tmp_path, model="m.toml") != job.key
    built_in = KINDS["simulate"].job({"model": "native"}, tmp_path).model
    assert built_in is not None
    assert chosen_of(built_in).model == BUILT_IN["native"]
