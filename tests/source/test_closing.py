"""The comparison at the end: what the destination must have, worked out on the source's copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from guest.digest import digest
from guest.interface import GuestSnapshot
from guest.memory import GuestMemory
from guest.programs import Program, ProgramSpec
from guest.replay import replay
from guest.slices import finish
from guest.states import VcpuState, encode_states
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from protocol.records import pack_record
from protocol.report import AccountRecord
from source.closing import compare
from tests.bounds import bounded
from tests.guests import HUGE, MIB, SEED, patterned_memory
from tests.sides import dest_part

GEOMETRY = Geometry((RamBlock("ram", 3 * HUGE, HUGE), RamBlock("rom", 3 * MIB, TARGET_PAGE_BYTES)))
SPEC = ProgramSpec("uniform", vcpu_count=2, write_ratio=0.5, seed=SEED)
STOPPED = (VcpuState(0, 100), VcpuState(1, 7))
ENDED = (VcpuState(0, 3000), VcpuState(1, 5000))
SNAPSHOT = GuestSnapshot(STOPPED, ())


def at(memory: GuestMemory, states: tuple[VcpuState, ...]) -> None:
    """Bring a memory that is fresh to where vCPUs with these states have brought theirs."""
    start = tuple(VcpuState(vcpu, 0) for vcpu in range(len(states)))
    finish(replay(memory, Program(SPEC, GEOMETRY), start, states))


@pytest.fixture
def here() -> Iterator[GuestMemory]:
    """The source's memory, as it was when the guest stopped."""
    with patterned_memory(GEOMETRY) as memory:
        at(memory, STOPPED)
        yield memory


@pytest.fixture
def there() -> Iterator[GuestMemory]:
    """The destination's memory, as its vCPUs left it."""
    with patterned_memory(GEOMETRY) as memory:
        at(memory, ENDED)
        yield memory


def account_of(memory: GuestMemory, states: tuple[VcpuState, ...] = ENDED) -> AccountRecord:
    """Return the account that a destination with such a memory gives."""
    return AccountRecord(
        states=encode_states(states),
        digests=tuple(finish(digest(memory))),
        first_mismatch="",
        part=dest_part(reads=12),
    )


async def test_what_the_program_writes_is_expected(here: GuestMemory, there: GuestMemory) -> None:
    """Both memories are equal when each holds exactly the writes up to the final states."""
    account = account_of(there)
    with bounded():
        comparison = await compare(pack_record(account), here, SPEC, SNAPSHOT)
    assert comparison.equal
    assert comparison.detail == ""
    assert comparison.account == account
    assert bytes(here.views[0]) == bytes(there.views[0])


@pytest.mark.parametrize(
    ("wrong", "detail"),
    [
        ([(0, 2 * HUGE + 5)], "page 2 of block ram"),
        ([(1, 2 * MIB)], "pages 512 to 767 of block rom"),
        ([(0, 0), (0, HUGE), (1, 0)], "page 0 of block ram and 2 more stretches"),
    ],
)
async def test_a_wrong_byte_is_found_and_named(
    here: GuestMemory, there: GuestMemory, wrong: list[tuple[int, int]], detail: str
) -> None:
    """Where memories differ is told by block and page, the first place of all."""
    for block, offset in wrong:
        there.views[block][offset] ^= 1
    with bounded():
        comparison = await compare(pack_record(account_of(there)), here, SPEC, SNAPSHOT)
    assert not comparison.equal
    assert comparison.detail == detail


async def test_a_write_that_was_lost_is_found(here: GuestMemory, there: GuestMemory) -> None:
    """A memory that lacks what the final states say was written is wrong."""
    later = tuple(VcpuState(state.vcpu, state.step + 50) for state in ENDED)
    with bounded():
        payload = pack_record(account_of(there, later))
        comparison = await compare(payload, here, SPEC, SNAPSHOT)
    assert not comparison.equal


async def test_an_account_that_is_none_is_refused(here: GuestMemory, there: GuestMemory) -> None:
    """Whatever the destination sends as its account ends in a comparison or is its fault."""
    good = account_of(there)
    back = (VcpuState(0, 99), VcpuState(1, 5000))
    payloads = [
        b"",
        b"\xc1",
        pack_record(good)[:-1],
        pack_record(replace(good, states=b"")),
        pack_record(replace(good, states=encode_states(ENDED[:1]))),
        pack_record(replace(good, states=encode_states(back))),
        pack_record(replace(good, digests=good.digests[:1])),
        pack_record(replace(good, digests=(good.digests[0], good.digests[1] + bytes(16)))),
    ]
    with bounded():
        for payload in payloads:
            with pytest.raises(RemoteProtocolError):
                await compare(payload, here, SPEC, SNAPSHOT)
