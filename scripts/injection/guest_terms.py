"""The names that a scenario uses for the parts of its guest and of its connections."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId
from protocol.policy import Policy
from scripts.injection.scenario_text import Where


@dataclass(frozen=True)
class Guest:
    """What a scenario's steps and expectations can be about.

    Attributes:
        channels: Those that the policy has.
        scripted: vCPUs touch what steps tell them to.
        postcopy: There may be a postcopy phase.
        program: Its program's name.
    """

    geometry: Geometry
    policy: Policy
    channels: tuple[Channel, ...]
    scripted: bool
    postcopy: bool
    program: str


def read_page(value: object, where: Where, guest: Guest, key: str) -> PageId:
    """Return a page: N of the first block, or "BLOCK:N" with a block's name or number.

    Raises:
        ScenarioError: The guest has no such page, or it is not written like that.
    """
    page = _page(value, guest.geometry)
    if page is None:
        raise where.wrong(key, f'{value!r} is no page: a number, or "BLOCK:NUMBER"')
    if not guest.geometry.has_page(page):
        if page.block >= len(guest.geometry.blocks):
            raise where.wrong(key, f"the guest has no block for page {value!r}")
        count = guest.geometry.blocks[page.block].page_count
        name = guest.geometry.blocks[page.block].name
        raise where.wrong(key, f"page {value} is outside the guest: {name} has {count} pages")
    return page


def read_pages(value: object, where: Where, guest: Guest, key: str) -> tuple[PageId, ...]:
    """Return a list of pages.

    Raises:
        ScenarioError: It is no list, is empty, or one of them is no page.
    """
    if not isinstance(value, list) or not value:
        raise where.wrong(key, f"{key} is not a list of pages")
    return tuple(read_page(item, where, guest, key) for item in value)


def read_channel(value: object, where: Where, guest: Guest, key: str) -> Channel:
    """Return a channel by its name.

    Raises:
        ScenarioError: It is none, or none that the policy has.
    """
    names = [channel.value for channel in Channel]
    if not isinstance(value, str) or value not in names:
        raise where.wrong(key, f"channel {value!r} is none of {', '.join(names)}")
    if Channel(value) not in guest.channels:
        raise where.wrong(key, f"the policy {guest.policy.name} has no {value} channel")
    return Channel(value)


def page_name(page: PageId, geometry: Geometry) -> str:
    """Return a page as a scenario calls it."""
    return str(page.index) if not page.block else f"{geometry.blocks[page.block].name}:{page.index}"


def _page(value: object, geometry: Geometry) -> PageId | None:
    if type(value) is int and value >= 0:
        return PageId(0, value)
    if not isinstance(value, str):
        return None
    block, colon, number = value.rpartition(":")
    if not _is_number(number):
        return None
    names = [each.name for each in geometry.blocks]
    if not colon:
        # A key of a table is always a text.
        return PageId(0, int(number))
    if block in names:
        return PageId(names.index(block), int(number))
    return PageId(int(block), int(number)) if _is_number(block) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
