"""The rooms import one way, and what decides is pure: both rules are checked on the source text."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Each room, and the rooms that it may import beside itself.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "protocol": frozenset(),
    "guest": frozenset({"protocol"}),
    "source": frozenset({"guest", "protocol"}),
    "dest": frozenset({"guest", "protocol"}),
    "scripts": frozenset({"source", "dest", "guest", "protocol"}),
}

# The packages of scripts/, each of which may import those before it.  What stands at the top of
# scripts/ is the command line: first what its options, files and values are, and behind all
# packages the commands themselves.
SCRIPTS_ORDER = (
    "runtime",
    "screen",
    "links",
    "options",
    "results",
    "views",
    "processes",
    "qemu",
    "injection",
    "relay",
    "figures",
    "demo",
    "traces",
    "bench",
    "simulate",
    "sweep",
    "doctor",
    "library",
    "examples",
    "commands",
)
AT_THE_TOP = {
    **dict.fromkeys(
        (
            "configure",
            "credentials",
            "file_digests",
            "files",
            "help_text",
            "named_files",
            "options",
            "policies",
            "policy_definitions",
            "provenance",
            "reports",
            "resolved",
            "run_config",
        ),
        "options",
    ),
    **dict.fromkeys(("__main__", "cli", "commands", "control"), "commands"),
}
# What `--steps` says is read as scenarios are; those between two QEMUs are run by what is between.
AGAINST_THE_ORDER = frozenset(
    {
        ("scripts.configure", "scripts.injection.steps"),
        ("scripts.injection.inject", "scripts.relay.judging"),
        ("scripts.injection.inject", "scripts.relay.scenario"),
    }
)

# The deciding modules outside protocol/, which is pure as a whole. A module moves out of this list
# only together with what it decides.
CORE_MODULES = frozenset(
    {
        "guest.spec",
        "guest.streams.stream",
        "guest.trace",
        "source.buffering",
        "source.background",
        "source.answering",
        "source.attempts",
        "source.commands",
        "source.config",
        "source.endings",
        "source.engine",
        "source.epochs",
        "source.frames",
        "source.guarding",
        "source.framing",
        "source.gate",
        "source.halfsent",
        "source.handshakes",
        "source.in_flight",
        "source.jobs",
        "source.leaving",
        "source.meter",
        "source.outlet",
        "source.overtaking",
        "source.passes",
        "source.phases",
        "source.prefetchers",
        "source.prefetchers.bubbling",
        "source.prefetchers.demotion",
        "source.prefetchers.locality",
        "source.prefetchers.read_ahead",
        "source.prefetchers.recorded",
        "source.prefetchers.schemes",
        "source.prefetchers.streams",
        "source.prefetchers.stride",
        "source.prefetched",
        "source.prefetching",
        "source.progress",
        "source.reporting",
        "source.request_queue",
        "source.resends",
        "source.scheduler",
        "source.scheme",
        "source.pacing",
        "source.resumption",
        "source.convergence",
        "source.steering",
        "source.steps",
        "source.telling",
        "source.tracking",
        "source.verification",
        "source.work",
        "dest.arrival",
        "dest.assembly",
        "dest.claims",
        "dest.copies",
        "dest.engine",
        "dest.faults",
        "dest.landing",
        "dest.missing",
        "dest.pending",
        "dest.phases",
        "dest.qemu.report",
        "dest.qemu.wire",
        "dest.script",
        "dest.steps",
        "dest.trips",
        "dest.waits",
        "dest.words",
        "guest.kvm.abi",
        "guest.kvm.record",
        "guest.access_line",
        "guest.latency",
        "scripts.relay.telling",
        "scripts.relay.tracker",
        "scripts.traces.csv_table",
        "scripts.traces.cutting",
        "scripts.traces.damon",
        "scripts.traces.figures",
        "scripts.traces.found",
        "scripts.traces.perf_script",
        "scripts.traces.qemu_log",
        "scripts.screen.facts",
        "scripts.screen.sentences",
        "scripts.screen.verdict",
        "scripts.screen.words",
        "scripts.views.bars",
        "scripts.views.causes",
        "scripts.views.curves",
        "scripts.views.embed",
        "scripts.views.facts",
        "scripts.views.history",
        "scripts.views.live",
        "scripts.views.perfetto",
        "scripts.views.records",
        "scripts.views.redraw",
        "scripts.views.traffic",
        "scripts.views.typed_arrays",
    }
)

# Whatever reaches a clock, the kernel, another thread or the network.
IMPURE_MODULES = frozenset(
    {
        "asyncio",
        "ctypes",
        "fcntl",
        "guest.clock",
        "importlib",
        "mmap",
        "multiprocessing",
        "os",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "subprocess",
        "threading",
        "time",
        "trio",
    }
)

# Generators that repeat themselves when they are given a seed; all else in these modules draws
# from a state that the whole process shares, or from the system.
SEEDABLE = {
    "random": frozenset({"Random"}),
    "numpy.random": frozenset({"default_rng", "SeedSequence", "PCG64", "Philox", "SFC64"}),
}
NOT_DRAWING = {"random": frozenset[str](), "numpy.random": frozenset({"Generator"})}


# What a guest is to its engine stands in guest/interface.py; who opens one may name what opens it.
GUESTS_OWN = frozenset(
    {
        "guest.board",
        "guest.handle",
        "guest.launch",
        "guest.messages.decode_event",
        "guest.messages.encode_event",
        "guest.messages.pack",
        "guest.messages.unpack",
        "guest.process",
        "guest.vcpu",
    }
)
MAY_OPEN_GUESTS = frozenset({"source.session", "dest.session"})
OPENING = frozenset(
    {"guest.handle.GuestProcess", "guest.handle.open_guest", "guest.handle.start_process"}
)


class Import(NamedTuple):
    """One name that a module imports, as full as the source text tells it."""

    name: str
    line: int


def module_name(path: Path) -> str:
    """Return the dotted name of a file below ROOT; a package's __init__ has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def project_modules() -> dict[str, Path]:
    """Return every module of the rooms by its dotted name."""
    paths = (path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py")))
    return {module_name(path): path for path in paths}


def imports_of(tree: ast.AST, module: str) -> Iterator[Import]:
    """Yield what the tree imports, at any depth: a late or a typing-only import is one too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno)


def is_in(name: str, modules: frozenset[str]) -> bool:
    """Tell whether a dotted name is one of the modules or lies inside one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def direction_faults(source: str, module: str) -> list[str]:
    """Return the imports that go against the direction of the rooms."""
    room = module.partition(".")[0]
    faults = []
    for name, line in imports_of(ast.parse(source), module):
        target = name.partition(".")[0]
        if target == "tests":
            faults.append(f"{module}:{line} imports tests")
        elif target in MAY_IMPORT and target != room and target not in MAY_IMPORT[room]:
            faults.append(f"{module}:{line} imports {name}, but {room} may not import {target}")
    return faults


def place_in_scripts(module: str) -> int | None:
    """Return where in the order of scripts/ a module or one of its names stands; None outside."""
    room, _, inside = module.partition(".")
    first = inside.partition(".")[0]
    if room != "scripts" or not first:
        return None
    return SCRIPTS_ORDER.index(AT_THE_TOP.get(first, first))


def order_faults(source: str, module: str) -> list[str]:
    """Return the imports that go against the order of the packages of scripts/."""
    own = place_in_scripts(module)
    if own is None:
        return []
    return [
        f"{module}:{line} imports {name}, which stands behind it"
        for name, line in imports_of(ast.parse(source), module)
        if (place := place_in_scripts(name)) is not None
        and place > own
        and (module, name.rpartition(".")[0]) not in AGAINST_THE_ORDER
    ]


def is_pure(module: str) -> bool:
    """Tell whether a module of this project has to be pure."""
    return module in CORE_MODULES or is_in(module, frozenset({"protocol"}))


def import_is_impure(name: str) -> bool:
    """Tell whether a pure module may not import this name."""
    room, _, inside = name.partition(".")
    if room in MAY_IMPORT:
        # A whole room or one of its names: `from source import pacing` arrives as source.pacing,
        # `from source.pacing import Policy` as source.pacing.Policy.
        return bool(inside) and not is_in(name, CORE_MODULES | {"protocol"})
    return is_in(name, IMPURE_MODULES)


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name that an expression like `np.random.random` stands for, or nothing."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return what the names that imports bind in a module stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def draws_unseeded(call: ast.Call, names: dict[str, str]) -> bool:
    """Tell whether a call takes chance from anything but a generator made with a seed."""
    owner, _, attribute = dotted(call.func, names).rpartition(".")
    if owner not in SEEDABLE or attribute in NOT_DRAWING[owner]:
        return False
    return attribute not in SEEDABLE[owner] or not (call.args or call.keywords)


def purity_faults(source: str, module: str) -> list[str]:
    """Return what a module does that a pure module may not do."""
    tree = ast.parse(source)
    faults = [
        f"{module}:{line} imports {name}, but is pure"
        for name, line in imports_of(tree, module)
        if import_is_impure(name)
    ]
    names = imported_names(tree)
    faults += [
        f"{module}:{node.lineno} draws unseeded random numbers, but is pure"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and draws_unseeded(node, names)
    ]
    return faults


def guest_faults(source: str, module: str) -> list[str]:
    """Return where a module of the engines knows more of a guest than its interface."""
    if module.partition(".")[0] not in {"source", "dest"}:
        return []
    tree = ast.parse(source)
    faults = [
        f"{module}:{line} imports {name}, which is a kind of guest's own"
        for name, line in imports_of(tree, module)
        if is_in(name, GUESTS_OWN) and not (module in MAY_OPEN_GUESTS and name in OPENING)
    ]
    return faults + [
        f"{module}:{node.lineno} looks at a guest's board"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"board", "_board"}
    ]


