"""Tests of scripts/injection/scenario.py and of what reads its parts."""

from pathlib import Path

import pytest

from dest.config import DestConfig
from protocol.channels import Channel
from protocol.geometry import PageId
from scripts.injection.actions import Fault, NetworkAction, ProcessAction
from scripts.injection.marks import BytesMark, Direction, ShareMark
from scripts.injection.scenario import (
    Scenario,
    ScenarioError,
    has_proxy,
    held_pages,
    is_scripted,
    read_scenario,
    wire_marks,
)
from scripts.injection.tap import Part
from scripts.injection.triggers import Elapsed, Entered, Passed, Placed, Received, Requested
from tests.certificates import write_certificates
from tests.processes import Lab

END = '[expect]\nstatus = "completed"\n'


def read(folder: Path, text: str) -> Scenario:
    """Return the scenario that a text stands for."""
    path = folder / "case.toml"
    path.write_text(text, encoding="utf-8")
    return read_scenario(path)


def step(when: str, action: str, migration: str = 'size = "16MiB"') -> str:
    """Return a scenario of one step; its `when` stands in line 4, its action in line 5."""
    return f"[migration]\n{migration}\n[[step]]\nwhen = {when}\n{action}\n{END}"


def test_a_scenario_has_defaults(tmp_path: Path) -> None:
    """What is not said is as for `migrate`, but that vCPUs touch only what steps tell them to."""
    scenario = read(tmp_path, END)
    assert scenario.name == "case"
    assert scenario.timeout_ms == 180_000
    assert isinstance(scenario.dest, DestConfig)
    assert scenario.source.silence_seconds_max == scenario.dest.silence_seconds_max == 60
    assert (scenario.program.name, scenario.program.vcpu_count) == ("scripted", 1)
    assert scenario.source.policy.name == "ordered"
    assert scenario.steps == ()


def test_another_kind_of_guest_can_be_asked_for(tmp_path: Path) -> None:
    """A scenario may say what runs its vCPUs; who asks for another kind gets that."""
    text = step("{ placed = 0 }", "fault = [1]", 'guest = "native"')
    assert read(tmp_path, text).source.guest == "native"
    assert read_scenario(tmp_path / "case.toml", "kvm").source.guest == "kvm"
    assert read(tmp_path, END).source.guest == "python"
    with pytest.raises(ScenarioError, match=r"case.toml:2: guest: 'vmware' is not one of auto"):
        read(tmp_path, step("{ placed = 0 }", "fault = [1]", 'guest = "vmware"'))


def test_there_are_as_many_vcpus_as_touches(tmp_path: Path) -> None:
    """Each touch has a vCPU of its own, unless the scenario says how many there are."""
    action = "fault = [1, 2, 3]"
    assert read(tmp_path, step("{ placed = 0 }", action)).program.vcpu_count == 3
    text = step("{ placed = 0 }", action, "vcpus = 2")
    assert read(tmp_path, text).program.vcpu_count == 2


def test_a_switch_is_on_or_off(tmp_path: Path) -> None:
    """What takes no value on the command line is true or false in a scenario, and nothing else."""
    assert not read(tmp_path, END).source.checksum
    for value in (True, False):
        text = f"[migration]\nchecksum = {str(value).lower()}\n{END}"
        assert read(tmp_path, text).source.checksum is value
    for wrong in ('"yes"', "1"):
        with pytest.raises(ScenarioError, match=":2: checksum is neither true nor false"):
            read(tmp_path, f"[migration]\nchecksum = {wrong}\n{END}")


