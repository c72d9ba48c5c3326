"""A relay between a QEMU and its destination, which keeps what QEMU says and can break it off."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from scripts.configure import parse_address
from scripts.links.link import Link


@dataclass(frozen=True)
class Relay(Link):
    """A link of `run_pair`.

    Attributes:
        cuts: After so many bytes of the source, in all, every connection is broken, once for each.
        said: What the source said, by connection.
    """

    cuts: list[int] = field(default_factory=list)
    said: dict[int, bytes] = field(default_factory=dict)
    _open: set[trio.SocketStream] = field(default_factory=set)

    async def lead_to(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, address: str, nursery: trio.Nursery
    ) -> str:
        """Return where the source finds the relay."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = parse_address(address, "--listen")

        async def relay(near: trio.SocketStream) -> None:
            number = len(self.said)
            self.said[number] = b""
            far = await trio.open_tcp_stream(host, port)
            self._open.update((near, far))
            async with near, far, trio.open_nursery() as both:
                both.start_soon(self._carry, near, far, number)
                both.start_soon(self._carry, far, near, None)

        nursery.start_soon(trio.serve_listeners, relay, [listener])
        return f"127.0.0.1:{listener.socket.getsockname()[1]}"

    async def _carry(
        self, inward: trio.SocketStream, outward: trio.SocketStream, number: int | None
    ) -> None:
        try:
            while data := await inward.receive_some():
                if number is not None:
                    self.said[number] += data
                    await self._cut()
                await outward.send_all(data)
            await outward.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await outward.aclose()

    async def _cut(self) -> None:
        if self.cuts and sum(map(len, self.said.values())) >= self.cuts[0]:
            del self.cuts[0]
            for stream in self._open:
                await stream.aclose()
            self._open.clear()