def missing_core_modules(modules: frozenset[str]) -> list[str]:
    """Return the core modules that are not there, for rooms in which work has begun."""
    begun = {name.partition(".")[0] for name in modules if "." in name}
    return sorted(name for name in CORE_MODULES - modules if name.partition(".")[0] in begun)


def test_imports_go_one_way() -> None:
    """Every import of every room goes down the order of the rooms."""
    faults = []
    for module, path in project_modules().items():
        faults += direction_faults(path.read_text(encoding="utf-8"), module)
    assert not faults, "\n".join(faults)


def test_packages_of_scripts_have_an_order() -> None:
    """No package of scripts/ imports one behind it, and every one has its place."""
    faults = []
    for module, path in project_modules().items():
        faults += order_faults(path.read_text(encoding="utf-8"), module)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("scripts.screen.output", "from scripts.runtime.parent import tell_parent", 0),
        ("scripts.runtime.parent", "from scripts.screen.output import tell", 1),
        ("scripts.links.link", "def late():\n    from scripts.configure import parse_address", 1),
        ("scripts.configure", "from scripts.links.shape import MIN\nimport scripts.files", 0),
        ("scripts.configure", "from scripts import commands", 1),
        ("scripts.configure", "from scripts.injection.steps import parse_steps", 0),
        ("scripts.configure", "from scripts.injection.scenario import Scenario", 1),
        ("scripts.cli", "import scripts.bench.command\nfrom scripts.commands import run", 0),
        ("source.session", "from scripts.cli import main", 0),
    ],
)
def test_an_import_against_the_order_is_found(module: str, source: str, count: int) -> None:
    """What goes back is reported once, at whatever depth; what goes on is no fault."""
    assert len(order_faults(source, module)) == count


