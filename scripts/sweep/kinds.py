"""The two kinds of runs that a sweep has, real and simulated: from a point to what a worker does.

A point is what the sweep's file says of one run: options as they are written there.  A job is what
any process can run of it: every file with its place, a model with its values, and its key.  The key
is a hash of the point, of the files that it names, of the model and of the code, so that a run that
is there already is known by it, whoever ran it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import click

from protocol.errors import MidstreamError
from scripts.configure import (
    check_program,
    check_steps,
    dest_config,
    link_spec,
    source_config,
)
from scripts.credentials import access_of, with_secret
from scripts.help_text import OUTPUT
from scripts.named_files import Use
from scripts.options import DEST, LAUNCH, OPTIONS, SOURCE, Option, options_of
from scripts.policies import beside, file_of
from scripts.simulate.command import SIMULATED, point_of
from scripts.simulate.model import BUILT_IN, REFERENCE, model_of
from scripts.simulate.model_files import Chosen, choose_model, model_file

# What joins the value of `--link`, and may be an axis of its own.
LINK_PARTS = ("rtt", "loss", "queue")
LINK, MODEL, SET = "link", "model", "set"

_ROOMS = ("protocol", "guest", "source", "dest", "scripts")
_ROOT = Path(__file__).resolve().parents[2]
# What is shown of runs changes none.
_NO_RUN_IN = (
    *("scripts/sweep/page", "scripts/sweep/pictures", "scripts/sweep/tables"),
    *("scripts/sweep/progress", "scripts/views/", "scripts/figures/plots", "scripts/bench/"),
)
_KEY_CHARS = 20

Values = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run, for any process to do.

    Attributes:
        key: Of its line.
        command: "simulate" or "migrate".
        point: What the sweep's file says of it.
        values: All that is not a default, by the options' names in Python.
        model: The model's name, whether it is of a quiet machine, and its values; None for a real
            run.
        files: Hashes of the files that it reads, by the options that name them.
    """

    key: str
    command: str
    point: Mapping[str, Any]
    values: Mapping[str, Any]
    model: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """A command that a sweep runs.

    Attributes:
        command: Its name.
        options: Those that a point may have, by their names as typed, without dashes.
        more: The names that are no options of a real run.
        check: Refuses values of which no run could be made; given the model, too.
    """

    command: str
    options: Mapping[str, Option]
    more: Sequence[str]
    check: Callable[[Values, Chosen | None], object]

    @property
    def names(self) -> list[str]:
        """The names that options and axes may have."""
        return [*self.options, *LINK_PARTS, *self.more]

    @property
    def switches(self) -> set[str]:
        """Those that are on or off."""
        return {name for name, option in self.options.items() if option.metavar is None}

    def job(self, point: Mapping[str, Any], folder: Path) -> Job:
        """Return what is to be run of a point.

        Args:
            point: Options by their names, as the sweep's file has them.
            folder: Where the file is: others are named as seen from there.

        Raises:
            click.BadParameter: An option's value is none that it can have.
            LocalProtocolError: The point cannot be run.
        """
        values = {
            option.name: _value(option, point[name], folder)
            for name, option in self.options.items()
            if name in point
        }
        if parts := [f"{name}={point[name]}" for name in LINK_PARTS if _is_there(point, name)]:
            values[LINK] = ",".join([str(values.get(LINK, "0")), *parts])
        if SET in point:
            given = point[SET]
            values[SET] = [given] if isinstance(given, str) else list(given)
        chosen = None
        if self.more:
            chosen = _chosen(point.get(MODEL), folder)
        self.check(values, chosen)
        model = None
        if chosen is not None:
            held = chosen.model.to_plain()
            model = {"name": chosen.name, "quiet": chosen.quiet, "values": held}
        files = {name: _hash_of(file) for name, file in self._read(values)}
        about = {
            "command": self.command,
            "point": dict(point),
            "files": files,
            "model": model,
            "code": code_hash(),
        }
        text = json.dumps(about, sort_keys=True)
        key = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_KEY_CHARS]
        return Job(key, self.command, dict(point), values, model, files)

    def _read(self, values: Values) -> Iterator[tuple[str, str]]:
        """Yield the files that are read, by the options that name them."""
        for name, option in self.options.items():
            if option.use is Use.READ and (file := _file_of(option, values.get(option.name))):
                yield name, file


def _is_there(point: Mapping[str, Any], part: str) -> bool:
    """Return whether a part joins the link; nothing of it is what a link has without."""
    return part in point and str(point[part]) != "0"


def _value(option: Option, value: object, folder: Path) -> object:
    """Return a value as the command line would have it, a file as seen from here."""
    if option.metavar is None:
        return value
    text = str(value)
    if option.use is not Use.READ:
        return text
    if option.find is file_of:
        return beside(folder, text)
    file = _file_of(option, text)
    return f"{option.prefix}{folder / file}" if file else text


def _file_of(option: Option, value: object) -> str:
    """Return the file that a value names, empty for none."""
    if not isinstance(value, str):
        return ""
    text = option.find(value) if option.find is not None else value
    return text.removeprefix(option.prefix) if text.startswith(option.prefix) else ""


def _hash_of(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}") from error


def _chosen(name: str | None, folder: Path) -> Chosen:
    if name is not None and model_file(name) == name:
        found = choose_model(str(folder / name))
        return Chosen(found.model, found.name.replace(str(folder / name), name, 1), found.quiet)
    return choose_model(name)


def chosen_of(model: Mapping[str, Any]) -> Chosen:
    """Return the model that a job has."""
    values = model_of(model["values"], BUILT_IN[REFERENCE])
    return Chosen(values, model["name"], model["quiet"])


@cache
def code_hash() -> str:
    """Return a hash of all code that a run may depend on.

    Raises:
        MidstreamError: It cannot be read.
    """
    found = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")):
        name = path.relative_to(_ROOT).as_posix()
        if name.startswith(_NO_RUN_IN):
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MidstreamError(f"{path}: {error.strerror}") from error
        found.update(f"{name}\0{len(data)}\0".encode() + data)
    return found.hexdigest()


def _check_simulated(values: Values, chosen: Chosen | None) -> None:
    assert chosen is not None
    point_of(values, chosen, values.get(SET, ()))


def _check_real(values: Values, _chosen: Chosen | None) -> None:
    whole = {**{option.name: option.default for option in OPTIONS}, **values}
    check_program(whole)
    check_steps(source_config(whole), dest_config(whole))
    link_spec(whole[LINK])
    with_secret(access_of(whole)).credentials(server=True)


def _named(options: Sequence[Option]) -> dict[str, Option]:
    """Return options by their names, without those that say where results go."""
    return {
        option.flag.removeprefix("--"): option for option in options if option.section != OUTPUT
    }


KINDS = {
    kind.command: kind
    for kind in (
        Kind("simulate", _named(SIMULATED), (MODEL, SET), _check_simulated),
        Kind("migrate", _named(options_of(SOURCE, DEST, LAUNCH)), (), _check_real),
    )
}
