"""`--policy` finds presets, schemes of the tree and somebody's own, and says what is wrong."""

import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest

from protocol.policy import PRESETS, HalfSent
from scripts import policies
from scripts.policies import ENTRY_POINTS, WrongPolicy, file_of, policy_of
from source.scheme import Scheme
from tests.processes import Lab

MINE = """\
from dataclasses import dataclass
from source.scheme import HalfSent, Order, Policy, Prefetcher, Scheme

class Mine(Prefetcher):
    pass

class Last(Order):
    def pick(self, queue, half_sent):
        return len(queue) - 1

@dataclass
class Counted:
    count: int

switches = Policy("switches", half_sent=HalfSent.SPLIT)
mine = Scheme("mine", locality=False, prefetcher=Mine)
last = Scheme("last", order=Last)

def made(text="nothing"):
    return Scheme(f"made-of-{text}", prefetcher=Mine)
"""


@pytest.fixture(autouse=True)
def _search_path() -> Iterator[None]:
    """Forget what a test has loaded."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    policies._found.cache_clear()


def write(folder: Path, text: str) -> Path:
    """Write a file of policies."""
    path = folder / "my policies.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_presets_are_what_they_were() -> None:
    """The names of before stand for the same switches."""
    for name, policy in PRESETS.items():
        assert policy_of(name) is policy


def test_a_file_has_policies_of_all_kinds(tmp_path: Path) -> None:
    """Switches alone, with a prefetcher, with an order, or what a function makes of a text."""
    path = write(tmp_path, MINE)
    assert policy_of(f"{path}:switches").half_sent is HalfSent.SPLIT
    mine = policy_of(f"{path}:mine")
    assert isinstance(mine, Scheme)
    assert (mine.name, mine.locality, mine.order) == ("mine", False, None)
    assert mine.origin == f"{path}:mine"
    last = policy_of(f"{path}:last")
    assert isinstance(last, Scheme)
    assert last.order is not None
    assert policy_of(f"{path}:made").name == "made-of-nothing"
    assert policy_of(f"{path}:made=a=b:c").name == "made-of-a=b:c"
    assert not list(tmp_path.glob("__pycache__")), "nothing is left beside a user's file"


def test_a_presets_switches_go_with_another_prefetcher(tmp_path: Path) -> None:
    """What is behind the plus gives the prefetcher and the order, the preset all switches."""
    path = write(tmp_path, MINE)
    both = policy_of(f"critical-first+{path}:mine")
    assert isinstance(both, Scheme)
    assert both.name == "critical-first+mine"
    assert (both.critical, both.locality) == (True, True)
    assert both.prefetcher is not None
    assert both.switches == PRESETS["critical-first"].switches


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    """It is found behind all else: no name there can stand in for a module of midstream."""
    (tmp_path / "beside_it.py").write_text("NAME = 'found'\n", encoding="utf-8")
    (tmp_path / "source.py").write_text("raise SystemExit\n", encoding="utf-8")
    text = "from beside_it import NAME\nfrom source.scheme import Policy\nx = Policy(NAME)\n"
    assert policy_of(f"{write(tmp_path, text)}:x").name == "found"


WRONG = {
    "no such name": (MINE, "mnie", "has no 'mnie' (did you mean 'mine'?)"),
    "a syntax error": ("x = 1\ndef f(:\n", "x", ":2: SyntaxError: invalid syntax"),
    "an exception": ("x = 1\ny = x / 0\n", "x", ":2: ZeroDivisionError: division by zero"),
    "an exit": ("raise SystemExit(0)\n", "x", ":1: SystemExit: 0"),
    "a missing module": ("import no_such_module\n", "x", ":1: ModuleNotFoundError: No module"),
    "no policy": ("x = 7\n", "x", "x is 7, no Policy or Scheme"),
    "a prefetcher's class": (MINE, "Mine", "no Policy or Scheme of source.scheme"),
    "an argument for none": (MINE, "mine=7", "takes no argument"),
    "a function that raises": ("def f():\n    return {}[1]\n", "f", ":2: KeyError: 1"),
    "a function of none": ("def f():\n    return None\n", "f", "f is None, no Policy"),
    "no line for a name": (MINE + "x = Policy('a\\nb')\n", "x", "its name 'a\\nb' is no line"),
    "a number for a name": (MINE + "x = Policy(5)\n", "x", "its name 5 is no line"),
    "a long name": (MINE + "x = Policy('x' * 65)\n", "x", "longer than 64"),
    "switches of no kind": (MINE + "x = Policy('x', half_sent='split')\n", "x", "switches are"),
    "switches against each other": (
        MINE + "x = Policy('x', own_channel=False)\n", "x",
        "LocalProtocolError: a policy that preempts needs a channel of its own",
    ),
    "an instance": (MINE + "x = Scheme('x', prefetcher=Mine())\n", "x", "makes no prefetcher"),
    "no hooks": (
        MINE + "x = Scheme('x', prefetcher=Counted, order=None)\n", "x", "TypeError: Counted",
    ),
    "missing hooks": (
        MINE + "x = Scheme('x', prefetcher=dict)\n", "x", "dict has no restart, requested, served",
    ),
    "a missing order": (MINE + "x = Scheme('x', order=Mine)\n", "x", "Mine has no pick; derive"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, case: str) -> None:
    """Whatever a file holds: one line with the file, and where it is known the line in it."""
    text, name, reason = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(WrongPolicy) as error:
        policy_of(f"{path}:{name}")
    told = str(error.value)
    assert reason in told
    assert str(path) in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("orderd", "unknown policy 'orderd' (did you mean 'ordered'?); known: vanilla, "),
        ("", "unknown policy ''"),
        ("no/such.py:x", "no/such.py: No such file or directory"),
        ("/.py:x", "/.py: No such file"),
        ("ordered+nothing", "unknown policy 'nothing'"),
        ("ordered+split", "split has neither a prefetcher nor an order"),
        ("ordered=7", "ordered takes no argument"),
        ("nul\0.py:x", "embedded null byte"),
    ],
)
def test_what_is_not_there_is_said(text: str, reason: str) -> None:
    """A name that nothing has is told with what is like it."""
    with pytest.raises(WrongPolicy) as error:
        policy_of(text)
    assert reason in str(error.value)


def test_a_folder_is_no_policy(tmp_path: Path) -> None:
    """Nor is anything else that cannot be read."""
    folder = tmp_path / "folder.py"
    folder.mkdir()
    with pytest.raises(WrongPolicy, match="Is a directory"):
        policy_of(f"{folder}:x")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make an installed package that names policies, one of which cannot be loaded."""
    (tmp_path / "their_policies.py").write_text(MINE, encoding="utf-8")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\ntheirs = their_policies:mine\nbroken = their_policies:nothing\n"
    )
    sys.path.append(str(tmp_path))
    invalidate_caches()
    return tmp_path


