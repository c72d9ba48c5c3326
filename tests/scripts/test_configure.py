"""What a command line says becomes a configuration, or a complaint that names the option."""

import os
from pathlib import Path
from typing import Any

import click
import pytest

from dest.script import PageName
from scripts.configure import (
    check_program,
    check_steps,
    dest_config,
    outputs_of,
    parse_address,
    program_of,
    source_config,
)
from scripts.options import OPTIONS
from scripts.reports import Outputs


def values(**given: Any) -> dict[str, Any]:  # noqa: ANN401 - as click's
    """Return the values of a command line on which only these were given."""
    return {option.name: option.default for option in OPTIONS} | given


def configure(given: dict[str, Any]) -> None:
    """Make both sides' configurations."""
    source_config(given, "", 0)
    dest_config(given, "", 0)


def check(given: dict[str, Any]) -> None:
    """Check what only both sides' configurations together can tell."""
    check_steps(source_config(given), dest_config(given))


def test_the_defaults_are_a_configuration() -> None:
    """Without options both sides' configurations are complete."""
    source = source_config(values(), "here", 1)
    assert source.geometry.length_bytes == 256 << 20
    assert source.policy.name == "ordered"
    assert (source.spec.name, source.spec.vcpu_count) == ("uniform", 2)
    assert source.rule.postcopy_after == 1
    assert (source.bandwidth, source.postcopy_bandwidth, source.image) == (0, 0, None)
    dest = dest_config(values(), "there", 2)
    assert (dest.host, dest.port, dest.save, dest.steps) == ("there", 2, None, ())


def test_values_arrive_in_their_units() -> None:
    """Sizes become bytes, rates bytes a second, times milliseconds, `never` no pass at all."""
    source = source_config(
        values(
            size="ram=4MiB@2MiB,rom=8KiB@4KiB", chunk_size="64KiB", max_bandwidth="1Gbit/s",
            max_postcopy_bandwidth="1MB/s", downtime_limit="2s", postcopy_after="never",
            access_rate="1.5e3", write_ratio="1", seed="18446744073709551615",
        ),
        "here", 1,
    )  # fmt: skip
    assert [block.name for block in source.geometry.blocks] == ["ram", "rom"]
    assert source.chunk_bytes == 64 << 10
    assert (source.bandwidth, source.postcopy_bandwidth) == (125_000_000, 1_000_000)
    assert source.rule.downtime_ms_max == 2000
    assert source.rule.postcopy_after is None
    assert (source.spec.access_rates, source.spec.write_ratio) == ((1500,), 1)
    assert source.spec.seed == 2**64 - 1


@pytest.mark.parametrize(
    ("text", "dscp"),
    [
        (None, None),
        ("0", 0),
        ("63", 63),
        ("EF", 46),
        ("ef", 46),
        ("CS6", 48),
        ("AF41", 34),
        ("LE", 1),
    ],
)
def test_a_mark_is_a_number_or_its_name(text: str | None, dscp: int | None) -> None:
    """As the RFCs name them; off by default, and each side's own to say."""
    assert source_config(values(dscp=text), "", 0).dscp == dscp
    assert dest_config(values(dscp=text), "", 0).dscp == dscp


