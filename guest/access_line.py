"""One line of a trace: its words, and where in a guest they point; the format stands in trace.py.

A line is read in two steps.  Its words tell by themselves what each of them is, so that a trace can
be looked at, cut and counted without its guest; only what page they name takes the guest's blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from protocol.geometry import TARGET_PAGE_BYTES, Geometry

# Enough for a RAMBlock's name and a remark; and a file without line ends is no trace.
LINE_CHARS_MAX = 1000

# Thirty years; what is due later than that is due never, and sums of two still fit in 64 bits.
TIME_NS_MAX = 10**18 - 1

_COMMENT = re.compile(r"(^|\s)#.*")
_TIME = re.compile(r"@([0-9]{1,9})(?:\.([0-9]{1,9}))?")
_PAGE = re.compile(r"([0-9]{1,18})(?:\+([0-9]{1,18}))?")
_ADDRESS = re.compile(r"0x([0-9a-fA-F]{1,16})")
_VCPU = re.compile(r"[0-9]{1,4}")
_READ, _WRITE = "r", "w"
_FORM = "an access is: [@SECONDS] [VCPU] [BLOCK] PAGE[+TARGET_PAGE]|0xADDRESS [r|w]"


class WrongLineError(Exception):
    """Says what is wrong with a line; who reads the file adds where."""


class Access(NamedTuple):
    """What a line says.

    Attributes:
        time_ns: When it is due, from the start of the program; None if the line does not say.
        vcpu: Whose it is.
        block: The RAMBlock's name, empty for the guest's memory, all blocks in their order.
        page: A page index in that, if `address` is None.
        target_page: Which 4 KiB of that page.
        address: A byte offset in that.
        is_write: Whether it writes after it has read.
    """

    time_ns: int | None = None
    vcpu: int = 0
    block: str = ""
    page: int = 0
    target_page: int = 0
    address: int | None = None
    is_write: bool = False


def parse_access(line: str) -> Access | None:
    """Return what a line says, None for an empty one.

    Raises:
        WrongLineError: It is no access.
    """
    if len(line) >= LINE_CHARS_MAX:
        raise WrongLineError(f"longer than {LINE_CHARS_MAX} characters")
    words = _COMMENT.sub("", line).split()
    if not words:
        return None
    time_ns = _parse_time(words.pop(0)) if words[0].startswith("@") else None
    kind = words.pop() if words and words[-1] in (_READ, _WRITE) else ""
    if not words:
        raise WrongLineError(_FORM)
    place = words.pop()
    address, page = _ADDRESS.fullmatch(place), _PAGE.fullmatch(place)
    if address is None and page is None:
        if not kind and words and (_PAGE.fullmatch(words[-1]) or _ADDRESS.fullmatch(words[-1])):
            raise WrongLineError(f"{place!r} is neither {_READ} nor {_WRITE}")
        raise WrongLineError(f"{place!r} is not PAGE, PAGE+TARGET_PAGE or 0xADDRESS")
    # A RAMBlock's name may hold spaces, and a number only behind a vCPU's.
    vcpu = int(words.pop(0)) if words and _VCPU.fullmatch(words[0]) else 0
    return Access(
        time_ns=time_ns,
        vcpu=vcpu,
        block=" ".join(words),
        page=int(page[1]) if page else 0,
        target_page=int(page[2] or 0) if page else 0,
        address=int(address[1], 16) if address else None,
        is_write=kind == _WRITE,
    )


def _parse_time(word: str) -> int:
    match = _TIME.fullmatch(word)
    if match is None:
        raise WrongLineError(f"{word!r} is not a time in seconds such as @1.000250")
    return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))


def format_access(access: Access) -> str:
    """Return the line that says this, with its end."""
    words = [] if access.time_ns is None else [format_time(access.time_ns)]
    words.append(str(access.vcpu))
    words += [access.block] if access.block else []
    if access.address is not None:
        words.append(f"{access.address:#x}")
    else:
        words.append(f"{access.page}" + (f"+{access.target_page}" if access.target_page else ""))
    words.append(_WRITE if access.is_write else _READ)
    return " ".join(words) + "\n"


def format_time(time_ns: int) -> str:
    """Return a time as a line has it."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"@{seconds}.{rest:09d}"


def locate(access: Access, geometry: Geometry, blocks: Mapping[str, int], vcpu_count: int) -> int:
    """Return the flat target page that an access is to.

    Args:
        access: Whatever a line may say.
        geometry: The guest's blocks.
        blocks: Their indices by their names.
        vcpu_count: How many vCPUs the guest has.

    Raises:
        WrongLineError: It has no such vCPU, block, page or address.
    """
    _check_vcpu(access, blocks, vcpu_count)
    if not access.block:
        return _locate_in_guest(access, geometry)
    if access.block not in blocks:
        raise WrongLineError(f"no RAMBlock is named {access.block!r}; there is {', '.join(blocks)}")
    return _locate_in_block(access, geometry, blocks[access.block])


def _check_vcpu(access: Access, blocks: Mapping[str, int], vcpu_count: int) -> None:
    vcpu, rest = str(access.vcpu), ""
    if access.block and access.block not in blocks:
        # What stands before a block's name is meant for a vCPU.
        vcpu, _, rest = access.block.partition(" ")
    if access.vcpu >= vcpu_count or rest in blocks:
        raise WrongLineError(f"{vcpu!r} is not a vCPU from 0 to {vcpu_count - 1}")


def _locate_in_block(access: Access, geometry: Geometry, block: int) -> int:
    shape = geometry.blocks[block]
    where = f"RAMBlock {shape.name!r}"
    if access.address is not None:
        if access.address >= shape.length_bytes:
            raise WrongLineError(
                f"{access.address:#x} is outside {where} of {shape.length_bytes:#x} bytes"
            )
        return geometry.flat_target_page(block, access.address // TARGET_PAGE_BYTES)
    if access.page >= shape.page_count:
        raise WrongLineError(f"page {access.page} is outside {where} of {shape.page_count} pages")
    if access.target_page >= shape.target_pages_per_page:
        raise WrongLineError(
            f"target page {access.target_page} is outside a page of {shape.target_pages_per_page}"
        )
    return geometry.flat_target_page(
        block, access.page * shape.target_pages_per_page + access.target_page
    )


def _locate_in_guest(access: Access, geometry: Geometry) -> int:
    """Return the flat target page of what is named in the guest's memory as a whole."""
    if access.address is not None:
        if access.address >= geometry.length_bytes:
            raise WrongLineError(
                f"{access.address:#x} is outside a guest of {geometry.length_bytes:#x} bytes"
            )
        return access.address // TARGET_PAGE_BYTES
    page = access.page
    for block, shape in enumerate(geometry.blocks):
        if page < shape.page_count:
            return _locate_in_block(access._replace(page=page), geometry, block)
        page -= shape.page_count
    raise WrongLineError(f"page {access.page} is outside a guest of {geometry.page_count} pages")
