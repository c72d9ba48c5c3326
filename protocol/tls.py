"""A TLS connection over a plain one, with a channel's exactness: no byte counts before its time.

OpenSSL works on memory; what it makes is sent, and what it needs is received, through the plain
connection.  A record is sent whole or the connection is of no more use.  So what was encrypted and
not sent, because the socket was full or the call cancelled, is kept, and goes before all else.  Its
bytes, or the last of them, count as sent only then.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import cast

from protocol.errors import AuthenticationFailed
from protocol.transport import Transport

# What is encrypted at once, in records of at most 16 KiB: fewer system calls, ...
BATCH_BYTES = 64 * 1024
# ... but once page requests may come no more than can be preempted after.
SMALL_BATCH_BYTES = 16 * 1024

_RECEIVE_BYTES = 64 * 1024

# With TLS 1.3 a client hears what the server thinks of its certificate when it first reads.
_REFUSING_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")

# X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH (openssl/x509_vfy.h), and what helps.
_OTHER_NAME_CODES = frozenset({62, 64})
_OTHER_NAME_HINT = "; --tls-hostname names what it is for"

# What OpenSSL may want to say by itself while it only receives: a peer that asks for new keys again
# and again must not fill memory with the answers.
_ANSWERS_BYTES_MAX = 64 * 1024


class TlsTransport:
    """An encrypted connection; `handshake` first.

    Attributes:
        batch_bytes: The most that is encrypted at once.
    """

    def __init__(
        self,
        sock: Transport,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        received: bytes = b"",
    ) -> None:
        """Take a connected socket, and close it in `close`.

        Args:
            sock: The plain connection.
            context: A client's or a server's, with all that is demanded of the peer.
            server_name: A client's: the name or address that the peer's certificate must be for.
            received: What was read of the connection already.
        """
        self.batch_bytes = BATCH_BYTES
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(received)
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        # Ciphertext that is still to go, and how many bytes of it have not counted as sent: the
        # caller begins with them again.
        self._sealed = memoryview(b"")
        self._uncounted_bytes = 0

    async def handshake(self) -> None:
        """Agree on keys and check the peer's certificate.

        Raises:
            AuthenticationFailed: The certificate is not good enough, or this is no TLS.
            EOFError: The peer closed the connection.
            OSError: It broke.
        """
        while True:
            problem = ""
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as error:
                done, problem = True, _reason(error)
            else:
                done = True
            # What went wrong is told to the peer, too.
            await self._flush()
            if problem:
                raise AuthenticationFailed(f"no TLS connection: {problem}")
            if done:
                return
            await self._receive()

    async def send(self, data: memoryview) -> int:
        """Send some of these bytes; return how many the socket has taken."""
        return await self.sendmsg([data])

    async def sendmsg(self, buffers: Iterable[memoryview]) -> int:
        """Send some of these bytes; return how many the socket has taken.

        Raises:
            OSError: The connection broke.
        """
        if not self._uncounted_bytes:
            # Answers of OpenSSL's own.
            await self._flush()
            self._uncounted_bytes = self._seal(buffers)
        await self._flush()
        return self._count_rest()

    def write_now(self, buffers: Iterable[memoryview], write: Callable[[memoryview], int]) -> int:
        """Send what goes at once; return how many bytes count as sent, maybe none.

        Bytes that are encrypted have begun their way and cannot be taken back: all but the last of
        them count.  That one counts when the socket has everything, so who waits for the end of a
        message knows when it is really sent.

        Args:
            buffers: At least two bytes of a message that has not begun.
            write: Hands bytes to the socket and returns how many it took.

        Raises:
            OSError: The connection broke.
        """
        if not self._drain(write):
            return 0
        if self._uncounted_bytes:
            return self._count_rest()
        count = self._seal(buffers)
        if self._drain(write):
            return count
        self._uncounted_bytes = 1
        return count - 1

    async def recv(self, most_bytes: int) -> bytes:
        """Return what is there, at least a byte, nothing at the end.

        Raises:
            AuthenticationFailed: The peer does not accept this side's certificate.
            OSError: The connection broke, or its bytes are not what the peer has encrypted.
        """
        data = bytearray(most_bytes)
        count, *_ = await self.recvmsg_into([memoryview(data)])
        return bytes(data[:count])

    async def recvmsg_into(
        self, buffers: Iterable[memoryview]
    ) -> tuple[int, list[object], int, None]:
        """Fill the buffers with what is there; return how many bytes, and three empty answers.

        Raises:
            AuthenticationFailed: The peer does not accept this side's certificate.
            OSError: The connection broke, or its bytes are not what the peer has encrypted.
        """
        rest = list(buffers)
        try:
            while not (count := self._open(rest)):
                await self._receive()
        except EOFError:
            count = 0
        return count, [], 0, None

    def fileno(self) -> int:
        """Return the descriptor of the TCP connection, to wait for."""
        return self._sock.fileno()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Set an option of the TCP connection."""
        self._sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        """Return an option of the TCP connection."""
        return self._sock.getsockopt(level, option, length)

    def close(self) -> None:
        """Close the connection at once; its end says nothing, so it needs no farewell of TLS."""
        self._sock.close()

    def _seal(self, buffers: Iterable[memoryview]) -> int:
        """Encrypt what comes first; return how many bytes of it."""
        room, parts = self.batch_bytes, []
        for buffer in buffers:
            parts.append(buffer[:room])
            room -= len(parts[-1])
        data = memoryview(b"".join(parts))
        done = 0
        while done < len(data):
            done += self._tls.write(data[done:])
        return done

    def _open(self, buffers: list[memoryview]) -> int:
        """Fill buffers with what can be decrypted; return how many bytes."""
        count = 0
        try:
            for buffer in buffers:
                place = buffer
                while place:
                    # With a buffer it returns a count, whatever its annotations say.
                    taken = cast("int", self._tls.read(len(place), place))
                    if not taken:
                        # TLS's own farewell: for who reads, it is told when nothing is before it.
                        if count:
                            return count
                        raise EOFError
                    count += taken
                    place = place[taken:]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if any(word in (error.reason or "") for word in _REFUSING_ALERTS):
                raise AuthenticationFailed(
                    f"the peer does not accept this side's certificate: {_reason(error)}"
                ) from error
            raise
        return count

    async def _flush(self) -> None:
        while self._has_sealed():
            self._sealed = self._sealed[await self._sock.send(self._sealed) :]

    def _drain(self, write: Callable[[memoryview], int]) -> bool:
        """Hand the socket ciphertext while it takes some; return whether all is gone."""
        while self._has_sealed():
            try:
                self._sealed = self._sealed[write(self._sealed) :]
            except BlockingIOError:
                return False
        return True

    def _has_sealed(self) -> bool:
        if not self._sealed:
            self._sealed = memoryview(self._outgoing.read())
        return bool(self._sealed)

    def _count_rest(self) -> int:
        count, self._uncounted_bytes = self._uncounted_bytes, 0
        return count

    async def _receive(self) -> None:
        data = await self._sock.recv(_RECEIVE_BYTES)
        if not data:
            raise EOFError
        if self._outgoing.pending > _ANSWERS_BYTES_MAX:
            raise ConnectionAbortedError("the peer asks for new keys without end")
        self._incoming.write(data)


def _reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, in words and without where in its code."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        hint = _OTHER_NAME_HINT if error.verify_code in _OTHER_NAME_CODES else ""
        return f"the peer's certificate is not accepted: {reason}{hint}"
    return (error.reason or str(error)).replace("_", " ").lower()
