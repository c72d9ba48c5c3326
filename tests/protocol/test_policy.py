"""Tests of protocol/policy.py."""

import dataclasses
from typing import Any

import pytest

from protocol.errors import LocalProtocolError
from protocol.policy import PRESETS, HalfSent, Policy, Priority, preset


@pytest.mark.parametrize(
    ("name", "own_channel", "preempts", "half_sent", "locality"),
    [
        ("vanilla", False, False, HalfSent.FINISH, True),
        ("own-channel", True, False, HalfSent.FINISH, True),
        ("drop", True, True, HalfSent.POSTPONE, True),
        ("ordered", True, True, HalfSent.FINISH, True),
        ("priority-by-channel", True, True, HalfSent.FINISH, True),
        ("parallel", True, False, HalfSent.FINISH, False),
        ("resend", True, True, HalfSent.RESEND, True),
        ("split", True, True, HalfSent.SPLIT, True),
        ("critical-first", True, True, HalfSent.FINISH, True),
    ],
)
def test_presets(
    name: str, own_channel: bool, preempts: bool, half_sent: HalfSent, locality: bool
) -> None:
    """Each preset has the switches of what it is modelled on."""
    actual = preset(name)
    concurrent, critical = name == "parallel", name == "critical-first"
    priority = Priority.URGENCY if own_channel and not concurrent else Priority.NONE
    priority = Priority.CHANNEL if name == "priority-by-channel" else priority
    expected = Policy(
        name, own_channel, preempts, half_sent, locality, concurrent, critical, priority,
        overtakes=critical,
    )  # fmt: skip
    assert expected == actual


def test_some_policies_mix_channels() -> None:
    """One page's chunks come over both channels where it is split, or placed by target pages."""
    mixing = {name for name, policy in PRESETS.items() if policy.mixes_channels}
    assert mixing == {"split", "critical-first"}


def test_presets_are_found_by_their_names() -> None:
    """A preset stands in the table under the name that it carries itself."""
    for name, policy in PRESETS.items():
        assert name == policy.name
        assert preset(name) is policy


def test_presets_differ() -> None:
    """No two presets are one policy under two names."""
    switches = {dataclasses.astuple(policy)[1:] for policy in PRESETS.values()}
    assert len(PRESETS) == len(switches)


@pytest.mark.parametrize("policy", PRESETS.values(), ids=str)
def test_a_policy_is_what_its_switches_say(policy: Policy) -> None:
    """Every preset comes out of its switches as it was, in whatever order they come."""
    assert Policy.from_switches(policy.name, policy.switches) == policy
    assert Policy.from_switches(policy.name, policy.switches[::-1]) == policy


def test_every_field_is_a_switch() -> None:
    """No two policies that differ in anything but their names say the same."""
    said = {policy.switches for policy in PRESETS.values()}
    assert len(said) == len(PRESETS)
    for field in dataclasses.fields(Policy):
        if field.type == "bool":
            # What preempts needs a channel of its own, and only what preempts overtakes.
            base = Policy("mine", preempts=field.name == "overtakes")
            change: dict[str, Any] = {field.name: not getattr(base, field.name)}
            assert base.switches != dataclasses.replace(base, **change).switches
    base = Policy("mine")
    changed = {dataclasses.replace(base, half_sent=each).switches for each in HalfSent}
    changed |= {dataclasses.replace(base, priority=each).switches for each in Priority}
    assert len(changed) == len(HalfSent) + len(Priority) - 1


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        (
            ("own-channel", "warp"),
            "policy 'mine' has the unknown switch 'warp'; known: own-channel",
        ),
        (("half-sent=never",), "the unknown switch 'half-sent=never'"),
        (("x" * 1000,), f"the unknown switch '{'x' * 64}';"),
        (("locality", "locality"), "has a switch twice"),
        (("half-sent=finish", "half-sent=split"), "two answers to a half-sent page"),
        (("priority=none", "priority=urgency"), "two priorities"),
        (("priority=high",), "the unknown switch 'priority=high'"),
        (("preempts", "locality"), "needs a channel of its own"),
        (("priority=channel",), "a policy with a priority needs a channel of its own"),
        (("own-channel", "overtakes"), "what overtakes preempts"),
        (("own-channel", "preempts", "overtakes", "half-sent=resend"), "is finished"),
    ],
)
def test_switches_that_make_no_sense_are_refused(switches: tuple[str, ...], reason: str) -> None:
    """An unknown one by its name, so that its user knows what this side cannot do."""
    with pytest.raises(LocalProtocolError) as caught:
        Policy.from_switches("mine", switches)
    assert reason in str(caught.value)


def test_a_name_is_a_short_line() -> None:
    """Whatever a peer calls its policy can be shown."""
    name = Policy.from_switches("a\nb" + "c" * 1000, ()).name
    assert name.isprintable()
    assert len(name) == 64


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("", ""), ("Ordered", " (did you mean 'ordered'?)"),
        ("ordered ", " (did you mean 'ordered'?)"), ("x" * 1000, ""),
    ],
)  # fmt: skip
def test_an_unknown_policy_is_named(name: str, hint: str) -> None:
    """A name that is no preset's is refused in one line, with the names that are."""
    with pytest.raises(LocalProtocolError) as caught:
        preset(name)
    known = ", ".join(PRESETS)
    assert f"unknown policy {name[:40]!r}{hint}; known: {known}" == str(caught.value)


def test_preemption_needs_a_channel() -> None:
    """A policy that breaks frames off on the one channel that there is cannot be made."""
    with pytest.raises(LocalProtocolError, match="needs a channel of its own"):
        Policy("mine", own_channel=False, preempts=True)


@pytest.mark.parametrize("own_channel", [False, True])
def test_what_is_concurrent_is_not_preempted(own_channel: bool) -> None:
    """A policy with two lanes preempts nothing, and has a channel for each."""
    with pytest.raises(LocalProtocolError, match="concurrently"):
        Policy("mine", own_channel, preempts=own_channel, concurrent=True)


def test_a_policy_does_not_change() -> None:
    """A policy is data that both ends agree on, and stays as it is."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("ordered").preempts = False  # type: ignore[misc]
