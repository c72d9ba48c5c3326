"""The first connection that proves itself has the place, whoever stood there before it."""

from typing import cast

import trio
import trio.testing

from dest.qemu.channel import QemuChannel
from dest.qemu.trial import Trial
from protocol.errors import ConnectionLost, RemoteProtocolError

TAKEN = "it is taken"


class Candidate:
    """Stands for a connection; what it says of itself it is told to say."""

    def __init__(self) -> None:
        """Say nothing yet."""
        self.says, self._heard = trio.open_memory_channel[str | Exception](1)

    async def prove(self) -> str:
        """Return what it says, once it does, or raise that."""
        said = await self._heard.receive()
        if isinstance(said, Exception):
            raise said
        return said


async def prove(channel: QemuChannel) -> str:
    """Hear a candidate."""
    return await cast("Candidate", channel).prove()


class Stand:
    """Candidates that stand for a place at the same time, and what became of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """Have nobody stand yet."""
        self.trial: Trial[str] = Trial(TAKEN)
        self.refused: dict[Candidate, str] = {}
        self._nursery = nursery

    def enter(self) -> Candidate:
        """Have one more stand."""
        candidate = Candidate()
        self._nursery.start_soon(self._stand, candidate)
        return candidate

    async def _stand(self, candidate: Candidate) -> None:
        try:
            await self.trial.stand(cast("QemuChannel", candidate), "127.0.0.2")
        except RemoteProtocolError as error:
            self.refused[candidate] = str(error)


async def test_the_first_that_proves_itself_has_the_place() -> None:
    """Those before it that say nothing, or are gone, or say what is wrong, are refused."""
    async with trio.open_nursery() as nursery:
        stand = Stand(nursery)
        silent, gone, wrong, right = (stand.enter() for _ in range(4))
        await trio.testing.wait_all_tasks_blocked()
        under_way = [stand.trial.is_under_way]
        won: list[tuple[object, str]] = []

        async def judge() -> None:
            won.append(await stand.trial.judge(prove))

        nursery.start_soon(judge)
        await gone.says.send(ConnectionLost("it is gone"))
        await wrong.says.send(RemoteProtocolError("it is wrong"))
        await trio.testing.wait_all_tasks_blocked()
        under_way.append(stand.trial.is_under_way)
        assert stand.refused == {gone: "it is gone", wrong: "it is wrong"}
        assert not won
        await right.says.send("what it says")
        await trio.testing.wait_all_tasks_blocked()
        assert won == [(right, "what it says")]
        assert (stand.trial.winner, stand.trial.host) == (cast("QemuChannel", right), "127.0.0.2")
        assert stand.refused[silent] == TAKEN
        under_way.append(stand.trial.is_under_way)
        assert under_way == [False, True, False]
        late = stand.enter()
        await trio.testing.wait_all_tasks_blocked()
        assert stand.refused[late] == TAKEN


async def test_two_that_prove_themselves_at_once() -> None:
    """One of them has the place, and the other is refused."""
    async with trio.open_nursery() as nursery:
        stand = Stand(nursery)
        both = (stand.enter(), stand.enter())
        for candidate in both:
            await candidate.says.send("me")
        winner, _ = await stand.trial.judge(prove)
        await trio.testing.wait_all_tasks_blocked()
        assert list(stand.refused.values()) == [TAKEN]
        assert {cast("Candidate", winner), *stand.refused} == {*both}
