"""Finds the policy that `--policy` names: a preset, one of the tree's schemes, or somebody's own.

    ordered                      a preset
    read-ahead, stride, ...      a prefetcher of the tree, without the presets' locality
    recorded=run.jsonl           one that takes an argument
    critical-first+bubbling      a preset's switches with another's prefetcher and order
    mine.py:NAME                 what a Python file of that name calls NAME
    NAME                         what an installed package calls so (entry points, ENTRY_POINTS)

What is called NAME is a `Policy` or a `Scheme` (`source.scheme`), or makes one: a function without
arguments, or of one text where the name is followed by =TEXT.  All is tried here, before anything
runs: whatever is wrong with it is one line that says what and where.
"""

# ruff: noqa: PLC0415 - presets, which most runs have, need neither NumPy nor what finds modules

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from protocol.errors import LocalProtocolError, PolicyFailed
from protocol.policy import POLICY_NAME_CHARS_MAX, PRESETS, Policy
from protocol.text import did_you_mean, one_line, quoted

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from source.scheme import Scheme

# The group of entry points in which a package names its policies.
ENTRY_POINTS = "midstream.policies"

# Where the tree's own schemes are.
TREE = {
    "no-prefetch": "source.prefetchers.schemes:no_prefetch",
    "read-ahead": "source.prefetchers.schemes:read_ahead",
    "stride": "source.prefetchers.schemes:stride",
    "bubbling": "source.prefetchers.schemes:bubbling",
    "recorded": "scripts.traces.recording:recorded",
}

_IN_A_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[^=:]*)(?:=(?P<argument>.*))?", re.DOTALL)
_HOOKS = ("restart", "requested", "served", "sent", "next")


class WrongPolicy(LocalProtocolError):
    """`--policy` names none, or what it names is wrong."""

    exit_status = 2


def policy_of(text: str) -> Policy:
    """Return the policy of that name.

    Raises:
        WrongPolicy: There is none, or it cannot be used; what is wrong, and in which line.
    """
    return PRESETS[text] if text in PRESETS else _found(text)


def file_of(text: str) -> str:
    """Return the file that is read for a policy of that name, empty for none."""
    base, plus, rest = text.partition("+")
    if plus and base in PRESETS:
        return file_of(rest)
    in_a_file = _IN_A_FILE.fullmatch(text)
    if in_a_file is not None:
        return in_a_file["file"]
    name, _, argument = text.partition("=")
    return argument if name in TREE else ""


def beside(folder: Path, text: str) -> str:
    """Return the same policy with its file, if it has one, as seen from a folder."""
    base, plus, rest = text.partition("+")
    if plus and base in PRESETS:
        return f"{base}+{beside(folder, rest)}"
    file = file_of(text)
    return text.replace(file, str(folder / file), 1) if file else text


def named_policies() -> list[str]:
    """Return what may be named without a file, but for what packages bring."""
    return [*PRESETS, *TREE]


@cache
def _found(text: str) -> Policy:
    """Return a policy that is no preset; found once, however often it is asked for."""
    base, plus, rest = text.partition("+")
    if plus and base in PRESETS:
        return _on(PRESETS[base], _found(rest) if rest not in PRESETS else PRESETS[rest], text)
    in_a_file = _IN_A_FILE.fullmatch(text)
    if in_a_file is not None:
        file, name, argument = in_a_file.group("file", "name", "argument")
        found = _named_in(_run_file(file), file, name)
        origin = f"{file}:{name}"
    else:
        origin, equals, given = text.partition("=")
        argument = given if equals else None
        found = _named(origin)
    return _checked(_made(found, origin, argument), origin, text)


def _named(name: str) -> object:
    """Return what the tree, or a package, calls so."""
    if name in PRESETS:
        return PRESETS[name]
    if name in TREE:
        from importlib import import_module

        module, _, attribute = TREE[name].partition(":")
        return getattr(import_module(module), attribute)
    from importlib.metadata import entry_points

    points = list(entry_points(group=ENTRY_POINTS))
    for point in points:
        if point.name == name:
            try:
                return point.load()
            except BaseException as error:
                _pass_on_interrupts(error)
                raise WrongPolicy(f"{name} ({point.value}): {_told(error)}") from error
    known = [*named_policies(), *(point.name for point in points)]
    raise WrongPolicy(
        f"unknown policy {quoted(name)}{did_you_mean(name, known)}; known: {', '.join(known)}, "
        "or FILE.py:NAME"
    )


