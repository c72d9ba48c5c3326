"""A scripted fault injection as a TOML file says it, checked; see `tests/scenarios/README.md`.

Nothing is run here.  What could not happen (a page that the guest has not, a channel that the
policy has not) is refused with its line, so that a scenario that passes has done what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click

from dest.config import HostConfig
from protocol.errors import LocalProtocolError, MigrationError
from protocol.geometry import Geometry, PageId
from protocol.limits import VCPU_COUNT_MAX
from protocol.text import did_you_mean
from scripts.configure import dest_config, program_of, source_config
from scripts.credentials import access_of
from scripts.injection.actions import (
    TARGET_PAGE,
    Action,
    Fault,
    NetworkAction,
    read_action,
)
from scripts.injection.expect import Expect, read_expect
from scripts.injection.marks import Mark, ShareMark
from scripts.injection.qemu import (
    QemuTerms,
    check_options,
    check_step,
    guest_of,
    read_qemu,
    read_source,
)
from scripts.injection.scenario_text import SECTIONS, ScenarioError, Where, quoted, read_toml
from scripts.injection.triggers import (
    Entered,
    Guest,
    Passed,
    Placed,
    Received,
    Requested,
    Trigger,
    page_name,
    read_trigger,
)
from scripts.links.link import proxy_of
from scripts.links.spec import LinkSpec, parse_link
from scripts.named_files import renamed_hint
from scripts.options import OPTIONS, PROGRAM_DEFAULT, Values
from scripts.policies import beside
from scripts.qemu.command import QemuSource
from scripts.qemu.configure import qemu_dest_config, qemu_program_of
from scripts.run_config import Access, Program
from source.config import SourceConfig

__all__ = ["Scenario", "ScenarioError", "Step", "read_scenario"]

# It ends what hangs, and says nothing of what is slow: the slowest machine comes to its end before.
TIMEOUT = "180s"
# Nor is a slow one silent.
SILENCE_LIMIT = "60s"

# What `midstream inject` says itself; `link` is not an option of either side.
_OWN_OPTIONS = frozenset(
    {"report", "events", "steps", "quiet", "verbose", "perfetto", "html", "save"}
)
LINK = "link"

# What the destination does by itself when it happens, if nobody stands between the two.
_SCRIPTED = (Received, Requested, Placed)


@dataclass(frozen=True)
class Step:
    """An action that happens once, and its moment.

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
        source: The source's configuration; of a QEMU only what it has in common with that counts.
        dest: The destination's.
        program: What vCPUs do.
        access: What both sides prove to each other.
        link: What lies between the sides; nothing for plain loopback.
        timeout_ms: When everything is ended if it has not by itself.
        qemu: The source, if it is a QEMU and not midstream's own.
        values: The options, as the command line would have them.
        given: The names of those that the file says.
    """

    path: Path
    name: str
    source: SourceConfig
    dest: HostConfig
    program: Program
    access: Access
    link: LinkSpec
    timeout_ms: float
    steps: tuple[Step, ...]
    expect: Expect
    qemu: QemuSource | None = None
    values: Values = field(default_factory=dict)
    given: frozenset[str] = frozenset()

    @property
    def geometry(self) -> Geometry:
        """The guest's memory."""
        return self.source.geometry


