"""A build that loses memory is caught by the guest or the digest: exit status 3 on both sides."""

import pytest

from tests.processes import Lab

BUSY = ("--size=8MiB", "--vcpus=2", "--access-rate=0", "--write-ratio=0.5", "--quiet")


@pytest.mark.parametrize(
    ("source_rig", "dest_rig", "arguments"),
    [
        # A log that tells huge pages as a whole would name one to lose that nobody has written to.
        ("lose-page", "", ("--backing=base",)),
        # No vCPU touches anything, so the digest has to find it.  It takes two chunks.
        (
            "", "misplace-chunk",
            ("--postcopy-after=never", "--program=scripted", "--chunk-size=2MiB"),
        ),
        # Nothing is written, so all is right in the end, and vCPUs' reads have to find it.
        ("", "place-early", ("--postcopy-after=0", "--write-ratio=0")),
        ("", "place-early", ("--postcopy-after=0", "--write-ratio=0", "--policy=critical-first")),
    ],
)  # fmt: skip
def test_wrong_memory_is_found(
    lab: Lab, source_rig: str, dest_rig: str, arguments: tuple[str, ...]
) -> None:
    """A page not sent again, bytes in the wrong place, pages placed too early: none goes unseen."""
    # One of the two that place pages too early does so in the map, the other in the kernel.
    placement = "auto" if "--policy=critical-first" in arguments else "simulated"
    source, dest = lab.start_pair(
        *BUSY, *arguments, source_rig=source_rig, dest_rig=dest_rig,
        dest_arguments=(f"--placement={placement}", "--quiet"),
    )  # fmt: skip
    source.fail(3, "wrong")
    dest.fail(3, "wrong")