def test_deciding_modules_are_pure() -> None:
    """Everything in protocol/ and every core module decides without clock, kernel or network."""
    faults = []
    for module, path in project_modules().items():
        if is_pure(module):
            faults += purity_faults(path.read_text(encoding="utf-8"), module)
    assert not faults, "\n".join(faults)


def test_engines_know_a_guest_by_its_interface() -> None:
    """Nothing in source/ and dest/ depends on what kind of guest it is."""
    faults = []
    for module, path in project_modules().items():
        faults += guest_faults(path.read_text(encoding="utf-8"), module)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("dest.hosted", "def part(self):\n    return self._guest.board.accesses()", 1),
        ("dest.placement", "from guest.board import Board", 1),
        ("source.migration", "from guest.handle import GuestHandle", 1),
        ("source.session", "from guest.handle import open_guest, start_process", 0),
        ("dest.hosted", "from guest.handle import open_guest", 1),
        ("dest.vcpus", "from guest.interface import Faulted, Guest", 0),
        ("guest.handle", "from guest.board import Board", 0),
    ],
)
def test_a_look_behind_the_interface_is_found(module: str, source: str, count: int) -> None:
    """What belongs to one kind of guest is found where any kind must do."""
    assert len(guest_faults(source, module)) == count


def test_core_modules_exist() -> None:
    """Each module that CORE_MODULES names is there, so that none escapes under a new name."""
    missing = missing_core_modules(frozenset(project_modules()))
    assert not missing, f"named in CORE_MODULES but not in the tree: {', '.join(missing)}"


