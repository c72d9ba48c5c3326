"""Options in a report: one unit for each kind of value, and what names stand for."""

from typing import Any

import pytest

from scripts.commands import midstream
from scripts.options import OPTIONS
from scripts.resolved import resolved

VALUES = {option.name: option.default for option in OPTIONS}
KINDS = {option.name: option.metavar or "" for option in OPTIONS}


def said(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - an option's value
    """Return what a report says of options, those of default with these changed."""
    return resolved({**VALUES, **values}, KINDS)


@pytest.mark.parametrize(
    ("values", "key", "told"),
    [
        ({"size": "1MiB"}, "size-bytes", 1 << 20),
        ({"size": "a=4MiB@2MiB,b=4KiB@4KiB"}, "size-bytes", (4 << 20) + 4096),
        ({"page_size": "4KiB"}, "page-size-bytes", 4096),
        ({"max_bandwidth": "1Gbit/s"}, "max-bandwidth-bytes-per-second", 125_000_000),
        ({"downtime_limit": "0.5s"}, "downtime-limit-ms", 500),
        ({"reconnect_timeout": "0"}, "reconnect-timeout-ms", 0),
        ({"access_rate": "0,50"}, "access-rate-per-second", [0, 50]),
        ({"write_ratio": "0.25"}, "write-ratio", 0.25),
        ({"postcopy_after": "never"}, "postcopy-after", "never"),
        ({}, "postcopy-after", 1),
        ({"postcopy_after_time": "2s"}, "postcopy-after", "never"),
        ({"link": "0"}, "link", None),
        ({"seed": "7"}, "seed", 7),
        ({"image": b"a\xff".decode(errors="surrogateescape")}, "image", "a\ufffd"),
        # What is refused anyway stays as it was typed.
        ({"chunk_size": "much"}, "chunk-size-bytes", "much"),
    ],
)  # fmt: skip
def test_a_kind_of_value_has_one_unit(values: dict[str, Any], key: str, told: object) -> None:
    """Whatever unit was typed, the report has bytes, bytes a second or milliseconds."""
    assert said(**values)[key] == told


def test_what_a_name_stands_for_is_told() -> None:
    """A policy's switches and a guest's blocks; of what has none of them, nothing."""
    told = said(size="a=4MiB@2MiB,b=4KiB@4KiB", policy="drop")
    assert "half-sent=postpone" in told["policy-switches"]
    assert told["blocks"][1] == {"name": "b", "length-bytes": 4096, "page-bytes": 4096}
    assert "policy-switches" not in said(policy="another")
    assert said(link="1Gbit/s,rtt=2ms")["link"] == {
        "bytes-per-second": 125_000_000, "queue": "auto", "rtt-ms": 2, "loss": 0,
    }  # fmt: skip


def test_every_kind_of_value_is_known() -> None:
    """A size, rate or time of a command that is added is not left as it was typed."""
    context = midstream.make_context("midstream", ["migrate"])
    for name in ("migrate", "source", "dest", "qemu", "compare", "bench", "relay"):
        command = midstream.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            metavar = getattr(parameter, "metavar", None) or ""
            ends = {"SIZE": "-bytes", "SIZES": "-bytes", "RATE": "-bytes-per-second", "TIME": "-ms"}
            if metavar in ends and parameter.name is not None:
                (key,) = resolved({parameter.name: None}, {parameter.name: metavar})
                assert key.endswith(ends[metavar]), (name, key)