@pytest.mark.parametrize(
    ("given", "passes", "postcopy_seconds", "give_up_seconds"),
    [
        ({}, 1, None, None),
        ({"postcopy_after": "3"}, 3, None, None),
        # Who gives a time means the time, unless passes are given, too.
        ({"postcopy_after_time": "30s"}, None, 30, None),
        ({"postcopy_after_time": "30s", "postcopy_after": "1"}, 1, 30, None),
        ({"postcopy_after_time": "0", "postcopy_after": "never"}, None, 0, None),
        ({"give_up_after": "10min"}, 1, None, 600),
        ({"give_up_after": "10min", "postcopy_after": "never"}, None, None, 600),
    ],
)
def test_when_precopy_is_over(
    given: dict[str, str],
    passes: int | None,
    postcopy_seconds: float | None,
    give_up_seconds: float | None,
) -> None:
    """Passes, time and patience go together; the first that is reached ends precopy."""
    rule = source_config(values(**given), "here", 1).rule
    assert rule.postcopy_after == passes
    assert rule.postcopy_after_seconds == postcopy_seconds
    assert rule.give_up_after_seconds == give_up_seconds
    assert rule.leads_to_postcopy == (passes is not None or postcopy_seconds is not None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("give_up_after", "0"), ("give_up_after", "0s"),
        *((name, text)
          for name in ("postcopy_after_time", "give_up_after")
          for text in ("-1s", "30", "", "never", "soon", "1h")),
        *((name, text)
          for name in ("vcpus", "access_rate", "write_ratio", "seed", "postcopy_after",
                       "chunk_size", "max_bandwidth", "max_postcopy_bandwidth", "downtime_limit",
                       "size", "page_size")
          for text in ("-1", "nan", "inf", "", " ", "x", "0x10", "1_0", "9" * 5000, "-x",
                       "\u0663")),
        *((name, text)
          for name in ("vcpus", "seed", "postcopy_after", "chunk_size", "max_bandwidth", "size")
          for text in ("1e3", "1.5")),
        ("size", "0"), ("size", "3MiB"), ("size", "65TiB"), ("size", "ram=4MiB,ram=4MiB"),
        ("size", "ram=4MiB,"), ("size", "ram=4MiB@3KiB"), ("page_size", "8KiB"),
        ("backing", "file"), ("dirty_log", "hardware"), ("placement", "none"), ("policy", "best"),
        ("chunk_size", "0"), ("chunk_size", "6KiB"), ("chunk_size", "128MiB"),
        ("vcpus", "0"), ("vcpus", "65"), ("access_rate", "1e7"), ("access_rate", "1e-999"),
        ("access_rate", "0.0001"), ("write_ratio", "1.01"), ("seed", "18446744073709551616"),
        ("downtime_limit", "0"), ("downtime_limit", "1h"), ("max_bandwidth", "1"),
        ("program", "walk"), ("program", "trace"), ("program", "trace:"),
        ("program", "uniform:x"), ("program", "trace:/nonexistent"),
        ("image", "/nonexistent"), ("image", "/"), ("image", ""), ("save", "/"),
        ("save", "/nonexistent/file"), ("steps", "/nonexistent"),
        *(("dscp", text) for text in ("-1", "64", "9" * 5000, "", "E F", "CS8", "AF14", "\u0663")),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_option(name: str, text: str) -> None:
    """A value that an option cannot have is a short complaint about that option."""
    with pytest.raises(click.BadParameter) as caught:
        configure(values(**{name: text}))
    message = caught.value.format_message()
    assert f"--{name.replace('_', '-')}" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:1", ("localhost", 1)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        (":80", ("localhost", 80)),
        ("a-b.example:0", ("a-b.example", 0)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    """Names, IPv4 and, in brackets, IPv6 may stand before the port."""
    assert parse_address(text, "--listen") == address


@pytest.mark.parametrize(
    "text",
    [
        "", "80", "host", "host:", "host:x", "host:-1", "host:65536", "host:1e3", "host: 1",
        "::1:80", "[::1]", "[::1]80", "[host]:80", "a..b:80", f"{'x' * 300}:80", "h\n:80",
        "host:\u0663", "host:000080",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """Everything else is a complaint, and nothing that the resolver could trip over gets by."""
    with pytest.raises(click.BadParameter, match="HOST:PORT"):
        parse_address(text, "--listen")


def test_a_source_needs_a_port() -> None:
    """Port 0 picks one to listen on, but nobody can be found there."""
    with pytest.raises(click.BadParameter, match="from 1 to 65535"):
        parse_address("host:0", "--connect", port_min=1)


def test_an_image_must_fit(tmp_path: Path) -> None:
    """A file as large as the guest is taken, one byte more is refused."""
    image = tmp_path / "image"
    image.write_bytes(bytes(8192))
    good = values(size="8KiB", page_size="4KiB", image=str(image))
    assert source_config(good, "", 0).image == image
    with pytest.raises(click.BadParameter, match="8192 bytes do not fit in a guest of 4096"):
        source_config(good | {"size": "4KiB"}, "", 0)


def test_outputs_are_looked_at_before(tmp_path: Path) -> None:
    """A report or events file that cannot be written is refused; standard output is none."""
    assert outputs_of(values(report="-", events=None)).report == "-"
    outputs_of(values(report=str(tmp_path / "r"), events=str(tmp_path / "e")))
    assert list(tmp_path.iterdir()) == []
    for name in ("report", "events"):
        with pytest.raises(click.BadParameter, match="is a directory"):
            outputs_of(values(**{name: str(tmp_path)}))


def test_steps_need_a_guest_that_takes_them(tmp_path: Path) -> None:
    """Steps are refused for a guest with a program of its own, and for pages that it has not."""
    steps = tmp_path / "steps"
    steps.write_text('[[step]]\nwhen = { placed = 1 }\nfault = ["1:0"]\n', encoding="utf-8")
    good = values(program="scripted", steps=str(steps), size="ram=4MiB,rom=2MiB")
    check(good)
    assert dest_config(good, "", 0).steps[0].faults == (PageName("1", 0),)
    with pytest.raises(click.BadParameter, match="steps need a guest whose program"):
        check(good | {"program": "uniform"})
    with pytest.raises(click.BadParameter, match="steps:1: the guest has no block '1'"):
        check(good | {"size": "4MiB"})
    with pytest.raises(click.BadParameter, match="steps:1: page 1 is outside the guest"):
        check(good | {"size": "ram=2MiB,rom=2MiB"})


def test_what_is_read_twice_is_no_pipe(tmp_path: Path) -> None:
    """`migrate` reads a trace itself before a side does; what comes out of a pipe comes once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(click.BadParameter, match="must be read twice"):
        check_program(values(program=f"trace:{pipe}"))


def test_where_a_run_is_served(tmp_path: Path) -> None:
    """An address is read once, and of a command without views nothing of them is wanted."""
    assert outputs_of(values(serve=":80")).serve == ("localhost", 80)
    with pytest.raises(click.BadParameter, match="HOST:PORT") as caught:
        outputs_of(values(serve="80"))
    assert caught.value.param_hint == "--serve"
    events = str(tmp_path / "e")
    assert outputs_of({"events": events, "quiet": True}) == Outputs(events=events, quiet=True)


def test_accesses_are_a_program(tmp_path: Path) -> None:
    """A trace by its own option is `trace:FILE`; it does not go with another program."""
    trace = tmp_path / "trace"
    trace.write_text("0 ram 0 r\n", encoding="utf-8")
    values = {option.name: option.default for option in OPTIONS}
    by_name = program_of({**values, "program": f"trace:{trace}"})
    assert program_of({**values, "accesses": str(trace)}) == by_name
    with pytest.raises(click.BadParameter, match="'zipf'"):
        program_of({**values, "accesses": str(trace), "program": "zipf"})