@pytest.mark.parametrize(
    ("when", "trigger"),
    [
        ("{ page = 5, received = 0.25 }", Received(PageId(0, 5), 0.25)),
        ("{ page = 5, received = 1 }", Received(PageId(0, 5), 1.0)),
        ("{ requested = 7 }", Requested(PageId(0, 7))),
        ('{ placed = "rom:3" }', Placed(PageId(1, 3))),
        ('{ placed = "1:3" }', Placed(PageId(1, 3))),
        ('{ state = "postcopy-active" }', Entered("postcopy-active", None)),
        ('{ state = "device", side = "dest" }', Entered("device", "dest")),
        (
            '{ bytes = 1, channel = "postcopy" }',
            Passed(BytesMark(1, Channel.POSTCOPY, Direction.FORWARD)),
        ),
        (
            '{ bytes = 9, channel = "precopy", direction = "backward" }',
            Passed(BytesMark(9, Channel.PRECOPY, Direction.BACKWARD)),
        ),
        ('{ time = "200ms" }', Elapsed(200.0)),
        ('{ time = "0ms" }', Elapsed(0.0)),
    ],
)
def test_triggers(tmp_path: Path, when: str, trigger: object) -> None:
    """Each kind of moment is understood."""
    text = step(when, "fault = [0]", 'size = "ram=16MiB,rom=8MiB"')
    (only,) = read(tmp_path, text).steps
    assert (only.when, only.line) == (trigger, 4)


BOTH = tuple(Direction)
ALL = tuple(Channel)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("fault = [3, 1]", Fault((PageId(0, 3), PageId(0, 1)))),
        ("fault = [3]\ntarget-page = 511", Fault((PageId(0, 3),), 511)),
        ('network = { do = "cut" }', NetworkAction("cut", ALL)),
        (
            'network = { do = "stall", channel = "precopy", for = "1s" }',
            NetworkAction("stall", (Channel.PRECOPY,), BOTH, 1000.0),
        ),
        (
            'network = { do = "half-close" }',
            NetworkAction("half-close", ALL, (Direction.FORWARD,)),
        ),
        (
            'network = { do = "delay", by = "5ms", direction = "backward" }',
            NetworkAction("delay", ALL, (Direction.BACKWARD,), by_ms=5.0),
        ),
        (
            'network = { do = "throttle", rate = "8Mbit/s" }',
            NetworkAction("throttle", ALL, rate=1_000_000),
        ),
        (
            'network = { do = "corrupt", bits = 3, in = "header" }',
            NetworkAction("corrupt", ALL, (Direction.FORWARD,), bits=3, part=Part.HEADER),
        ),
        ('network = { do = "heal" }', NetworkAction("heal", ALL)),
        (
            'network = { do = "hold", page = 5, at = 0.25 }',
            NetworkAction("hold", ALL, BOTH, page=PageId(0, 5), share=0.25),
        ),
        (
            'network = { do = "hold", page = "0:5", channel = "precopy" }',
            NetworkAction("hold", (Channel.PRECOPY,), BOTH, page=PageId(0, 5)),
        ),
        ('process = { do = "kill", side = "dest" }', ProcessAction("kill", "dest")),
        (
            'process = { do = "stop", side = "source", for = "200ms" }',
            ProcessAction("stop", "source", 200.0),
        ),
        ('process = { do = "continue", side = "source" }', ProcessAction("continue", "source")),
    ],
)
def test_actions(tmp_path: Path, action: str, expected: object) -> None:
    """Each kind of action is understood."""
    (only,) = read(tmp_path, step("{ placed = 0 }", action)).steps
    assert only.action == expected


def test_a_held_page_is_let_go(tmp_path: Path) -> None:
    """Who holds a page says where, who lets it go only which."""
    hold = 'network = { do = "hold", page = 5 }'
    release = '[[step]]\nwhen = { placed = 1 }\nnetwork = { do = "release", page = 5 }\n'
    scenario = read(tmp_path, step('{ time = "0ms" }', hold).replace(END, release + END))
    held, released = scenario.steps
    assert held.action == NetworkAction("hold", ALL, BOTH, page=PageId(0, 5))
    assert released.action == NetworkAction("release", ALL, BOTH, page=PageId(0, 5))
    assert held_pages(scenario) == {PageId(0, 5)}


PLACED = "{ placed = 0 }"
TOUCH = "fault = [0]"