def test_an_installed_package_brings_policies(package: Path) -> None:
    """By an entry point's name; a broken one is told, and a slip of the pen finds it."""
    theirs = policy_of("theirs")
    assert isinstance(theirs, Scheme)
    assert (theirs.name, theirs.origin) == ("mine", "theirs")
    assert policy_of("split+theirs").half_sent is HalfSent.SPLIT
    with pytest.raises(WrongPolicy, match=r"^broken \(their_policies:nothing\): AttributeError"):
        policy_of("broken")
    with pytest.raises(WrongPolicy, match="did you mean 'theirs'"):
        policy_of("thiers")


def test_the_command_line_is_refused_at_once(lab: Lab, tmp_path: Path) -> None:
    """Exit status 2 with a single line, before a process or a report is there."""
    path = write(tmp_path, "def f(:\n")
    report = tmp_path / "report.json"
    refused = lab.run("migrate", "--policy", f"{path}:x", "--report", report)
    refused.fail(2, f"Invalid value for --policy: {path}:1: SyntaxError: invalid syntax")
    assert len(refused.errors.splitlines()) == 1
    assert not report.exists()


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("ordered", ""),
        ("a/b.py:c", "a/b.py"),
        ("a.py:c=d.txt", "a.py"),
        ("recorded=run.jsonl", "run.jsonl"),
        ("split+recorded=run.jsonl", "run.jsonl"),
        ("split+read-ahead", ""),
        ("theirs=x", ""),
    ],
)
def test_a_policys_file_is_known_as_an_input(text: str, file: str) -> None:
    """So that no output of the same run is written over it."""
    assert file_of(text) == file


def test_no_output_is_written_over_a_policy(lab: Lab, tmp_path: Path) -> None:
    """Nor over a recording that is replayed."""
    path = write(tmp_path, MINE)
    lab.run("migrate", "--policy", f"{path}:mine", "--report", path).fail(2, "--report", "--policy")
    lab.run("migrate", "--policy", f"recorded={path}", "--events", path).fail(2, "--events")
    assert path.read_text(encoding="utf-8") == MINE
