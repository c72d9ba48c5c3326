"""Scripted faults: each step fires once, when its trigger first comes true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dest.script import PageName, Script, Step, WrittenStep, find_steps, read_page_name
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId, RamBlock


def page(index: int, block: int = 0) -> PageId:
    """Return a page, of the first block unless told otherwise."""
    return PageId(block, index)


FIRST = page(5)
TOUCHED = (page(9), page(3), page(12))


def test_an_empty_script_is_done() -> None:
    """A script without steps has nothing to wait for and answers nothing."""
    script = Script(())
    assert script.done
    assert script.happened("placed", FIRST, 1.0) == []


@pytest.mark.parametrize("what", ["received", "requested", "placed"])
def test_a_step_fires_once_at_its_trigger(what: str) -> None:
    """A step's pages are touched in their order when its trigger comes true, and never again."""
    script = Script((Step(what, FIRST, TOUCHED),))
    assert not script.done
    answers = [script.happened(what, FIRST, 1.0) for _ in range(3)]
    assert answers == [list(TOUCHED), [], []]
    assert script.done


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("requested", FIRST),
        ("received", FIRST),
        ("placed", page(6)),
        ("placed", page(5, block=1)),
    ],
)
def test_a_step_waits_for_its_own_trigger(what: str, where: PageId) -> None:
    """Another happening, or the same with another page, leaves the step waiting."""
    script = Script((Step("placed", FIRST, TOUCHED),))
    assert script.happened(what, where, 1.0) == []
    assert not script.done
    assert script.happened("placed", FIRST, 1.0) == list(TOUCHED)


@pytest.mark.parametrize(
    ("share", "fires"), [(0.0, False), (0.2499, False), (0.25, True), (0.9, True), (1.0, True)]
)
def test_a_share_is_reached_or_passed(share: float, fires: bool) -> None:
    """A step on a received share fires as soon as at least that share is here."""
    script = Script((Step("received", FIRST, TOUCHED, share=0.25),))
    assert bool(script.happened("received", FIRST, share)) is fires
    assert script.done is fires


@pytest.mark.parametrize("what", ["requested", "placed"])
def test_only_receiving_asks_for_a_share(what: str) -> None:
    """A page is requested or placed however much of it is here."""
    script = Script((Step(what, FIRST, TOUCHED, share=1.0),))
    assert script.happened(what, FIRST, 0.0) == list(TOUCHED)


def test_steps_of_one_moment_fire_in_the_order_of_the_script() -> None:
    """All steps that are due fire together, one's pages after the other's; the rest stay."""
    script = Script(
        (
            Step("received", FIRST, (page(1), page(2)), share=0.5),
            Step("received", FIRST, (page(8),), share=0.9),
            Step("received", FIRST, (page(3),), share=0.1),
        )
    )
    assert script.happened("received", FIRST, 0.6) == [page(1), page(2), page(3)]
    assert not script.done
    assert script.happened("received", FIRST, 0.95) == [page(8)]
    assert script.done


def test_a_step_that_stands_twice_fires_twice_at_once() -> None:
    """Two steps that are alike are two steps."""
    step = Step("placed", FIRST, (page(1),))
    script = Script((step, step))
    assert script.happened("placed", FIRST, 1.0) == [page(1), page(1)]
    assert script.done


HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(["received", "requested", "placed"]),
        st.builds(PageId, st.integers(0, 1), st.integers(0, 2)),
        st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    ),
    max_size=40,
)
STEPS = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(["received", "requested", "placed"]),
        page=st.builds(PageId, st.integers(0, 1), st.integers(0, 2)),
        faults=st.lists(st.builds(PageId, st.just(0), st.integers(0, 99)), max_size=3).map(tuple),
        share=st.sampled_from([0.1, 0.5, 1.0]),
    ),
    max_size=6,
)


