"""A limit on everything that a peer or a user can make grow, with its reason.

What is not named here has no place on the wire.  The relations between limits are asserted at the
end, so that a change of one cannot silently break another.
"""

from __future__ import annotations

# A header is a msgpack array of small fields.  The largest is Setup with BLOCK_COUNT_MAX blocks of
# BLOCK_NAME_CHARS_MAX characters each; those that come by the thousand are below 60 bytes.
HEADER_BYTES_MAX = 16 * 1024

# QEMU machines have some tens of RAMBlocks; 64 leaves room and keeps Setup in one header.
BLOCK_COUNT_MAX = 64
BLOCK_NAME_CHARS_MAX = 64

# 64 TiB: what x86-64 guests with four-level page tables can address is 128 TiB; our bitmaps of one
# byte a target page would already take 16 GiB.
GUEST_BYTES_MAX = 64 << 40

# One frame's page bytes.  Larger frames gain no throughput and make the header's byte count the
# only thing between the peer and a long wait.
CHUNK_BYTES_MAX = 64 << 20

# The runs of target pages that one frame names, 8 bytes each in its header.  Linux takes at most
# 1024 buffers in one sendmsg or recvmsg (IOV_MAX), and head and scratch need one each.
RUN_COUNT_MAX = 512

# How far apart the runs of one frame may lie: their places are packed into 31 bits of target pages.
RUNS_EXTENT_BYTES_MAX = 1 << 40

# One discard frame: a bitmap of 8 Mi target pages, 32 GiB of guest.
DISCARD_BYTES_MAX = 1 << 20

# The bitmap of a map of what is missing, deflated; one that cannot be deflated grows by a little.
MISSING_MAP_BYTES_MAX = DISCARD_BYTES_MAX + 4096

# The guest's specification, with a recorded trace of a few million accesses in it.
GUEST_SPEC_BYTES_MAX = 256 << 20

# Device state crosses while the guest stands still.  1 MiB takes 8 ms at 1 Gbit/s.
DEVICE_STATE_BYTES_MAX = 1 << 20

# The closing exchange: 16 bytes for each 2 MiB of guest, which makes 512 MiB for the largest, and
# room for statistics and final vCPU states.
CLOSING_BYTES_MAX = 520 << 20

# What is held of a report or a reason that the peer sends.
REASON_CHARS_MAX = 500
REPORT_BYTES_MAX = 4 << 20

CAPABILITY_COUNT_MAX = 64
CAPABILITY_CHARS_MAX = 64

# No array in a header is longer.  A decoder makes room for as many items as an array claims to
# have, so without this bound 16 KiB of nested claims cost a hundred MiB.
HEADER_ARRAY_ITEMS_MAX = 64

SESSION_ID_BYTES = 16

# vCPUs have one 8-byte slot each in every target page, a cache line apart.
VCPU_COUNT_MAX = 64

# A guest that is only modelled has no slots; the largest machines that anybody rents have so many.
MODELLED_VCPU_COUNT_MAX = 512

# A digest of 64 bits overlooks one change in 10^19; nobody is to be fooled who means to.
CHECKSUM_BYTES = 8

# A network that changes so many frames of one migration carries nothing that can be relied on.
RESEND_COUNT_MAX = 10_000

# How many of the pages that went before a requested one are named; the others are counted.
BEHIND_COUNT_MAX = 8

# Nobody guesses 16 random bytes; what is longer than a few lines is some other file.
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 1024

# As long as the MAC that it goes into: none comes twice by chance.
NONCE_BYTES = 32

# Seconds in which a new connection must prove that it may take part: a TLS handshake and the
# exchange of proofs are three round trips.
PROOF_SECONDS_MAX = 5.0

# Seconds in which a connection must say its hello, and its twin must arrive.
HELLO_SECONDS_MAX = 10.0

# Connections that may be on their way to a hello at once; a migration needs two.
HELLO_CONNECTIONS_MAX = 16

# A peer that takes longer than this to prepare (allocate and populate memory) or to verify is
# taken for dead.
SETUP_SECONDS_MAX = 300.0
CLOSING_SECONDS_MAX = 600.0

# A destination that is alive may take so long to save the guest: 4 TiB to a disk of 50 MB/s.
SAVING_SECONDS_MAX = 24 * 3600.0

# Precopy that has not converged after so many passes never will.
PASS_COUNT_MAX = 1000

# A side that has had nothing to say for so long says that it is alive.
PING_SECONDS = 1.0

# How often both sides look at that; silence is counted in these.
PULSE_SECONDS = 0.25

# The shortest silence that may be taken for death: some pings must be able to go missing.
SILENCE_SECONDS_MIN = 2.0
# The longest: what is silent for an hour has been forgotten by its user, too.
SILENCE_SECONDS_MAX = 3600.0

# How long a destination is given to tell what it holds, once a broken session is connected again.
RECOVER_SECONDS_MAX = 30.0

# A break leaves a target page half-received on each connection, and the next breaks may come before
# the rest has.
HELD_COUNT_MAX = 64

assert PULSE_SECONDS < PING_SECONDS < SILENCE_SECONDS_MIN
assert BLOCK_COUNT_MAX * (BLOCK_NAME_CHARS_MAX + 32) < HEADER_BYTES_MAX
assert CAPABILITY_COUNT_MAX * (CAPABILITY_CHARS_MAX + 4) < HEADER_BYTES_MAX
assert max(BLOCK_COUNT_MAX, CAPABILITY_COUNT_MAX, BEHIND_COUNT_MAX) <= HEADER_ARRAY_ITEMS_MAX
assert RUN_COUNT_MAX * 8 + 64 < HEADER_BYTES_MAX
assert PROOF_SECONDS_MAX <= HELLO_SECONDS_MAX
assert REASON_CHARS_MAX * 4 + 64 < HEADER_BYTES_MAX
assert GUEST_BYTES_MAX // (2 << 20) * 16 + REPORT_BYTES_MAX + DEVICE_STATE_BYTES_MAX < (
    CLOSING_BYTES_MAX
)
