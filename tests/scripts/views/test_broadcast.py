"""The present goes to all clients, whole and then as changes, and none holds anything up."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.views.broadcast import (
    CLIENTS_MAX,
    QUEUE_MAX,
    SAMPLES_MAX,
    Broadcast,
    Client,
    FrameMaker,
    TooManyClients,
    changes,
    whole,
)
from scripts.views.live import LiveState
from tests.stories import MS, ZERO_NS, half_sent

Plain = dict[str, Any]

STORY = half_sent()


def as_browser(frame: Plain) -> Plain:
    """Return a frame as a browser has taken it."""
    blocks = [
        {**block, "cells": list(base64.b64decode(block["cells"]))} for block in frame["blocks"]
    ]
    return {**frame, "blocks": blocks}


def put_over(mine: Plain, changed: Plain) -> None:
    """Change a browser's frame, as the page's script does."""
    for name, value in changed.items():
        if name == "samples":
            mine["samples"] = (mine["samples"] + value)[-SAMPLES_MAX:]
        elif name != "blocks":
            mine[name] = value
    for each in changed.get("blocks", []):
        block = {name: value for name, value in each.items() if name not in {"index", "cells"}}
        while len(mine["blocks"]) <= each["index"]:
            mine["blocks"].append({})
        target = mine["blocks"][each["index"]]
        target |= block
        if isinstance(each["cells"], str):
            target["cells"] = list(base64.b64decode(each["cells"]))
        else:
            for at, status in each["cells"]:
                target["cells"][at] = status


@settings(max_examples=25)
@given(st.sets(st.integers(0, len(STORY) - 1)))
def test_changes_make_the_next_frame(cuts: set[int]) -> None:
    """Wherever in the story a browser joins and however often it hears, it has what there is."""
    state, maker = LiveState(), FrameMaker()
    before = maker.frame(state, ZERO_NS)
    mine = as_browser(whole(before))
    for at, event in enumerate(STORY):
        state.take(event)
        if at in cuts:
            after = maker.frame(state, ZERO_NS + at * MS)
            put_over(mine, changes(before, after))
            assert mine == as_browser(whole(after))
            before = after


def test_what_is_the_same_is_not_sent() -> None:
    """Of a moment in which nothing happened only the time is told."""
    state, maker = LiveState(), FrameMaker()
    for event in STORY[:10]:
        state.take(event)
    first, second = maker.frame(state, ZERO_NS), maker.frame(state, ZERO_NS)
    assert changes(first, second).keys() == {"samples", "sample_count"}
    assert len(changes(first, second)["samples"]) == 1


def test_the_past_is_bounded() -> None:
    """A frame of a long run tells of the last moments only."""
    state, maker = LiveState(), FrameMaker()
    frames = [maker.frame(state, ZERO_NS) for _ in range(SAMPLES_MAX + 5)]
    assert len(frames[-1]["samples"]) == SAMPLES_MAX
    assert len(changes(frames[0], frames[-1])["samples"]) == SAMPLES_MAX


async def take(client: Client, count: int) -> list[tuple[str, dict[str, object]]]:
    """Return a client's next messages, by name and data."""
    taken: list[tuple[str, dict[str, object]]] = []
    async for message in client.messages:
        name, data = message.decode().removesuffix("\n\n").split("\n")
        taken.append((name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
        if len(taken) == count:
            break
    return taken


async def test_who_joins_half_way_gets_the_present() -> None:
    """The first message is whole, what follows are changes, the last is the end."""
    broadcast, state = Broadcast(), LiveState()
    for event in half_sent()[:10]:
        state.take(event)
    with broadcast.client() as early:
        broadcast.show(state, ZERO_NS)
        for event in half_sent()[10:]:
            state.take(event)
        broadcast.show(state, ZERO_NS)
        with broadcast.client() as late:
            broadcast.show(state, ZERO_NS)
            first = await take(early, 3)
            second = await take(late, 2)
            assert [name for name, _ in first] == ["whole", "changes", "changes"]
            assert [name for name, _ in second] == ["whole", "changes"]
            assert second[0][1]["state"] == "completed"
            assert first[2] == second[1]


async def test_a_slow_client_is_dropped() -> None:
    """When its queue is full it is cut off, and the others go on."""
    broadcast, state = Broadcast(), LiveState()
    with broadcast.client() as slow, broadcast.client() as quick:
        broadcast.show(state, ZERO_NS)
        for number in range(QUEUE_MAX):
            assert not slow.scope.cancel_called, number
            await take(quick, 1)
            broadcast.show(state, ZERO_NS)
        assert slow.scope.cancel_called
        assert not quick.scope.cancel_called
        assert len(await take(quick, 1)) == 1
        assert broadcast.dropped == 1


async def test_who_does_not_hear_the_end_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever says farewell waits for a client as long as it likes, and shows nothing more."""
    broadcast, state = Broadcast(), LiveState()
    broadcast.show(state, ZERO_NS)
    with broadcast.client() as client:
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broadcast.farewell)
                await trio.testing.wait_all_tasks_blocked()
                broadcast.show(state, ZERO_NS)
        assert broadcast.dropped == 1
        assert [name for name, _ in await take(client, 3)] == ["whole", "end"]


async def test_there_is_room_for_so_many_only() -> None:
    """One more is refused, and may come when another has left."""
    broadcast = Broadcast()
    managers = [broadcast.client() for _ in range(CLIENTS_MAX)]
    for manager in managers:
        manager.__enter__()
    with pytest.raises(TooManyClients), broadcast.client():
        pass
    managers[0].__exit__(None, None, None)
    with broadcast.client():
        pass
    for manager in managers[1:]:
        manager.__exit__(None, None, None)


async def test_the_end_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    """Saying farewell lasts until clients have taken their last message; then nobody may come."""
    broadcast, state = Broadcast(), LiveState()
    heard: list[str] = []

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        with broadcast.client() as client:
            task_status.started()
            await trio.sleep(1)
            heard.extend(name for name, _ in await take(client, 99))

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        broadcast.show(state, ZERO_NS)
        await broadcast.farewell()
        assert heard == ["whole", "end"]
    with pytest.raises(TooManyClients), broadcast.client():
        pass
    await broadcast.farewell()
