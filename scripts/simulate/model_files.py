"""Models by name and in TOML files, which `midstream calibrate` writes and `--model` names."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from protocol.errors import LocalProtocolError
from protocol.text import quoted
from scripts.simulate.model import BUILT_IN, REFERENCE, SCHEMA, THIS_MACHINE, Model, model_of

# Longer than any model.
_FILE_BYTES_MAX = 1 << 16


@dataclass(frozen=True)
class Chosen:
    """A model, and where it is from.

    Attributes:
        model: Its values.
        name: As a report names it.
        quiet: It was measured on a quiet machine, or not measured at all.
    """

    model: Model
    name: str
    quiet: bool = True


def this_machine_path() -> Path:
    """Return where `midstream calibrate` leaves what it has measured."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base, "midstream", "model.toml")


def model_file(text: str) -> str:
    """Return the file that is read for a model of that name, empty for none."""
    if text in BUILT_IN:
        return ""
    return str(this_machine_path()) if text == THIS_MACHINE else text


def choose_model(text: str | None) -> Chosen:
    """Return the model that `--model` says, or the default.

    Raises:
        click.BadParameter: There is none, or the file holds none.
    """
    path = this_machine_path()
    if text is None:
        text = THIS_MACHINE if path.is_file() else REFERENCE
    if text in BUILT_IN:
        return Chosen(BUILT_IN[text], text)
    if text == THIS_MACHINE:
        if not path.is_file():
            raise click.BadParameter(
                f"nobody has calibrated this machine: run `midstream calibrate` ({path})",
                param_hint="--model",
            )
        return _read(path, THIS_MACHINE)
    return _read(Path(text), text)


def _read(path: Path, name: str) -> Chosen:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise _wrong(f"{path} is no model: it is longer than {_FILE_BYTES_MAX} bytes")
        plain = tomllib.loads(data.decode())
        return _chosen(plain, path, name)
    except OSError as error:
        known = ", ".join([*BUILT_IN, THIS_MACHINE])
        raise _wrong(f"{quoted(str(path))}: {error.strerror}; known: {known}") from error
    except UnicodeDecodeError as error:
        raise _wrong(f"{path} is no text file") from error
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"{path}: {error}") from error
    except LocalProtocolError as error:
        raise _wrong(f"{path}: {error}") from error


def _chosen(plain: Mapping[str, Any], path: Path, name: str) -> Chosen:
    if plain.get("schema") != SCHEMA:
        raise _wrong(f'{path} is no model: its first line is to be schema = "{SCHEMA}"')
    unknown = plain.keys() - {"schema", "date", "quiet", "noise", "link", "machine", "model"}
    if unknown:
        raise _wrong(f"{path}: a model file has no {', '.join(sorted(unknown))}")
    values, quiet = plain.get("model", {}), plain.get("quiet", True)
    if not isinstance(values, dict) or not isinstance(quiet, bool):
        raise _wrong(f"{path}: [model] is to be a table, and quiet true or false")
    date = f" of {plain['date']}" if "date" in plain else ""
    return Chosen(model_of(values, BUILT_IN[REFERENCE]), f"{name}{date}", quiet)


def _wrong(reason: str) -> click.BadParameter:
    return click.BadParameter(reason, param_hint="--model")
