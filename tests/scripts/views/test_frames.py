"""Changes put over a frame make the next, whatever happens between the two."""

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.views.frames import SAMPLES_MAX, FrameMaker, changes, whole
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
