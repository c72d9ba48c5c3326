"""Real processes over both families: a destination on all addresses, sources at either."""

from __future__ import annotations

import json

import pytest

from tests.guest.streams.test_binding import needs_ipv6
from tests.processes import Lab
from tests.test_uninvited import SMALL, secret_option


@needs_ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"])
def test_a_destination_on_all_addresses_takes_either_family(lab: Lab, host: str) -> None:
    """`[::]` serves IPv4, too, as QEMU's does; one line says where, the others are told beside."""
    dest = lab.fork("dest", "--listen=[::]:0", "--quiet", secret_option(lab.folder))
    address = dest.listening()
    assert address.startswith("[::]:")
    port = address.rpartition(":")[2]
    source = lab.fork(
        "source", f"--connect={host}:{port}", secret_option(lab.folder), "--dscp=EF",
        "--report=report", *SMALL,
    )  # fmt: skip
    source.succeed()
    assert dest.wait() == 0, dest.errors
    own = json.loads((lab.folder / "report").read_text(encoding="utf-8"))["midstream"]
    told = own["source-priority"], own["dest-priority"]
    assert told == ("granted, DSCP 46", "granted")
    assert dest.errors == f"also listening on 0.0.0.0:{port}\n"
    assert dest.output == f"listening on [::]:{port}\n"


def test_an_address_of_ipv4_in_one_of_ipv6(lab: Lab) -> None:
    """It can be listened on, and is loopback where what it wraps is."""
    dest = lab.fork("dest", "--listen=[::ffff:127.0.0.1]:0", "--quiet")
    address = dest.listening()
    assert address.startswith("127.0.0.1:")
    lab.fork("source", f"--connect={address}", *SMALL).succeed()
    dest.succeed()


def test_a_refusal_names_the_address_as_it_is_typed(lab: Lab) -> None:
    """Brackets around addresses of IPv6, in the messages of both sides."""
    lab.fork("dest", "--listen=[::]:4444").fail(1, "[::]:4444 is not on loopback")
    source = lab.fork("source", "--connect=[::1]:1", "--size=2MiB", "--quiet")
    source.fail(1, "cannot connect to [::1]:1: ")
