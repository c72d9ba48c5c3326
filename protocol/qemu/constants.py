"""The numbers of QEMU's migration stream, each with the file of QEMU that defines it.

They are read off QEMU 7.2; 8.0 to 10.0 have the same ones.  All integers on the wire are
big-endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from protocol.geometry import TARGET_PAGE_BYTES

# migration/savevm.h
FILE_MAGIC = 0x5145564D
FILE_VERSION = 3

# migration/multifd.c: what each of multifd's connections begins with.
MULTIFD_MAGIC = 0x11223344

# A TLS record begins with its type, handshake, and a version 3.x (RFC 8446, 5.1).
TLS_HANDSHAKE = b"\x16\x03"


class Section(IntEnum):
    """The first byte of everything on the outer level: migration/savevm.h, QEMU_VM_*."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


# A command begins with its section's type, its number and its length.
COMMAND_HEAD = struct.Struct(">BHH")


class Cmd(IntEnum):
    """The number of a COMMAND: migration/savevm.c, enum qemu_vm_cmd."""

    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    # Since 10.0: a notice for devices that load beside the main stream.
    SWITCHOVER_START = 11


# migration/savevm.c, mig_cmd_args: the length of each command's data; absent: it varies.
CMD_BYTES = {
    Cmd.OPEN_RETURN_PATH: 0,
    Cmd.PING: 4,
    Cmd.POSTCOPY_LISTEN: 0,
    Cmd.POSTCOPY_RUN: 0,
    Cmd.PACKAGED: 4,
    Cmd.POSTCOPY_RESUME: 0,
    Cmd.SWITCHOVER_START: 0,
}


# What stands first in a page that XBZRLE has encoded: migration/ram.c, ENCODING_FLAG_XBZRLE.
ENCODED_BY_XBZRLE = 0x01


class Ram(IntFlag):
    """The low bits of a RAM record's address: migration/ram.c, RAM_SAVE_FLAG_*."""

    FULL = 0x01
    ZERO = 0x02
    MEM_SIZE = 0x04
    PAGE = 0x08
    EOS = 0x10
    CONTINUE = 0x20
    XBZRLE = 0x40
    HOOK = 0x80
    COMPRESS_PAGE = 0x100
    MULTIFD_FLUSH = 0x200


# A RAM record begins with an address and flags; its page's bytes follow, or one byte that fills it.
RECORD_HEAD_BYTES = 8
RECORD_BYTES = RECORD_HEAD_BYTES + TARGET_PAGE_BYTES
ZERO_RECORD_BYTES = RECORD_HEAD_BYTES + 1
FLAG_BITS = TARGET_PAGE_BYTES - 1

# What a target page can take deflated: zlib's compressBound(4096).  ram_load refuses more.
COMPRESSED_BYTES_MAX = 4096 + (4096 >> 12) + (4096 >> 14) + (4096 >> 25) + 13

# What of it midstream does not speak, by the name under which a user can switch it off.
UNSPOKEN_RAM = {
    Ram.XBZRLE: "the capability xbzrle",
    Ram.MULTIFD_FLUSH: "the capability multifd",
    Ram.HOOK: "RDMA",
    Ram.FULL: "an obsolete end of iteration",
}


# A message of the return path begins with its kind and its length; a request with its stretch.
RP_HEAD = struct.Struct(">HH")
RP_STRETCH = struct.Struct(">QI")


class Rp(IntEnum):
    """The messages of the return path: migration/migration.h, enum mig_rp_message_type."""

    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    # Since 8.1.
    SWITCHOVER_ACK = 7


# migration/ram.c, RAMBLOCK_RECV_BITMAP_ENDING: stands behind a bitmap of what was received.
RECV_BITMAP_END = 0x0123456789ABCDEF

# migration/migration.c, MIGRATION_RESUME_ACK_VALUE.
RESUME_ACK_VALUE = 1


# migration/ram.c: the name and the only version of the section that has the RAM.
RAM_SECTION = "ram"
RAM_SECTION_VERSION = 4

# migration/postcopy-ram.c, postcopy_ram_discard_version.
DISCARD_VERSION = 0

# A name has one byte for its length; a machine's name has four, and QEMU's are far below this.
MACHINE_NAME_BYTES_MAX = 255

# migration/migration.c, configuration section: capabilities that must be known; QEMU has 22.
CAPABILITY_COUNT_MAX = 64

# The devices of a machine, in one package.  QEMU allows 4 GiB, those of a PC take 100 KiB and
# more; nothing of it is kept here, so this only bounds how long a source may go on with it.
PACKAGE_BYTES_MAX = 256 << 20

# What is kept of a package's end, for the pings and the order to run in it.
PACKAGE_TAIL_BYTES = 64