def read_scenario(path: Path, guest_kind: str | None = None, policy: str | None = None) -> Scenario:
    """Return what a file says.

    Args:
        path: The file.
        policy: As in `--policy`, in the place of what the file says; None for that.  A QEMU has its
            own.
        guest_kind: As in `--guest`, in the place of what the file says; None for that.  The guest
            of a QEMU is always its own.

    Raises:
        ScenarioError: It cannot be read, or is wrong: where, and why.
    """
    table, where = read_toml(path)
    where.check_keys(table, SECTIONS, "a scenario")
    name = table.get("name", path.stem)
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise where.wrong("name", "name is not a line of text")
    timeout_ms = where.duration_ms("timeout", table.get("timeout", TIMEOUT), "timeout")
    terms = read_source(_table(table, "source", where), where.inside("source"))
    options = _table(table, "migration", where)
    if guest_kind is not None and terms is None:
        options["guest"] = guest_kind
    if policy is not None and terms is None:
        options["policy"] = beside(Path.cwd(), policy)
    inside = where.inside("migration")
    link = _link(options.pop(LINK, "0"), inside)
    values = _values(options, inside)
    if terms is None and "keepalive-timeout" not in options:
        values["keepalive_timeout"] = SILENCE_LIMIT
    read = _read_options(values, options, inside, of_qemu=terms is not None)
    if terms is not None:
        check_options(terms, table.get("migration", {}), values, inside)
    guest = _guest(read.source, terms)
    steps = _steps(where.tables("step", table), where, guest, timeout_ms)
    _check_releases(steps, where, guest)
    for step in steps if terms is not None else ():
        check_step(step.when, step.action, where.inside("step", step.number))
    faults = [step.action for step in steps if isinstance(step.action, Fault)]
    if "vcpus" not in options:
        touches = sum(len(fault.pages) for fault in faults)
        values["vcpus"] = str(min(max(touches, 1), VCPU_COUNT_MAX))
        # Of several rates there must be one for each vCPU, which only now can be told.
        read = _read_options(values, options, inside, of_qemu=terms is not None)
    touched = {page for fault in faults for page in fault.pages}
    expect = read_expect(
        _table(table, "expect", where),
        where.inside("expect"),
        guest,
        touched=touched if guest.scripted else None,
        of_qemu=terms is not None,
    )
    if "expect" not in table:
        raise where.wrong("", "a scenario without [expect] shows nothing")
    qemu = read_qemu(terms, values, inside) if terms is not None else None
    scenario = Scenario(
        path, name, *read, link, timeout_ms, steps, expect, qemu,
        values={**values, LINK: str(link)},
        given=frozenset(key.replace("-", "_") for key in table.get("migration", {})),
    )  # fmt: skip
    if read.access.tls is not None and _needs_proxy(scenario):
        raise inside.wrong("tls-cert", "what passes is encrypted, the proxy finds no page in it")
    for step in scenario.steps:
        # A destination that has steps of its own touches a page's first bytes.
        if is_scripted(scenario, step) and isinstance(step.action, Fault):
            _check_first(step.action, where.inside("step", step.number))
    return scenario


def _check_first(fault: Fault, where: Where) -> None:
    if fault.target_page:
        raise where.wrong(TARGET_PAGE, f"with TLS, or with a QEMU, {TARGET_PAGE} is always 0")


def _table(table: dict[str, Any], name: str, where: Where) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise where.wrong(name, f"{name} is not a table, write [{name}]")
    return dict(value)


def _link(value: object, where: Where) -> LinkSpec:
    try:
        # What steps do to a network is done by a proxy.
        return proxy_of(parse_link(str(value))).spec
    except (LocalProtocolError, MigrationError) as error:
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
            hint = renamed_hint(key) or did_you_mean(key, (*known.keys() - _OWN_OPTIONS, LINK))
            raise where.wrong(key, f"migrate has no option {quoted(key)}{hint}")
        option = known[key]
        if option.metavar is None:
            if not isinstance(value, bool):
                raise where.wrong(key, f"{key} is neither true nor false")
            values[option.name] = value
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise where.wrong(key, f"{key} is neither a text nor a number")
        values[option.name] = _beside(where.path, key, str(value))
    if "accesses" in options and "program" not in options:
        values["program"] = PROGRAM_DEFAULT
    return values


def _beside(path: Path, key: str, value: str) -> str:
    """Return a value with a file's name in it read as seen from the scenario."""
    if key in {"image", "secret-file", "tls-cert", "tls-key", "tls-ca", "accesses"}:
        return str(path.parent / value)
    if key == "policy":
        return beside(path.parent, value)
    if key == "program" and value.startswith("trace:"):
        return f"trace:{path.parent / value.removeprefix('trace:')}"
    return value


class _Read(NamedTuple):
    """The configurations that the options of a scenario come to."""

    source: SourceConfig
    dest: HostConfig
    program: Program
    access: Access