WRONG = [
    ("name = 3\n" + END, 1, "name is not"),
    ('tiemout = "3s"\n' + END, 1, "no 'tiemout'"),
    ('timeout = "0s"\n' + END, 1, "no time"),
    ("[migration]\n", 1, "[expect]"),
    ("[migration]\nsize =\n" + END, 2, "no TOML"),
    ('[migration]\nsise = "1MiB"\n' + END, 2, "no option 'sise'"),
    ('[migration]\n\nsize = "1MB"\n' + END, 3, "size or page-size"),
    ('[migration]\npolicy = "best"\n' + END, 2, "unknown policy"),
    ("[migration]\nvcpus = 100\n" + END, 2, "vcpus"),
    ("[migration]\nvcpus = true\n" + END, 2, "neither"),
    ('[migration]\nevents = "x"\n' + END, 2, "--keep"),
    ('[migration]\nlink = "fast"\n' + END, 2, "link"),
    ('[migration]\nlink = "1Gbit/s,queue=lifo"\n' + END, 2, "known: pfifo_fast"),
    ('[migration]\nlink = "1Gbit/s,queue=pfifo_fast"\n' + END, 2, "it is a proxy"),
    ("step = 3\n" + END, 1, "[[step]]"),
    (f"[[step]]\n{TOUCH}\n" + END, 1, "without `when`"),
    (f"[[step]]\nwhen = {PLACED}\n" + END, 1, "one thing"),
    (step(PLACED, TOUCH + '\nprocess = { do = "kill", side = "dest" }'), 3, "one thing"),
    (step(PLACED, "fualt = [0]"), 5, "no 'fualt'"),
    (step("5", TOUCH), 4, "not a table"),
    (step("{ page = 5, recieved = 1 }", TOUCH), 4, "none of"),
    (step("{ page = 5, received = 0 }", TOUCH), 4, "not a share"),
    (step("{ page = 5, received = 1.5 }", TOUCH), 4, "not a share"),
    (step("{ page = 5, received = true }", TOUCH), 4, "not a share"),
    (step("{ page = 5, received = nan }", TOUCH), 4, "not a number"),
    (step("{ page = 8, received = 1 }", TOUCH), 4, "ram has 8 pages"),
    (step("{ requested = -1 }", TOUCH), 4, "no page"),
    (step('{ requested = "rom:1" }', TOUCH), 4, "no block"),
    (step('{ requested = "7:1" }', TOUCH), 4, "no block"),
    (step("{ placed = 0, requested = 1 }", TOUCH), 4, "none of"),
    (step('{ state = "none" }', TOUCH), 4, "none of"),
    (step('{ state = "postcopy" }', TOUCH), 4, "none of"),
    (step('{ state = "active", side = "left" }', TOUCH), 4, "neither"),
    (step('{ bytes = 0, channel = "precopy" }', TOUCH), 4, "from 1"),
    (step('{ bytes = 9, channel = "extra" }', TOUCH), 4, "none of"),
    (step("{ bytes = 9 }", TOUCH), 4, "none of"),
    (step('{ bytes = 9, channel = "precopy", direction = "up" }', TOUCH), 4, "neither"),
    (step("{ time = 200 }", TOUCH), 4, "not a time"),
    (step('{ time = "181s" }', TOUCH), 4, "timed out"),
    (step(PLACED, "fault = []"), 5, "list of pages"),
    (step(PLACED, "fault = [0, 99]"), 5, "outside"),
    (step(PLACED, "fault = [0]\ntarget-page = 512"), 6, "not a number from 0 to 511"),
    (step(PLACED, "fault = [0]\ntarget-page = true"), 6, "not a number from 0 to 511"),
    (step(PLACED, 'network = { do = "cut" }\ntarget-page = 1'), 6, "is of a fault"),
    (step(PLACED, TOUCH, 'program = "uniform"'), 5, "uniform"),
    (step('{ time = "1ms" }', TOUCH, 'postcopy-after = "never"'), 5, "never"),
    (
        step(PLACED, 'network = { do = "cut" }', 'postcopy-after = "never"'), 4, "does not happen",
    ),
    (step(PLACED, "network = 3"), 5, "`do`"),
    (step(PLACED, 'network = { do = "burn" }'), 5, "none of"),
    (step(PLACED, 'network = { do = "cut", rate = "1MB/s" }'), 5, "no 'rate'"),
    (step(PLACED, 'network = { do = "throttle" }'), 5, "needs `rate`"),
    (step(PLACED, 'network = { do = "throttle", rate = "0" }'), 5, "stall"),
    (step(PLACED, 'network = { do = "delay" }'), 5, "needs `by`"),
    (step(PLACED, 'network = { do = "stall", for = "0s" }'), 5, "no time"),
    (step(PLACED, 'network = { do = "corrupt", bits = 0 }'), 5, "bits"),
    (step(PLACED, 'network = { do = "corrupt", in = "tail" }'), 5, "neither"),
    (step(PLACED, 'network = { do = "corrupt", direction = "both" }'), 5, "neither"),
    (step(PLACED, 'network = { do = "hold" }'), 5, "needs `page`"),
    (step(PLACED, 'network = { do = "hold", page = 99 }'), 5, "outside"),
    (step(PLACED, 'network = { do = "hold", page = 1, at = 1 }'), 5, "not a share"),
    (step(PLACED, 'network = { do = "hold", page = 1, at = -0.1 }'), 5, "not a share"),
    (step(PLACED, 'network = { do = "hold", page = 1, at = false }'), 5, "not a share"),
    (step(PLACED, 'network = { do = "hold", page = 1, for = "1s" }'), 5, "no 'for'"),
    (step(PLACED, 'network = { do = "release" }'), 5, "needs `page`"),
    (step(PLACED, 'network = { do = "release", page = 1 }'), 5, "no step holds page 1"),
    (step(PLACED, 'network = { do = "release", page = 1, at = 0 }'), 5, "no 'at'"),
    (
        step(PLACED, 'network = { do = "release", page = 1, channel = "precopy" }'),
        5, "all channels",
    ),
    (
        step(PLACED, 'network = { do = "cut", channel = "postcopy" }', 'policy = "vanilla"'),
        5, "vanilla has no postcopy",
    ),
    (step(PLACED, 'process = { do = "kill" }'), 5, "side"),
    (step(PLACED, 'process = { do = "hurt", side = "dest" }'), 5, "none of"),
    (step(PLACED, 'process = { do = "kill", side = "dest", for = "1s" }'), 5, "no 'for'"),
    ('[expect]\nstatsu = "completed"\n', 2, "no 'statsu'"),
    ('[expect]\nstatus = "done"\n', 2, "none of"),
    ('[expect]\nstatus = { both = "failed" }\n', 2, "no 'both'"),
    ('[expect]\nexit-status = "0"\n', 2, "whole number"),
    ("[expect]\n\nboosted = -1\n", 3, "boosted"),
    ("[expect]\nboosted = { from = 1 }\n", 2, "at-least"),
    *(
        (f"[migration]\n{option}\n[expect]\n{count}\n", 4, words)
        for option, count, words in (
            ('policy = "vanilla"', "boosted = 1", "always 0: the policy vanilla breaks no"),
            ('policy = "parallel"', "preemptions = { at-least = 1 }", "breaks no page off"),
            ('policy = "drop"', "boosted = 1", "postpones"),
            ('postcopy-after = "never"', "preemptions = 2", "nobody requests"),
        )
    ),
    ('[migration]\npolciy = "drop"\n[expect]\nboosted = 0\n', 2, "(did you mean 'policy'?)"),
    ('[migration]\nsilence-limit = "5s"\n' + END, 2, "(it is keepalive-timeout now)"),
    ('[migration]\npolicy = "dorp"\n[expect]\nboosted = 0\n', 2, "(did you mean 'drop'?)"),
    ("[expect]\nboosted = { at-least = 3, at-most = 2 }\n", 2, "no number"),
    ("[expect]\nurgent-order = [999]\n", 2, "outside"),
    ("[expect]\nplaced-before = [[1, 2, 3]]\n", 2, "pairs"),
    ("[expect]\nserved-order = [999]\n", 2, "outside"),
    ("[expect]\nserved-order = [1]\n", 2, "touched by no step"),
    ("[expect]\nurgent-order = [1]\n", 2, "touched by no step"),
    (f"[[step]]\nwhen = {PLACED}\nfault = [1]\n[expect]\nserved-order = [1, 1]\n", 5, "twice"),
    (
        '[migration]\npostcopy-after = "never"\n[expect]\nserved-order = [1]\n',
        4, "no page is asked for",
    ),
    ("[expect]\nwait-ratio = { of = 1 }\n", 2, "wait-ratio"),
    ("[expect]\nwait-ratio = { of = 1, to = 2 }\n", 2, "bounded"),
    ('[expect]\nnever = ["bost"]\n', 2, "none of"),
    ("[expect]\nchannels = { 5 = [] }\n", 2, "not a list"),
    ('[expect]\nchannels = { 999 = ["precopy"] }\n', 2, "outside"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "word"), WRONG)
