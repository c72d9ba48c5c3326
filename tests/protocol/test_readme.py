"""Holds protocol/README.md to the code: its tables and diagrams say what the code does."""

import hmac
import re
from pathlib import Path

import pytest

from protocol import limits
from protocol.channels import Channel
from protocol.fields import Digest, PackedRuns
from protocol.messages import FIELD_TYPES, MESSAGE_TYPES, Message
from protocol.policy import PRESETS, HalfSent
from protocol.proof import DestProof, SourceProof
from protocol.states import RECEIVABLE, TRANSITIONS, Event, State, state_diagram
from protocol.units import format_bytes

README = Path(__file__).parents[2] / "protocol" / "README.md"

WORDS = {
    int: "count",
    bool: "flag",
    str: "line",
    bytes: "session",
    PackedRuns: "runs",
    Digest: "digest",
    tuple[str, ...]: "names",
    tuple[tuple[str, int, int], ...]: "blocks",
    tuple[tuple[int, int], ...]: "pages",
}


def text() -> str:
    """Return the page."""
    return README.read_text(encoding="utf-8")


def rows(first_header: str) -> list[list[str]]:
    """Return the cells of the table whose first column has that header."""
    lines = iter(text().splitlines())
    while not next(lines).startswith(f"| {first_header} |"):
        pass
    assert set(next(lines)) <= set("| -")
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def diagram(words: str) -> str:
    """Return the one mermaid diagram of the page that has these words."""
    every = re.findall(r"```mermaid\n(.*?)\n```", text(), flags=re.DOTALL)
    (found,) = (each for each in every if words in each)
    return str(found)


def limit_text(name: str, value: float) -> str:
    """Return a limit as the page writes it."""
    if "BYTES" in name:
        return format_bytes(value)
    return f"{value:g} s" if "SECONDS" in name else str(value)


def test_the_proofs_are_the_codes() -> None:
    """The messages of the exchange stand on the page in their order, with their real lengths."""
    source = SourceProof(bytes(16), Channel.POSTCOPY, bytes(16), b"n" * 32)
    dest = DestProof(bytes(16), source.opening, b"m" * 32)
    real = {
        "opening": source.opening,
        "challenge": dest.challenge,
        "proof": source.prove(dest.challenge),
        "answer": dest.answer,
    }
    assert [row[:3] for row in rows("message")] == [
        [name, "D to S" if name in ("challenge", "answer") else "S to D", str(len(message))]
        for name, message in real.items()
    ]
    arrows = re.findall(r"(\w)->>(\w): (\w+)\(", diagram("opening"))
    assert arrows == [(row[1][0], row[1][-1], row[0]) for row in rows("message")]
    mac = hmac.digest(bytes(16), b"midstream source" + source.opening + dest.challenge, "sha256")
    assert real["proof"] == mac
    assert source.opening[4:] == b"\1" + bytes(16) + b"n" * 32


def test_the_policies_are_told_apart() -> None:
    """The table of policies has all of them in their order, and says which ones mix channels."""
    expected = [
        (
            f"`{policy.name}`",
            policy.mixes_channels,
            policy.half_sent is HalfSent.RESEND,
            "a target page" if policy.critical else "a page",
        )
        for policy in PRESETS.values()
    ]
    actual = [
        (name, channels.startswith("over both"), "and then all" in channels, unit)
        for name, channels, unit in rows("policy")
    ]
    assert expected == actual


def test_every_message_has_its_row() -> None:
    """The table has every message with its kind number, in their order, and no other."""
    expected = [[str(message.kind), f"`{message.__name__}`"] for message in MESSAGE_TYPES]
    actual = [row[:2] for row in rows("kind")]
    assert expected == actual


@pytest.mark.parametrize("message_type", MESSAGE_TYPES, ids=lambda each: each.__name__)
def test_the_row_tells_the_fields(message_type: type[Message]) -> None:
    """A message's row has its fields with their types, in the order in which they are sent."""
    row = rows("kind")[message_type.kind - 1]
    hints = FIELD_TYPES[message_type].items()
    expected = ", ".join(f"`{name}` {WORDS[hint]}" for name, hint in hints if name in row[5])
    assert {name for name, _ in hints} - {"payload_bytes"} == set(re.findall(r"`(\w+)`", row[5]))
    assert expected == row[5]
    assert bool(message_type.payload_bytes_max) == bool(row[6])


