"""Two migrations in turn while an asyncio loop goes on, as a notebook's does."""

import asyncio
import sys

import midstream


async def main(size: str) -> None:
    """Migrate under two policies, counting what else the loop had time for."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    for policy in ("vanilla", "critical-first"):
        report = await asyncio.to_thread(midstream.migrate, size=size, policy=policy)
        print(policy, report.status, f"p99 {report.faults['p99-us'] / 1000:.2f} ms")
    ticking.cancel()
    print(f"the loop went on: {ticks > 2}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "64MiB"))
