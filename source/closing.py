"""The end of a migration: does the destination hold the memory that the guest must have there?

The source still has the memory of the switch-over, and a guest's program is deterministic: given
the vCPUs' final states the source can do the destination's writes over again, on its own copy, and
then every byte of both must be equal.
"""

from __future__ import annotations

from guest.digest import differing_stretches, digest
from guest.interface import GuestSnapshot
from guest.memory import GuestMemory
from guest.programs import Program
from guest.replay import count_written, find_accessed, replay
from guest.slices import in_thread
from guest.spec import ProgramSpec
from guest.states import decode_states
from protocol.geometry import Geometry, Span
from protocol.records import unpack_record
from protocol.report import AccountRecord
from source.steps import Accessed, Comparison


async def compare(
    payload: bytes,
    memory: GuestMemory,
    spec: ProgramSpec,
    snapshot: GuestSnapshot,
    *,
    wants_accessed: bool = False,
) -> Comparison:
    """Compare the destination's account with what must be there.

    The source's memory is brought to the destination's state on the way.

    Args:
        payload: The account.
        memory: The guest's, as it was when it left.
        spec: Of its program.
        snapshot: Of its vCPUs, when it left.
        wants_accessed: Find out, too, what they have touched since.

    Raises:
        RemoteProtocolError: The payload is no account of this guest.
    """
    account = unpack_record(AccountRecord, payload)
    states = decode_states(account.states, spec.vcpu_count)
    geometry = memory.geometry
    program = Program(spec, geometry)
    await in_thread(replay(memory, program, snapshot.states, states))
    ours = await in_thread(digest(memory))
    different = differing_stretches(geometry, ours, list(account.digests))
    image = None
    if spec.image:
        image = (await in_thread(count_written(program, geometry, states))).to_plain()
    accessed = None
    if wants_accessed and spec.name != "scripted":
        found = await in_thread(find_accessed(program, geometry, snapshot.states, states))
        accessed = Accessed(*found)
    return Comparison(account, not different, _describe(geometry, different), image, accessed)


def _describe(geometry: Geometry, different: list[Span]) -> str:
    if not different:
        return ""
    first = different[0]
    block = geometry.blocks[first.block]
    pages = geometry.pages_of(first)
    name = f"page {pages[0]}" if len(pages) == 1 else f"pages {pages[0]} to {pages[-1]}"
    more = f" and {len(different) - 1} more stretches" if len(different) > 1 else ""
    return f"{name} of block {block.name}{more}"