def _read_options(
    values: Values, options: Mapping[str, Any], where: Where, *, of_qemu: bool
) -> _Read:
    """Check the options together; return what they come to."""
    try:
        access = access_of(values)
        access.credentials(server=True)
        source = source_config(values)
        if of_qemu:
            return _Read(source, qemu_dest_config(values), qemu_program_of(values), access)
        return _Read(source, dest_config(values), program_of(values), access)
    except click.BadParameter as error:
        hint = str(error.param_hint or "").replace(" or ", " ").split()
        names = [name.removeprefix("--") for name in hint]
        key = next((name for name in names if name in options), "")
        raise where.wrong(key, f"{' or '.join(names)}: {error.message}") from error


def _guest(source: SourceConfig, terms: QemuTerms | None) -> Guest:
    """Return what steps and expectations are about."""
    guest = Guest(
        source.geometry,
        source.policy,
        source.policy.channels,
        scripted=source.spec.name == "scripted",
        postcopy=source.rule.leads_to_postcopy,
        program=source.spec.name,
    )
    return guest if terms is None else guest_of(terms, guest)


def _steps(
    tables: list[dict[str, Any]], where: Where, guest: Guest, timeout_ms: float
) -> tuple[Step, ...]:
    return tuple(
        _step(step, where.inside("step", number), guest, timeout_ms)
        for number, step in enumerate(tables, 1)
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


def _check_releases(steps: tuple[Step, ...], where: Where, guest: Guest) -> None:
    """Refuse that a page is let go which nothing holds."""
    held = {page for step in steps if (page := _page_of(step, "hold")) is not None}
    for step in steps:
        page = _page_of(step, "release")
        if page is not None and page not in held:
            name = page_name(page, guest.geometry)
            raise where.inside("step", step.number).wrong("network", f"no step holds page {name}")


def _page_of(step: Step, do: str) -> PageId | None:
    """Return the page to which a step does something of that name, None if it does not."""
    action = step.action
    return action.page if isinstance(action, NetworkAction) and action.do == do else None


def _needs_postcopy(when: Trigger) -> bool:
    if isinstance(when, Entered):
        return when.state.startswith("postcopy")
    return isinstance(when, (Requested, Placed))


def is_scripted(scenario: Scenario, step: Step) -> bool:
    """Return whether a step is the destination's own to do."""
    own = isinstance(step.action, Fault) and isinstance(step.when, _SCRIPTED)
    return own and not has_proxy(scenario)


def has_proxy(scenario: Scenario) -> bool:
    """Return whether a proxy stands between the sides: where one can, for each fault."""
    # It does not speak QEMU's protocol, and its sockets would hold what QEMU's shall not.
    if scenario.qemu is not None or scenario.access.tls is not None:
        return False
    return _needs_proxy(scenario) or any(isinstance(step.action, Fault) for step in scenario.steps)


def _needs_proxy(scenario: Scenario) -> bool:
    """Return whether a scenario asks for anything that only a proxy can see or do."""
    return bool(
        scenario.link
        or scenario.expect.watched
        or any(
            isinstance(step.action, NetworkAction)
            or isinstance(step.when, Passed)
            or (isinstance(step.when, Received) and not isinstance(step.action, Fault))
            for step in scenario.steps
        )
    )


def wire_mark(step: Step) -> Mark | None:
    """Return the byte that a step waits for, None if it waits for something else."""
    match step.when:
        case Received(page, share):
            return ShareMark(page, share, in_postcopy=isinstance(step.action, Fault))
        case Passed(mark):
            return mark
    return None


def wire_marks(scenario: Scenario) -> list[Mark]:
    """Return what the proxy is to stop at."""
    found = [mark for step in scenario.steps if (mark := wire_mark(step)) is not None]
    return list(dict.fromkeys(found))


def held_pages(scenario: Scenario) -> set[PageId]:
    """Return the pages that steps hold."""
    return {page for step in scenario.steps if (page := _page_of(step, "hold")) is not None}
