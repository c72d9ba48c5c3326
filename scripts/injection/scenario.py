"""A scripted fault injection as a TOML file says it, checked; see `tests/scenarios/README.md`.

Nothing is run here.  What could not happen (a page that the guest has not, a channel that the
policy has not) is refused with its line, so that a scenario that passes has done what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry
from protocol.limits import VCPU_COUNT_MAX
from protocol.policy import Policy
from protocol.units import parse_rate
from scripts.configure import dest_config, source_config
from scripts.credentials import credentials
from scripts.injection.actions import Action, Fault, NetworkAction, read_action
from scripts.injection.expect import Expect, read_expect
from scripts.injection.guest_terms import Guest
from scripts.injection.qemu_terms import (
    QemuTerms,
    check_options,
    check_step,
    guest_of,
    read_source,
)
from scripts.injection.scenario_text import ScenarioError, Where, read_toml
from scripts.injection.tap import Mark
from scripts.injection.triggers import (
    Entered,
    Passed,
    Placed,
    Received,
    Requested,
    Trigger,
    read_trigger,
)
from scripts.options import OPTIONS, Values

__all__ = ["Scenario", "ScenarioError", "Step", "read_scenario"]

SECTIONS = ("name", "timeout", "source", "migration", "step", "expect")
TIMEOUT = "30s"

# What `midstream inject` says itself; `link` is not an option of either side.
_OWN_OPTIONS = frozenset({"report", "events", "steps", "quiet", "verbose", "trace", "html", "save"})
LINK = "link"

# What the destination does by itself when it happens.
_SCRIPTED = (Received, Requested, Placed)


@dataclass(frozen=True)
class Step:
    """What happens once, and when.

    Attributes:
        number: From 1.
        line: Where it stands in the file.
    """

    number: int
    line: int
    when: Trigger
    action: Action


@dataclass(frozen=True)
class Scenario:
    """One scripted fault injection.

    Attributes:
        path: The file.
        values: The options of a migration, as the command line would have them.
        link_rate: Bytes a second of the link between the sides; 0 for plain loopback.
        timeout_ms: When everything is ended if it has not by itself.
        qemu: The source, if it is a QEMU and not midstream's own.
    """

    path: Path
    name: str
    values: Values
    geometry: Geometry
    policy: Policy
    link_rate: int
    timeout_ms: float
    steps: tuple[Step, ...]
    expect: Expect
    qemu: QemuTerms | None = None


def read_scenario(path: Path) -> Scenario:
    """Return what a file says.

    Raises:
        ScenarioError: It cannot be read, or is wrong: where, and why.
    """
    table, where = read_toml(path)
    where.check_keys(table, SECTIONS, "a scenario")
    name = table.get("name", path.stem)
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise where.wrong("name", "name is not a line of text")
    timeout_ms = where.duration_ms("timeout", table.get("timeout", TIMEOUT), "timeout")
    qemu = read_source(_table(table, "source", where), where.inside("source"))
    options = _table(table, "migration", where)
    inside = where.inside("migration")
    link_rate = _link_rate(options.pop(LINK, "0"), inside)
    values = _values(options, inside)
    guest = _guest(values, options, inside)
    if qemu is not None:
        check_options(qemu, table.get("migration", {}), values, inside)
        guest = guest_of(qemu, guest)
    steps = _steps(table.get("step", []), where, guest, timeout_ms)
    for step in steps if qemu is not None else ():
        check_step(step.when, step.action, where.inside("step", step.number))
    if "vcpus" not in options:
        touches = sum(len(step.action.pages) for step in steps if isinstance(step.action, Fault))
        values["vcpus"] = str(min(max(touches, 1), VCPU_COUNT_MAX))
        # Of several rates there must be one for each vCPU, which only now can be told.
        guest = _guest(values, options, inside)
        guest = guest_of(qemu, guest) if qemu is not None else guest
    expect = read_expect(
        _table(table, "expect", where), where.inside("expect"), guest, of_qemu=qemu is not None
    )
    if "expect" not in table:
        raise where.wrong("", "a scenario without [expect] shows nothing")
    scenario = Scenario(
        path, name, values, guest.geometry, guest.policy, link_rate, timeout_ms, steps, expect, qemu
    )
    if values["tls_cert"] is not None and needs_proxy(scenario):
        raise inside.wrong("tls-cert", "what passes is encrypted, the proxy finds no page in it")
    return scenario


def _table(table: dict[str, Any], name: str, where: Where) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise where.wrong(name, f"{name} is not a table, write [{name}]")
    return dict(value)


def _link_rate(value: object, where: Where) -> int:
    try:
        return parse_rate(str(value))
    except LocalProtocolError as error:
        raise where.wrong(LINK, f"link: {error}") from error


def _values(options: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """Return options as the command line would have them, all others as they are by default."""
    known = {option.name.replace("_", "-"): option for option in OPTIONS}
    values: dict[str, Any] = {option.name: option.default for option in OPTIONS}
    values |= {"program": "scripted", "quiet": True, "verbose": False}
    for key, value in options.items():
        if key in _OWN_OPTIONS:
            raise where.wrong(key, f"{key} is not for a scenario to say, see inject --keep")
        if key not in known:
            raise where.wrong(key, f"migrate has no option {key!r}")
        option = known[key]
        if option.metavar is None:
            if not isinstance(value, bool):
                raise where.wrong(key, f"{key} is neither true nor false")
            values[option.name] = value
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise where.wrong(key, f"{key} is neither a text nor a number")
        values[option.name] = _beside(where.path, key, str(value))
    return values


def _beside(path: Path, key: str, value: str) -> str:
    """Return a value with a file's name in it read as seen from the scenario."""
    if key in {"image", "secret-file", "tls-cert", "tls-key", "tls-ca"}:
        return str(path.parent / value)
    if key == "program" and value.startswith("trace:"):
        return f"trace:{path.parent / value.removeprefix('trace:')}"
    return value


