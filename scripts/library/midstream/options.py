"""The options of the library's functions: those of the commands, each with its type.

`None` and `False` stand for an option that is not given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias, TypedDict

Path: TypeAlias = str | os.PathLike[str]
# `64MiB`, or bytes.
Size: TypeAlias = str | int
# `1Gbit/s`, `125MB/s`, or `0` for no limit.
Rate: TypeAlias = str
# `300ms`, `10s`.
Time: TypeAlias = str
Number: TypeAlias = str | float
# One of the names that the command's help lists.
Choice: TypeAlias = str


class MigrateOptions(TypedDict, total=False):
    """Options of `midstream migrate`."""

    size: Size
    page_size: Size
    backing: Choice
    image: Path
    guest: Choice
    vcpus: int
    program: str
    accesses: Path
    access_rate: Number | Sequence[Number]
    write_ratio: Number
    start_paused: bool
    seed: int
    policy: str
    placement: Choice
    dirty_log: Choice
    chunk_size: Size
    postcopy_after: int | str
    postcopy_after_time: Time
    give_up_after: Time
    downtime_limit: Time
    max_bandwidth: Rate
    max_postcopy_bandwidth: Rate
    reconnect_timeout: Time
    recover_timeout: Time
    keepalive_timeout: Time
    dscp: str | int
    checksum: bool
    steps: Path
    link: str
    secret_file: Path
    tls_cert: Path
    tls_key: Path
    tls_ca: Path
    tls_hostname: str
    save: Path
    events: bool | Path
    perfetto: Path
    html: Path


class CompareOptions(TypedDict, total=False):
    """Options of `midstream compare`."""

    size: Size
    page_size: Size
    link: str
    vcpus: int
    against: str
    accesses: Path
    guest: Choice
    program: str
    access_rate: Number | Sequence[Number]
    write_ratio: Number
    postcopy_after: int | str
    seed: int
    repeats: int
    keep: Path
    html: Path
    picture: Path
