"""What lies where in a virtual machine: page tables that lead to it, and nothing in two places."""

import numpy as np
import pytest

from guest.kvm.addresses import DOORBELL, AddressMap, lay_out
from guest.kvm.record import PRIVATE_BYTES
from protocol.errors import GuestFailed
from protocol.geometry import Geometry, RamBlock

GIB = 1 << 30


def walk(places: AddressMap, address: int) -> int:
    """Return the physical address that the page tables make of a virtual one."""
    tables = places.page_tables().reshape(-1, 512)

    def entry(table: int, index: int) -> int:
        value = int(tables[table, index])
        assert value & 0x5 == 0x5, "present, for user mode"
        return value

    upper = (entry(0, address >> 39) & ~0xFFF) - places.tables
    middle = (entry(upper >> 12, address >> 30 & 511) & ~0xFFF) - places.tables
    page = entry(middle >> 12, address >> 21 & 511)
    assert page & 0x80, "a page of 2 MiB"
    return (page & ~0x1FFFFF) | (address & 0x1FFFFF)


@pytest.mark.parametrize(
    "blocks",
    [
        (RamBlock("ram", 4096, 4096),),
        (RamBlock("ram", 64 << 20, 2 << 20), RamBlock("rom", 20 << 10, 4096)),
        (RamBlock("small", 4096, 4096), RamBlock("large", 700 * GIB, GIB)),
    ],
    ids=["a page", "two blocks", "two uppermost entries"],
)
def test_everything_is_where_its_address_says(blocks: tuple[RamBlock, ...]) -> None:
    """Virtual addresses are physical ones, and parts lie one behind the other."""
    places = lay_out(Geometry(blocks), (0, 72, 4097), 3 << 20, 46)
    parts = [
        (places.tables, places.system_bytes),
        (places.private, 3 * PRIVATE_BYTES),
        (places.board, 3 << 20),
        *((at, block.length_bytes) for at, block in zip(places.blocks, blocks, strict=True)),
    ]
    end = DOORBELL + 4096
    for at, length in parts:
        assert at >= end
        end = at + length
        for address in (at, at + length - 1):
            assert walk(places, address) == address
    assert end == places.end
    tables_end = places.tables + places.page_tables().nbytes
    inner = [(tables_end, 0), (places.code, 4096)]
    inner += [(at, 1) for at in (*places.programs, *places.accesses)]
    assert inner == sorted(inner)
    assert places.accesses[2] + 4097 <= places.tables + places.system_bytes
    for at, block in zip(places.blocks, blocks, strict=True):
        assert at % min(block.page_bytes, GIB) == 0


def test_a_guest_that_has_no_room_is_refused() -> None:
    """How much the machine has, and how much it would need, is said."""
    geometry = Geometry((RamBlock("ram", 61 * GIB, GIB),))
    with pytest.raises(GuestFailed, match="has 64 GiB of addresses, this guest needs 65 GiB"):
        lay_out(geometry, (0,), 4096, 36)
    lay_out(Geometry((RamBlock("ram", 60 * GIB, GIB),)), (0,), 4096, 36)
    with pytest.raises(GuestFailed, match="the trace is too long"):
        lay_out(Geometry((RamBlock("ram", 4096, 4096),)), (3 * GIB,), 4096, 46)


def test_tables_say_nothing_of_what_is_not_there() -> None:
    """Behind the last gigabyte no entry is present."""
    places = lay_out(Geometry((RamBlock("ram", GIB, 4096),)), (0,), 4096, 46)
    tables = places.page_tables().reshape(-1, 512)
    assert np.flatnonzero(tables[0]).tolist() == [0]
    assert np.flatnonzero(tables[1]).tolist() == [0, 1, 2, 3, 4]