def test_a_wrong_scenario_is_refused(tmp_path: Path, text: str, line: int, word: str) -> None:
    """What is wrong is said with file, line and reason."""
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, text)
    place, _, reason = str(caught.value).partition(": ")
    assert place == f"{tmp_path / 'case.toml'}:{line}"
    assert word in reason
    assert caught.value.exit_status == 2


def test_the_proxy_cannot_look_into_tls(tmp_path: Path) -> None:
    """With TLS a scenario that looks at frames is refused, one that does not is read."""
    options = write_certificates(tmp_path, "own")
    keys = [option.removeprefix("--").partition("=") for option in options]
    lines = "\n".join(f'{key} = "{Path(path).name}"' for key, _, path in keys)
    kill = 'process = { do = "kill", side = "dest" }'
    scenario = read(tmp_path, step('{ state = "postcopy-active" }', kill, lines))
    assert scenario.access.tls is not None
    assert scenario.access.tls[1] == str(tmp_path / "own-key.pem")
    refused = pytest.raises(ScenarioError, match=r"case\.toml:2: .* the proxy finds no page in it")
    with refused:
        read(tmp_path, step("{ page = 1, received = 0.5 }", 'network = { do = "cut" }', lines))
    faulting = step("{ page = 1, received = 0.5 }", "fault = [1]", lines)
    assert not has_proxy(read(tmp_path, faulting))
    inside = faulting.replace("fault = [1]", "fault = [1]\ntarget-page = 1")
    with pytest.raises(ScenarioError, match="with TLS, or with a QEMU, target-page is always 0"):
        read(tmp_path, inside)
    with refused:
        read(tmp_path, faulting + "served-order = [1]\n")


