"""The steps of a relay as a file says them; what is wrong is told by its line."""

from pathlib import Path

import pytest

from protocol.channels import Channel
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import Direction
from scripts.injection.scenario_text import ScenarioError
from scripts.relay.steps import (
    AtByte,
    Entered,
    Flip,
    Hold,
    NamedPage,
    Release,
    Requested,
    Said,
    Served,
    Step,
    read_relay_steps,
)


def read(folder: Path, *lines: str) -> tuple[Step, ...]:
    """Return the steps of a text."""
    path = folder / "steps.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_relay_steps(path)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ('page = "ram:20", byte = 4097', AtByte(NamedPage("ram", 20), 4097, None, True)),
        (
            'page = "a:b:1", byte = 1, channel = "postcopy", phase = "precopy"',
            AtByte(NamedPage("a:b", 1), 1, Channel.POSTCOPY, False),
        ),
        ('requested = "ram:5"', Requested(NamedPage("ram", 5))),
        ('served = "ram:5"', Served(NamedPage("ram", 5))),
        ('message = "pong"', Said("pong", None)),
        ('message = "recv-bitmap", block = "ram"', Said("recv-bitmap", "ram")),
        ('state = "postcopy-paused"', Entered("postcopy-paused")),
    ],
)
def test_moments(tmp_path: Path, text: str, when: object) -> None:
    """Each moment is read as it is written."""
    (step,) = read(tmp_path, "[[step]]", f"when = {{ {text} }}", 'network = { do = "cut" }')
    assert (step.when, step.number, step.line) == (when, 1, 1)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('do = "cut"', NetworkAction("cut", tuple(Channel))),
        ('do = "cut", channel = "postcopy"', NetworkAction("cut", (Channel.POSTCOPY,))),
        (
            'do = "half-close", channel = "precopy"',
            NetworkAction("half-close", (Channel.PRECOPY,), (Direction.FORWARD,)),
        ),
        (
            'do = "stall", direction = "backward", for = "2s"',
            NetworkAction("stall", tuple(Channel), (Direction.BACKWARD,), 2000.0),
        ),
        ('do = "delay", by = "150ms"', NetworkAction("delay", tuple(Channel), by_ms=150.0)),
        (
            'do = "throttle", rate = "8Mbit/s"',
            NetworkAction("throttle", tuple(Channel), rate=1_000_000),
        ),
        ('do = "hold", page = "ram:7"', Hold(NamedPage("ram", 7), 0, tuple(Channel))),
        (
            'do = "hold", page = "ram:7", byte = 9, channel = "precopy"',
            Hold(NamedPage("ram", 7), 9, (Channel.PRECOPY,)),
        ),
        ('do = "release", page = "ram:7"', Release(NamedPage("ram", 7))),
        ('do = "flip", bit = 7', Flip(7)),
        ('do = "heal"', NetworkAction("heal", tuple(Channel))),
    ],
)
def test_actions(tmp_path: Path, text: str, action: object) -> None:
    """Each action is read as it is written."""
    (step,) = read(
        tmp_path, "[[step]]", 'when = { page = "r:1", byte = 2 }', f"network = {{ {text} }}"
    )
    assert step.action == action


WHEN, CUT = 'when = { message = "pong" }', 'network = { do = "cut" }'


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        (("[[step]]", WHEN), 1, "a step does one thing"),
        (("[[step]]", CUT), 1, "when is no table"),
        (("[[step]]", WHEN, "network = 3"), 3, "network is no table"),
        (("[[step]]", WHEN, CUT, "fault = [1]"), 1, "a step does one thing"),
        (("[[step]]", WHEN, CUT, "kill = 1"), 4, "a step has no 'kill'"),
        (("[[step]]", WHEN, 'fault = ["ram:1"]'), 3, "no QEMU here is ours"),
        (("[[step]]", "when = { page = 5, byte = 1 }", CUT), 2, "is no page"),
        (("[[step]]", 'when = { page = "ram:x", byte = 1 }', CUT), 2, "is no page"),
        (("[[step]]", 'when = { page = "ram:1", byte = 0 }', CUT), 1, "from 1"),
        (("[[step]]", 'when = { page = "ram:1" }', CUT), 2, "when is none of"),
        (("[[step]]", 'when = { state = "lost" }', CUT), 2, "there is no state"),
        (("[[step]]", 'when = { message = "a", block = 3 }', CUT), 2, "no RAMBlock's name"),
        (
            ("[[step]]", 'when = { page = "r:1", byte = 1, phase = "late" }', CUT),
            2, "neither precopy nor postcopy",
        ),
        (("[[step]]", WHEN, 'network = { do = "burn" }'), 3, "is none of cut"),
        (("[[step]]", WHEN, 'network = { do = "cut", for = "1s" }'), 3, "cut has no 'for'"),
        (("[[step]]", WHEN, 'network = { do = "delay" }'), 3, "delay needs `by`"),
        (("[[step]]", WHEN, 'network = { do = "stall", for = 3 }'), 3, "not a time"),
        (("[[step]]", WHEN, 'network = { do = "throttle", rate = "0" }'), 3, "is a stall"),
        (("[[step]]", WHEN, 'network = { do = "throttle", rate = "x" }'), 3, "rate:"),
        (("[[step]]", WHEN, 'network = { do = "cut", channel = "left" }'), 3, "neither precopy"),
        (("[[step]]", WHEN, 'network = { do = "heal", direction = "up" }'), 3, "neither forward"),
        (("[[step]]", WHEN, 'network = { do = "flip" }'), 3, "about a byte of a page"),
        (
            ("[[step]]", 'when = { page = "r:1", byte = 1 }', 'network = { do = "flip", bit = 8 }'),
            3, "from 0 to 7",
        ),
        (("[expect]",), 1, "has no 'expect'"),
        (("[[step]",), 1, "no TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_line(
    tmp_path: Path, lines: tuple[str, ...], line: int, reason: str
) -> None:
    """A wrong file is refused with the line and the reason."""
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, *lines)
    assert f"steps.toml:{line}:" in str(caught.value)
    assert reason in str(caught.value)
