"""What ends a session: the account is held against what must be there, and both sides are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guest.interface import Mismatch
from protocol import events
from protocol.errors import MigrationError, RemoteProtocolError, WrongMemory
from protocol.events import ignore
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import Account, End, Message, Verdict
from protocol.records import pack_record, unpack_record
from protocol.report import AccountRecord
from protocol.states import Lifecycle
from source.steps import LATE, Compare, Comparison, Do, Received, Report, Step, Within
from source.verification import Verification
from tests.guests import MIB, FakeGuests
from tests.sides import dest_part
from tests.source.test_session import AFTER_ONE_PASS, aborts, make_rig

pytestmark = pytest.mark.usefixtures("guests")


async def test_different_memory_is_told_to_both(guests: FakeGuests) -> None:
    """A digest that differs ends the session properly, with WrongMemory for its user."""
    async with make_rig() as rig:
        verdicts = []

        async def spoil(_: Message) -> None:
            # The postcopy connection's End may come first.
            if len([m for _, m in rig.dest.heard if isinstance(m, End)]) == 2:
                rig.dest.memory.views[0][5 * MIB] ^= 1
                await rig.dest.main.send(rig.dest.finished())
                await rig.dest.main.send(*rig.dest.account())

        async def hear(message: Message) -> None:
            verdicts.append(message)
            await rig.dest._answer(message, b"")

        rig.dest.instead[End] = spoil
        rig.dest.instead[Verdict] = hear
        result = await rig.run()
        assert result is not None
        assert isinstance(result.problem, WrongMemory)
        assert "page 2 of block ram" in str(result.problem)
        (verdict,) = verdicts
        assert isinstance(verdict, Verdict)
        assert (verdict.equal, verdict.detail) == (False, "page 2 of block ram")
        assert result.report["midstream"]["verified"]["digest-equal"] is False
        assert aborts(rig.dest) == []


async def test_what_the_guest_finds_here_is_reported(guests: FakeGuests) -> None:
    """A wrong read on the source is told as an event, and at the end as WrongMemory."""
    async with make_rig(rule=AFTER_ONE_PASS) as rig:

        def find() -> None:
            (guest,) = guests.made
            guest.tell(Mismatch(0, 9, 4, 0xAB, 0xCD))
            guest.board.vcpu_words[0, 4] = 1

        rig.events.on(events.PassEnd, find)
        result = await rig.run()
        assert result is not None
        assert isinstance(result.problem, WrongMemory)
        assert "1 reads: vCPU 0 read 0xcd in target page 9 on the source" in str(result.problem)
        assert rig.events.of(events.Mismatch) == [{"vcpu": 0, "target_page": 9, "step": 4}]


async def test_what_the_guest_found_there_is_reported() -> None:
    """A wrong read on the destination is an error here too, with the destination's words."""
    async with make_rig() as rig:
        honest = rig.dest.account

        def account() -> tuple[Account, bytes]:
            _, payload = honest()
            record = unpack_record(AccountRecord, payload)
            told = replace(record, first_mismatch="vCPU 3 read 0x1", part=dest_part(mismatches=2))
            packed = pack_record(told)
            return Account(payload_bytes=len(packed)), packed

        rig.dest.account = account  # type: ignore[method-assign]
        result = await rig.run()
        assert result is not None
        assert "found wrong memory in 2 reads: vCPU 3 read 0x1" in str(result.problem)


def test_what_is_done_over_is_not_compared_again() -> None:
    """A break behind the account costs the exchange; another account than before is refused."""
    verification = Verification(Lifecycle(ignore), ignore)
    first, second = b"an account", b"another"
    comparison = Comparison(
        AccountRecord(states=b"", digests=(), first_mismatch="", part=dest_part()),
        equal=True,
        detail="",
    )

    def verify(account: bytes) -> Step:
        steps = verification.verify(kept_alive=False)
        assert next(steps) == Within(Do.HEAR, CLOSING_SECONDS_MAX)
        message = Account(payload_bytes=len(account))
        step = steps.send(Received(message, account, 0))
        return steps.send(comparison) if isinstance(step, Within) else step

    assert verify(first) == Report(comparison)
    assert verify(first) == Report(comparison)
    with pytest.raises(RemoteProtocolError, match="two accounts that differ"):
        verify(second)


def test_writes_that_take_too_long_to_do_over_are_the_end() -> None:
    """The destination says how far the guest got: that could be steps for a century."""
    steps = Verification(Lifecycle(ignore), ignore).verify(kept_alive=False)
    next(steps)
    step = steps.send(Received(Account(payload_bytes=1), b"a", 0))
    assert step == Within(Compare(b"a"), CLOSING_SECONDS_MAX)
    with pytest.raises(MigrationError, match="could not be done over in 600 s"):
        steps.send(LATE)


async def test_an_account_that_is_none_is_told_to_the_peer() -> None:
    """A peer that breaks the protocol is told so, in one line."""
    async with make_rig() as rig:
        rig.dest.account = lambda: (  # type: ignore[method-assign]
            Account(payload_bytes=4), b"\xc1\xc1\xc1\xc1",
        )  # fmt: skip
        error = await rig.fail()
        assert isinstance(error, RemoteProtocolError)
        (abort,) = aborts(rig.dest)
        assert abort.reason == str(error)
        assert not abort.cancelled
