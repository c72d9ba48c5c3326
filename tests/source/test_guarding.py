"""What a user wrote is asked until something is wrong with it, and that is told with its place."""

import pytest

from protocol.errors import PolicyFailed
from source.guarding import GuardedOrder, GuardedPrefetcher
from source.scheme import Order, PageId, Pick, Prefetcher, Remaining, Request, Scheme
from tests.scheduled import HUGE, MIXED, Wire, guest, page, set_of
from tests.schemes import (
    HERE,
    RAISING,
    WRONG,
    WRONG_ORDERS,
    NewestFirst,
    ReadAhead,
    answering,
    ordering,
)

IDS = [f"{number}" for number in range(len(WRONG))]


def wire_of(prefetcher: type[Prefetcher] | None, order: type[Order] | None = None) -> Wire:
    """Return a sender of a small guest with such a policy."""
    scheme = Scheme("mine", locality=False, prefetcher=prefetcher, order=order)
    return Wire(scheme, guest((8, HUGE)), postcopy=True)


@pytest.mark.parametrize(("answer", "reason"), WRONG, ids=IDS)
def test_a_wrong_answer_is_refused_with_its_place(answer: object, reason: str) -> None:
    """The policy, the line of the hook and what it returned are told; all goes all the same."""
    wire = wire_of(answering(answer))
    wire.drain()
    wire.assert_all_sent_once()
    failure = wire.scheduler.policy_failure
    assert failure.startswith(f"policy mine: {HERE}:")
    assert reason in failure
    assert failure.isprintable()


@pytest.mark.parametrize(
    "wrong",
    [
        Pick(PageId(0, 0), "why"),
        Pick(PageId(0, -1), "why"),
        Pick(PageId(0, 8), "why"),
        Pick(PageId(1, 0), "why"),
        Pick(PageId(0, True), "why"),
        Pick(PageId(0, 2), "why", 512),
        Pick(PageId(0, 2), ""),
        Pick((0, 2.0), "why"),  # type: ignore[arg-type]
        Pick(PageId(0, 2), "why", 0.0),  # type: ignore[arg-type]
        Pick(PageId(0, 2), None),  # type: ignore[arg-type]
        Pick(None, "why"),  # type: ignore[arg-type]
    ],
)
def test_what_was_right_before_is_looked_at_again(wrong: Pick) -> None:
    """One answer after the other may be of one kind and for one reason; each has to be right."""
    answers = [Pick(PageId(0, 0), "why"), Pick(PageId(0, 1), "why"), wrong]

    class Repeating(Prefetcher):
        def next(self, remaining: Remaining) -> Pick | None:
            return answers.pop(0) if answers else None

    wire = wire_of(Repeating)
    wire.drain()
    wire.assert_all_sent_once()
    assert "next returned" in wire.scheduler.policy_failure or " is not " in (
        wire.scheduler.policy_failure
    )
    assert not answers


def test_who_does_not_hear_of_sent_pages_is_not_told() -> None:
    """To tell of each small page costs more than what most do with it."""
    assert not GuardedPrefetcher("mine", answering(None)).hears_sent
    assert GuardedPrefetcher("mine", type("Own", (ReadAhead,), {"sent": print})).hears_sent

    class Late(Prefetcher):
        def __init__(self) -> None:
            self.sent = print  # type: ignore[assignment]

    assert GuardedPrefetcher("mine", Late).hears_sent


@pytest.mark.parametrize(("prefetcher", "reason"), RAISING, ids=lambda each: str(each)[-24:])
def test_an_exception_is_told_with_its_line(prefetcher: type[Prefetcher], reason: str) -> None:
    """Whatever is raised in whichever hook is told with its place, and all goes all the same."""
    wire = wire_of(prefetcher)
    wire.request(page(3))
    wire.drain()
    wire.assert_all_sent_once()
    failure = wire.scheduler.policy_failure
    assert failure.startswith(f"policy mine: {HERE}:")
    assert reason in failure


def test_the_line_is_that_of_the_users_file() -> None:
    """Of an error that a library raises the user's own line is told, not the library's."""

    class Parsing(Prefetcher):
        def next(self, remaining: Remaining) -> None:
            import json  # noqa: PLC0415

            json.loads("{")

    wire = wire_of(Parsing)
    wire.drain()
    line = Parsing.next.__code__.co_firstlineno + 3
    assert f"{__file__}:{line}: JSONDecodeError" in wire.scheduler.policy_failure


def test_an_interrupt_is_nobodys_failure() -> None:
    """Ctrl-C that comes while a user's code runs goes on its way."""

    class Interrupted(Prefetcher):
        def next(self, remaining: Remaining) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wire_of(Interrupted).drain()


@pytest.mark.parametrize(("answer", "reason"), WRONG_ORDERS)
def test_a_wrong_order_is_refused_with_its_place(answer: object, reason: str) -> None:
    """Then requests are served in the order in which they came."""
    wire = wire_of(None, ordering(answer))
    for index in (5, 2, 7):
        wire.request(page(index))
    if "of 1 requests" in reason:
        wire = wire_of(None, ordering(answer))
        wire.request(page(5))
    served = [chunk.page.index for chunk in wire.drain() if chunk.urgent]
    assert sorted(set(served), key=served.index) == ([5, 2, 7] if len(set(served)) > 1 else [5])
    assert reason in wire.scheduler.policy_failure
    assert wire.scheduler.policy_failure.startswith(f"policy mine: {HERE}:")


def test_what_failed_is_not_asked_again() -> None:
    """After the first failure no hook is called."""
    calls = []

    class Failing(Prefetcher):
        def next(self, remaining: Remaining) -> None:
            calls.append("next")
            raise ValueError

        def sent(self, page: PageId, channel: str) -> None:
            calls.append("sent")

    wire_of(Failing).drain()
    assert calls == ["next"]


def test_what_cannot_be_made_fails_at_once() -> None:
    """A class that raises when it is called ends the run before there is one."""

    class Unmade(ReadAhead):
        def __init__(self) -> None:
            raise OSError("no file")

    with pytest.raises(PolicyFailed, match=rf"^policy mine: {__file__}:\d+: OSError: no file$"):
        wire_of(Unmade)


def test_numpys_whole_numbers_will_do() -> None:
    """An index that NumPy computed is as good as any."""
    numpy = pytest.importorskip("numpy")
    prefetcher = GuardedPrefetcher("mine", answering(((numpy.int64(0), numpy.int64(3)), "why")))
    view = Remaining(set_of(MIXED, [MIXED.page_span(page(3))]))
    prefetcher.restart(MIXED, view)
    pick = prefetcher.next(view)
    assert pick is not None
    assert pick.page == page(3)
    assert type(pick.page.index) is int


def test_an_order_sees_a_copy_of_the_queue() -> None:
    """What an order is given is its own."""
    order = GuardedOrder("mine", NewestFirst)
    queue = [Request(page(1), 5), Request(page(2), 6)]
    assert order.pick(queue, None) == 1
    assert len(queue) == 2
