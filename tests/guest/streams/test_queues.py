"""Which queue packets wait in, as the kernel tells of this machine and of a link's namespaces."""

import json
import socket
import subprocess
import sys

import pytest

from guest.streams import queues
from protocol.errors import MigrationError
from scripts.links.link import namespaces_link
from scripts.links.shape import RATE_MIN
from scripts.links.spec import FIFO, PFIFO_FAST, LinkSpec

LOOPBACK = socket.if_nametoindex("lo")
TELL = """
import json, sys
from guest.streams import queues
there = sys.argv[1]
print(json.dumps([queues.kinds_at(queues.device_to(there)), queues.heed_priority(there)]))
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_what_goes_to_this_machine_waits_nowhere(address: str) -> None:
    """Whichever of its addresses is asked for; nothing is overtaken, as nothing waits."""
    try:
        device = queues.device_to(address)
    except OSError as error:
        pytest.skip(f"IPv6: {error}")
    assert device == LOOPBACK
    assert queues.kinds_at(device) == ["noqueue"]
    assert not queues.heed_priority(address)


@pytest.mark.parametrize("address", ["", "a.name.of.a.host", "/run/socket"])
def test_what_is_no_address_has_no_queue(address: str) -> None:
    """Whoever asks does without."""
    with pytest.raises(ValueError, match="address"):
        queues.device_to(address)
    assert not queues.heed_priority(address)


def test_what_the_kernel_refuses_is_an_oserror() -> None:
    """Its number and its words."""
    with pytest.raises(OSError, match=r"Invalid argument|not supported"):
        list(queues._ask(26, 1, b"\x07" + bytes(11)))


@pytest.mark.parametrize(
    ("told", "kinds"),
    [
        ([], []),
        (["pfifo_fast"], ["pfifo_fast"]),
        (["mq", "fq_codel", "fq_codel"], ["fq_codel"]),
        (["tbf"], ["bfifo"]),
        (["htb"], ["pfifo"]),
        (["tbf", "pfifo_fast", "clsact"], ["pfifo_fast"]),
        (["mq", "fq", "pfifo"], ["fq", "pfifo"]),
        (["ingress"], []),
    ],
)
def test_what_only_holds_others_is_no_queue(told: list[str], kinds: list[str]) -> None:
    """But with nothing in it that is known of, it is a FIFO."""
    assert queues.kinds_of(told) == kinds


@pytest.mark.parametrize(
    ("queue", "kinds", "heeds"),
    [(PFIFO_FAST, ["tbf", "pfifo_fast"], True), (FIFO, ["tbf"], False)],
    ids=["pfifo_fast", "fifo"],
)
def test_a_link_heeds_a_priority_or_not(queue: str, kinds: list[str], *, heeds: bool) -> None:
    """As its queue says, from the side that sends."""
    try:
        with namespaces_link(LinkSpec(RATE_MIN, queue)) as link:
            told = subprocess.run(
                [*link.prefixes["source"], sys.executable, "-c", TELL, link.listen_host],
                stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
    except MigrationError as error:
        pytest.skip(f"network namespaces: {error}")
    assert json.loads(told.stdout) == [kinds, heeds]
