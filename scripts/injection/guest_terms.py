"""The names that a scenario uses for the parts of its guest and of its connections."""

from __future__ import annotations

from dataclasses import dataclass

from dest.script import PageName
from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId
from protocol.policy import Policy
from scripts.injection.moments import name_page, name_pages
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
    return find_page(name_page(value, where, key), where, guest, key)


def find_page(name: PageName, where: Where, guest: Guest, key: str) -> PageId:
    """Return the page of a name.

    Raises:
        ScenarioError: The guest has no such page.
    """
    try:
        return name.find(guest.geometry)
    except LocalProtocolError as error:
        raise where.wrong(key, str(error)) from error


def read_pages(value: object, where: Where, guest: Guest, key: str) -> tuple[PageId, ...]:
    """Return a list of pages.

    Raises:
        ScenarioError: It is no list, is empty, or one of them is no page.
    """
    return tuple(find_page(name, where, guest, key) for name in name_pages(value, where, key))


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