def test_the_rows_name_states_and_ways() -> None:
    """Who sends a message is one side or both, and in states that there are."""
    for _, name, way, channel, states, _, _ in rows("kind"):
        assert way in {"S to D", "D to S", "both"}, name
        assert channel.startswith(("precopy", "each")), name
        assert states == "any" or set(states.split(", ")) <= {state.value for state in State}, name


def test_what_the_destination_hears() -> None:
    """The table of what is let through is the code's."""
    expected = [
        [
            state.value,
            *(
                ", ".join(f"`{message.__name__}`" for message in heard.get(channel, ()))
                for channel in Channel
            ),
        ]
        for state, heard in RECEIVABLE.items()
    ]
    actual = rows("state")
    assert expected == actual


def test_a_page_is_sent_when_it_may_be_heard() -> None:
    """What the destination hears stands in the table of messages as what the source sends."""
    ways = {row[1].strip("`"): row[2] for row in rows("kind")}
    heard = {
        message.__name__ for by in RECEIVABLE.values() for each in by.values() for message in each
    }
    assert {ways[name] for name in heard} == {"S to D"}


def test_the_sequence_has_every_message() -> None:
    """The diagrams of a migration, a recovery and changed bytes have every one-way message."""
    diagrams = [diagram(words) for words in ("precopy: Setup", "Resume(", "Checksum(head")]
    assert all(each.startswith("sequenceDiagram\n") for each in diagrams)
    sequence = "".join(diagrams)
    arrows = re.findall(r"^ *([SD])->>([SD]): (precopy|postcopy): (.*)$", sequence, re.MULTILINE)
    sent = {
        (name, f"{sender} to {receiver}")
        for sender, receiver, _, words in arrows
        for name in re.findall(r"\b[A-Z]\w+", words)
    }
    expected = {(row[1].strip("`"), row[2]) for row in rows("kind") if row[2] != "both"}
    assert expected == sent
    assert sequence.count("->>") == len(arrows)


def test_the_sequence_is_in_order() -> None:
    """In the diagram each message of the opening, the hand-over and the closing has its place."""
    sequence, recovery = diagram("precopy: Setup"), diagram("Resume(")
    order = [
        "Hello", "Welcome", "Setup", "Ready", "PassEnd", "PassAck", "SwitchOverAhead",
        "SwitchOverAck", "Discard", "SwitchOver(", "Running", "PageRequest", "End(",
        "Finished", "Account", "Verdict", "Bye",
    ]  # fmt: skip
    places = [sequence.index(f": {name}") for name in order]
    assert sorted(places) == places
    order = ["Resume", "Welcome", "MissingMap", "Standing", "PageRequest", "PageData", "End("]
    places = [recovery.index(f": {name}") for name in order]
    assert sorted(places) == places


def test_the_state_diagram_is_the_table() -> None:
    """The diagram of the states is the one that the table draws."""
    states = diagram("stateDiagram")
    assert state_diagram() == states


def test_every_state_and_every_move_is_there() -> None:
    """Every state has its name on the page, and every move its arrow."""
    page = text()
    for state, events in TRANSITIONS.items():
        assert state.value in page
        for event, following in events.items():
            before, after = (each.value.replace("-", "_") for each in (state, following))
            assert f"    {before} --> {after}: {event.name}\n" in page


def test_every_event_is_explained() -> None:
    """The table of events has every event once, in their order."""
    expected = [event.name for event in Event]
    actual = [name for row in rows("event") for name in re.findall(r"`(\w+)`", row[0])]
    assert expected == actual


def test_every_limit_is_there() -> None:
    """The table of limits has each limit with its value, and no other."""
    expected = [
        [f"`{name}`", limit_text(name, value)]
        for name, value in vars(limits).items()
        if name.isupper()
    ]
    actual = rows("limit")
    assert expected == actual