def _run_file(file: str) -> ModuleType:
    """Run a Python file, and return what it defines; it may import what lies beside it."""
    import sys
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    path = Path(file)
    try:
        path.open("rb").close()
    except OSError as error:
        raise WrongPolicy(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise WrongPolicy(f"{quoted(file)}: {error}") from error
    name = f"midstream_policy_of_{path.stem}"
    spec = spec_from_file_location(name, file, loader=SourceFileLoader(name, file))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    folder = str(path.resolve().parent)
    # Behind all else: nothing there can stand in for a module of ours.
    if folder not in sys.path:
        sys.path.append(folder)
    # Whoever defines dataclasses there is looked up by its module's name.
    sys.modules[name] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        _pass_on_interrupts(error)
        raise WrongPolicy(f"{_place(error, file)}: {_told(error)}") from error
    finally:
        sys.dont_write_bytecode = writes
    return module


def _named_in(module: ModuleType, file: str, name: str) -> object:
    if name in vars(module):
        return vars(module)[name]
    own = [each for each, value in vars(module).items() if isinstance(value, Policy)]
    there = f"; it has {', '.join(own)}" if own else ""
    raise WrongPolicy(f"{file} has no {quoted(name)}{did_you_mean(name, own)}{there}")


def _made(found: object, origin: str, argument: str | None) -> object:
    """Return what a function makes; what is no function stays as it is."""
    if isinstance(found, Policy) or not callable(found):
        if argument is not None:
            raise WrongPolicy(f"{origin} takes no argument, {quoted('=' + argument)}")
        return found
    try:
        return found() if argument is None else found(argument)
    except LocalProtocolError as error:
        raise WrongPolicy(f"{origin}: {error}") from error
    except BaseException as error:
        _pass_on_interrupts(error)
        file = origin.rpartition(":")[0]
        where = _place(error, file) if file else origin
        raise WrongPolicy(f"{where}: {_told(error)}") from error


def _checked(found: object, origin: str, text: str) -> Policy:
    """Return a policy that can be used, with where it came from."""
    if not isinstance(found, Policy):
        shown = f"the class {found.__name__}" if isinstance(found, type) else _shown(found)
        raise WrongPolicy(f"{origin} is {shown}, no Policy or Scheme of source.scheme")
    name: object = found.name
    if not isinstance(name, str) or not name.strip() or one_line(name) != name:
        raise WrongPolicy(f"{origin}: its name {_shown(name)} is no line of text")
    if len(name) > POLICY_NAME_CHARS_MAX:
        raise WrongPolicy(f"{origin}: its name is longer than {POLICY_NAME_CHARS_MAX} characters")
    try:
        Policy.from_switches(name, found.switches)
    except (AttributeError, LocalProtocolError) as error:
        raise WrongPolicy(f"{origin}: its switches are wrong: {error}") from error
    from source.scheme import Scheme

    if not isinstance(found, Scheme):
        return found
    _check_hooks(found, origin)
    return replace(found, origin=text)


def _check_hooks(scheme: Scheme, origin: str) -> None:
    """Make what a scheme makes, once, and look whether it can be asked."""
    from source.guarding import Guard

    for make, hooks in ((scheme.prefetcher, _HOOKS), (scheme.order, ("pick",))):
        if make is None:
            continue
        if not callable(make):
            raise WrongPolicy(f"{origin}: {_shown(make)} makes no prefetcher or order")
        try:
            made = Guard(scheme.name, make).made
        except PolicyFailed as error:
            raise WrongPolicy(f"{origin}: {error}") from error
        missing = [hook for hook in hooks if not callable(getattr(made, hook, None))]
        if missing:
            kind = "Order" if hooks == ("pick",) else "Prefetcher"
            raise WrongPolicy(
                f"{origin}: {type(made).__name__} has no {', '.join(missing)}; derive it from "
                f"{kind} of source.scheme"
            )


def _on(base: Policy, scheme: Policy, text: str) -> Policy:
    """Return the switches of one policy with the prefetcher and the order of another."""
    from source.scheme import Scheme

    if not isinstance(scheme, Scheme):
        raise WrongPolicy(f"{scheme.name} has neither a prefetcher nor an order to go with another")
    switches: dict[str, Any] = {each.name: getattr(base, each.name) for each in fields(Policy)}
    switches |= {"name": f"{base.name}+{scheme.name}"[:POLICY_NAME_CHARS_MAX], "origin": text}
    return Scheme(**switches, prefetcher=scheme.prefetcher, order=scheme.order)


def _place(error: BaseException, file: str) -> str:
    """Return FILE.py:LINE of where in a file an error came from, the file alone if it is not."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}:{error.lineno}"
    line, traceback = 0, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f"{file}:{line}" if line else file


def _told(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else one_line(str(error))
    return f"{type(error).__name__}: {text}".rstrip(": ")


def _shown(value: object) -> str:
    from source.guarding import shown

    return shown(value)


def _pass_on_interrupts(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        raise error