def _guest(values: Values, options: Mapping[str, Any], where: Where) -> Guest:
    """Check the options together; return what steps and expectations are about."""
    try:
        credentials(values, server=True)
        dest_config(values, "", 0)
        config = source_config(values, "", 0)
    except click.BadParameter as error:
        hint = str(error.param_hint or "").replace(" or ", " ").split()
        names = [name.removeprefix("--") for name in hint]
        key = next((name for name in names if name in options), "")
        raise where.wrong(key, f"{' or '.join(names)}: {error.message}") from error
    channels = tuple(Channel) if config.policy.own_channel else (Channel.PRECOPY,)
    return Guest(
        config.geometry,
        config.policy,
        channels,
        scripted=config.spec.name == "scripted",
        postcopy=config.rule.postcopy_after is not None,
        program=config.spec.name,
    )


def _steps(value: object, where: Where, guest: Guest, timeout_ms: float) -> tuple[Step, ...]:
    if not isinstance(value, list) or not all(isinstance(step, dict) for step in value):
        raise where.wrong("step", "step is not an array of tables, write [[step]]")
    return tuple(
        _step(step, where.inside("step", number), guest, timeout_ms)
        for number, step in enumerate(value, 1)
    )


def _step(table: dict[str, Any], where: Where, guest: Guest, timeout_ms: float) -> Step:
    if "when" not in table:
        raise where.wrong("", "a step without `when` never happens")
    when = read_trigger(table["when"], where, guest, timeout_ms)
    action = read_action({key: table[key] for key in table if key != "when"}, where, guest)
    if not guest.postcopy and isinstance(action, Fault):
        raise where.wrong("fault", "with postcopy-after = never no vCPU waits for a page")
    if not guest.postcopy and _needs_postcopy(when):
        raise where.wrong("when", "with postcopy-after = never this does not happen")
    return Step(where.number, where.line_of("when"), when, action)


def _needs_postcopy(when: Trigger) -> bool:
    if isinstance(when, Entered):
        return when.state.startswith("postcopy")
    return isinstance(when, (Requested, Placed))


def is_scripted(step: Step) -> bool:
    """Tell whether a step is the destination's own to do."""
    return isinstance(step.action, Fault) and isinstance(step.when, _SCRIPTED)


def needs_proxy(scenario: Scenario) -> bool:
    """Tell whether a scenario asks for anything that only a proxy can see or do."""
    # It does not speak QEMU's protocol, and its sockets would hold what QEMU's shall not.
    return scenario.qemu is None and bool(
        scenario.link_rate
        or scenario.expect.watched
        or any(isinstance(step.action, NetworkAction) for step in scenario.steps)
        or wire_marks(scenario)
    )


def wire_marks(scenario: Scenario) -> list[Mark]:
    """Return what the proxy is to stop at."""
    found: list[Mark] = [
        step.when.mark
        for step in scenario.steps
        if isinstance(step.when, (Received, Passed)) and not is_scripted(step)
    ]
    return list(dict.fromkeys(found))