def test_a_missing_core_module_is_reported_once_its_room_is_begun() -> None:
    """A core module is missed as soon as its room holds another module, and not before."""
    assert missing_core_modules(frozenset({"source", "dest"})) == []
    missing = missing_core_modules(frozenset({"source", "source.pacing", "dest"}))
    assert "source.scheduler" in missing
    assert "source.pacing" not in missing
    assert not any(name.startswith("dest.") for name in missing)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("protocol.wire", "import guest.memory"),
        ("guest.memory", "from source import scheduler"),
        ("source.engine", "from dest.assembly import Assembly"),
        ("dest.engine", "import source"),
        ("source.engine", "from scripts.cli import main"),
        ("guest.memory", "from ..dest import faults"),
        ("scripts.cli", "from tests.test_layering import ROOT"),
        ("dest.engine", "def late():\n    import source.pacing"),
        (
            "source.engine",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dest.engine",
        ),
    ],
)
def test_a_backward_import_is_found(module: str, source: str) -> None:
    """An import against the order of the rooms is reported once, wherever it stands."""
    assert len(direction_faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("scripts.cli", "import source.engine, dest.engine, guest, protocol.wire"),
        ("dest.engine", "from guest.memory import Memory\nfrom dest import faults"),
        ("source.engine", "from . import pacing\nfrom .scheduler import Scheduler"),
        ("protocol.wire", "import guestbook, sources, struct"),
    ],
)
def test_a_forward_import_is_allowed(module: str, source: str) -> None:
    """An import down the order of the rooms, or from outside the project, is no fault."""
    assert direction_faults(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import trio",
        "import time as clock",
        "from os import path",
        "import os.path",
        "from socket import socket",
        "from mmap import mmap",
        "import ctypes.util",
        "import select, struct",
        "def late():\n    import subprocess",
        "from threading import Lock",
        "import guest.memory",
        "from guest import memory",
        "from source.sender import Sender",
        "import random\nrandom.random()",
        "import random as chance\nchance.shuffle([1, 2])",
        "from random import randrange\nrandrange(5)",
        "import random\nrandom.Random()",
        "from random import Random, SystemRandom\nSystemRandom(1)",
        "import numpy as np\nnp.random.default_rng()",
        "import numpy as np\nnp.random.rand(4)",
        "from numpy import random\nrandom.seed(4)",
    ],
)
def test_an_impure_module_is_found(source: str) -> None:
    """A core module that reaches for clock, kernel, network or chance is reported once."""
    assert len(purity_faults(source, "source.scheduler")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import struct, timeit_like, oslo\nfrom collections import deque",
        "from protocol.wire import Frame\nimport protocol\nfrom source import pacing",
        "from .pacing import Pacer",
        "import random\nrng = random.Random(7)\nrng.random()",
        "from random import Random\nrng = Random(x=7)",
        "import numpy as np\nrng = np.random.Generator(np.random.PCG64(7))\nrng.random()",
        "import numpy as np\nrng = np.random.default_rng(seed=7)",
    ],
)
def test_a_pure_module_is_allowed(source: str) -> None:
    """A core module may use plain data, other pure modules and generators with a seed."""
    assert purity_faults(source, "source.scheduler") == []