@given(steps=STEPS, happenings=HAPPENINGS)
def test_each_step_fires_at_the_first_happening_that_suits_it(
    steps: list[Step], happenings: list[tuple[str, PageId, float]]
) -> None:
    """What is touched at each happening is what the steps, each looked at alone, say."""
    script = Script(tuple(steps))
    answers = [script.happened(*happening) for happening in happenings]
    expected: list[list[PageId]] = [[] for _ in happenings]
    fired = 0
    for step in steps:
        for place, (what, where, share) in enumerate(happenings):
            enough = step.what != "received" or share >= step.share
            if (what, where) == (step.what, step.page) and enough:
                expected[place] += step.faults
                fired += 1
                break
    assert answers == expected
    assert script.done == (fired == len(steps))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (5, PageName("", 5)),
        ("5", PageName("", 5)),
        ("1:3", PageName("1", 3)),
        ("rom:3", PageName("rom", 3)),
        ("0000:00:02.0/vga.vram:3", PageName("0000:00:02.0/vga.vram", 3)),
    ],
)
def test_a_page_has_a_name(value: object, name: PageName) -> None:
    """A number is a page of the first block; before the last colon stands another block."""
    assert read_page_name(value) == name
    assert read_page_name(str(name)) == name


@pytest.mark.parametrize(
    "value",
    [
        -1,
        True,
        1.0,
        None,
        [1],
        "",
        "x",
        ":3",
        "rom:",
        "rom:-1",
        "0:\u00b2",
        "\u0663",
        "9" * 19,
        10**18,
    ],
)
def test_what_names_no_page(value: object) -> None:
    """Only digits are numbers, and no guest has so many pages."""
    assert read_page_name(value) is None


TWO = Geometry((RamBlock("ram", 8192, 4096), RamBlock("rom", 4096, 4096)))


def test_blocks_go_by_their_names_and_numbers() -> None:
    """A name goes first: a block may be called as another's number."""
    assert PageName("rom", 0).find(TWO) == PageName("1", 0).find(TWO) == page(0, block=1)
    odd = Geometry((RamBlock("1", 4096, 4096), RamBlock("rom", 4096, 4096)))
    assert PageName("1", 0).find(odd) == page(0)
    for unknown in ("ram0", "2", "\u00b2", "9" * 18):
        with pytest.raises(LocalProtocolError, match=f"the guest has no block '{unknown}'"):
            PageName(unknown, 0).find(TWO)


def written(what: str, name: str, *faults: str) -> WrittenStep:
    """Return a step as a file says it."""
    names = [read_page_name(each) for each in (name, *faults)]
    found = [each for each in names if each is not None]
    assert len(found) == len(names)
    return WrittenStep(what, found[0], tuple(found[1:]), where="steps.toml:7")


def test_steps_find_their_pages_in_a_guest() -> None:
    """What a file names becomes the guest's pages."""
    steps = (written("placed", "rom:0", "1", "rom:0", "1:0"),)
    found = (Step("placed", page(0, block=1), (page(1), page(0, block=1), page(0, block=1))),)
    assert find_steps(steps, TWO, "scripted") == found
    assert find_steps((), TWO, "uniform") == ()


def test_a_guest_must_have_the_pages_that_steps_name() -> None:
    """A page outside the guest, as trigger or to be touched, is refused with where it stands."""
    good = written("placed", "1", "0", "rom:0")
    for wrong, reason in (
        ("2", "page 2 is outside the guest: ram has 2 pages"),
        ("rom:1", "page rom:1 is outside the guest: rom has 1 page"),
        ("2:0", "no block '2' for page 2:0; it has: ram, rom"),
        ("rum:0", "no block 'rum' for page rum:0 (did you mean 'rom'?); it has: ram, rom"),
    ):
        for step in (written("placed", wrong, "0"), written("placed", "0", wrong)):
            with pytest.raises(LocalProtocolError, match=r"steps\.toml:7: ") as caught:
                find_steps((good, step), TWO, "scripted")
            assert reason in str(caught.value)


def test_a_guest_with_a_program_follows_no_steps() -> None:
    """Its vCPUs would touch other pages than the steps say."""
    geometry = Geometry((RamBlock("ram", 8192, 4096),))
    with pytest.raises(LocalProtocolError, match="not uniform"):
        find_steps((written("placed", "0", "1"),), geometry, "uniform")