def test_a_fault_has_a_proxy_and_a_moment_of_postcopy(tmp_path: Path) -> None:
    """Where vCPUs are made to touch, somebody between the sides lets nothing pass meanwhile."""
    scenario = read(tmp_path, step("{ page = 5, received = 0.5 }", "fault = [1]"))
    assert has_proxy(scenario)
    assert wire_marks(scenario) == [ShareMark(PageId(0, 5), 0.5, in_postcopy=True)]
    assert not is_scripted(scenario, scenario.steps[0])
    cut = read(tmp_path, step("{ page = 5, received = 0.5 }", 'network = { do = "cut" }'))
    assert wire_marks(cut) == [ShareMark(PageId(0, 5), 0.5)]
    assert not has_proxy(read(tmp_path, END))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text, and a file that is not there, are refused in words, too."""
    path = tmp_path / "case.toml"
    with pytest.raises(ScenarioError, match="No such file"):
        read_scenario(path)
    path.write_bytes(b"name = 'a'\n\xff")
    with pytest.raises(ScenarioError, match=":2: this is not UTF-8"):
        read_scenario(path)


def test_the_command_refuses_before_it_runs_anything(lab: Lab) -> None:
    """One wrong file among several ends the command with its line and exit status 2."""
    good, wrong = lab.folder / "good.toml", lab.folder / "wrong.toml"
    good.write_text(END, encoding="utf-8")
    wrong.write_text("[expect]\nbosted = 1\n", encoding="utf-8")
    process = lab.run("inject", good, wrong)
    process.fail(2, f"{wrong}:2: [expect] has no 'bosted'")
    assert process.output == ""
