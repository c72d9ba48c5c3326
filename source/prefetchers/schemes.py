"""Schemes of the tree: the switches of `ordered` without its locality, each with a prefetcher.

The scan goes from the first page to the last, whatever is asked for, so that only the prefetcher
makes a difference; `no_prefetch` has none, and is what the others are held against.  Pure.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from protocol.policy import Policy, preset
from source.prefetchers.bubbling import Bubbling
from source.prefetchers.read_ahead import ReadAhead
from source.prefetchers.stride import Stride
from source.scheme import Scheme

no_prefetch = replace(preset("ordered"), name="no-prefetch", locality=False)


def on_no_prefetch(name: str, **parts: Any) -> Scheme:  # noqa: ANN401 - as Scheme has them
    """Return a scheme with its switches, and a prefetcher or an order."""
    switches = {each.name: getattr(no_prefetch, each.name) for each in fields(Policy)}
    return Scheme(**switches | {"name": name} | parts)


read_ahead = on_no_prefetch("read-ahead", prefetcher=ReadAhead)
stride = on_no_prefetch("stride", prefetcher=Stride)
bubbling = on_no_prefetch("bubbling", prefetcher=Bubbling)
