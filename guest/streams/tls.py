"""A TLS connection over a plain one, with a channel's exactness: no byte counts before its time.

OpenSSL works on memory; what it makes is sent, and what it needs is received, through the plain
stream below.  A record is sent whole or the connection is of no more use.  So what was encrypted
and not sent, because the stream below was full, is kept, and goes before all else; the last of its
bytes counts as sent only then.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import cast

import trio

from guest.streams.stream import Delivery, Stream
from protocol.errors import AuthenticationFailed

# What is encrypted at once, in records of at most 16 KiB: fewer system calls, ...
BATCH_BYTES = 64 * 1024
# ... but once page requests may come no more than can be preempted after.
SMALL_BATCH_BYTES = 16 * 1024

_RECEIVE_BYTES = 64 * 1024
# Who has not shown a certificate gets no more than this.
_HANDSHAKE_BYTES = 4 * 1024

# With TLS 1.3 a client hears what the server thinks of its certificate when it first reads.
_REFUSING_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")

# X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH (openssl/x509_vfy.h), and what helps.
_OTHER_NAME_CODES = frozenset({62, 64})
_OTHER_NAME_HINT = "; --tls-hostname names what it is for"

# What OpenSSL may want to say by itself while it only receives: a peer that asks for new keys again
# and again must not fill memory with the answers.
_ANSWERS_BYTES_MAX = 64 * 1024


class TlsStream:
    """An encrypted connection; `handshake` first.

    Attributes:
        batch_bytes: The most that is encrypted at once.
    """

    # A record is of no use before all of it is here, however little of it is waited for.
    gathers = False

    def __init__(
        self,
        stream: Stream,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        received: bytes = b"",
    ) -> None:
        """Take a connection, and close it in `close`.

        Args:
            stream: The plain connection.
            context: A client's or a server's, with all that is demanded of the peer.
            server_name: A client's: the name or address that the peer's certificate must be for.
            received: What was read of the connection already.
        """
        self.batch_bytes = BATCH_BYTES
        self._stream = stream
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
        self._received = memoryview(bytearray(_HANDSHAKE_BYTES))
        # All that has come was given out; until then the stream below is not to be waited for.
        self._is_drained = False

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
            while not self._drain():
                await self._stream.wait_writable()
            # Behind the bytes, so that the peer hears of it whatever becomes of this side.
            await trio.lowlevel.cancel_shielded_checkpoint()
            if problem:
                raise AuthenticationFailed(f"no TLS connection: {problem}")
            if done:
                self._received = memoryview(bytearray(_RECEIVE_BYTES))
                return
            while not self._receive():
                await self._stream.wait_readable()

    def try_write(self, buffers: Sequence[memoryview]) -> int:
        """See `Stream`; all but the last of the bytes that are encrypted count at once.

        They have begun their way and cannot be taken back.  The last one counts when the stream
        below has everything, so who waits for the end of a message knows when it is really sent.
        """
        if not self._drain():
            return 0
        if self._uncounted_bytes:
            count, self._uncounted_bytes = self._uncounted_bytes, 0
            return count
        count = self._seal(buffers)
        if self._drain():
            return count
        self._uncounted_bytes = 1
        return count - 1

    def try_read_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See `Stream`.

        Raises:
            AuthenticationFailed: The peer does not accept this side's certificate.
            OSError: The connection broke, or its bytes are not what the peer has encrypted.
        """
        self._is_drained = False
        try:
            while not (count := self._open(buffers)):
                if not self._receive():
                    self._is_drained = True
                    return None
        except EOFError:
            return 0
        return count

    async def wait_writable(self) -> None:
        """See `Stream`."""
        await self._stream.wait_writable()

    async def wait_readable(self) -> None:
        """See `Stream`."""
        if self._is_drained:
            await self._stream.wait_readable()
        else:
            await trio.lowlevel.checkpoint()

    def is_writable_soon(self) -> bool:
        """See `Stream`."""
        return self._stream.is_writable_soon()

    def is_readable_soon(self) -> bool:
        """See `Stream`."""
        return not self._is_drained or self._stream.is_readable_soon()

    def unread_bytes(self) -> int:
        """See `Stream`; of what was not decrypted yet, as it came."""
        return self._stream.unread_bytes() + self._tls.pending()

    def wake_at(self, count: int) -> None:
        """Do nothing: see `gathers`."""

    def bound_unsent(self, buffer_bytes: int, unsent_bytes: int) -> None:
        """See `Stream`; less is encrypted at once, too."""
        self.batch_bytes = SMALL_BATCH_BYTES
        self._stream.bound_unsent(buffer_bytes, unsent_bytes)

    def prioritize(self) -> str:
        """See `Stream`."""
        return self._stream.prioritize()

    def overtakes(self) -> bool:
        """See `Stream`."""
        return self._stream.overtakes()

    def trust_silence(self) -> None:
        """See `Stream`."""
        self._stream.trust_silence()

    def delivery(self) -> Delivery:
        """See `Stream`."""
        return self._stream.delivery()

    def end_writing(self) -> None:
        """See `Stream`; as in `close`, TLS itself says no farewell."""
        self._stream.end_writing()

    def close(self) -> None:
        """Close the connection at once; its end says nothing, so it needs no farewell of TLS."""
        self._stream.close()

    def _seal(self, buffers: Sequence[memoryview]) -> int:
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

    def _open(self, buffers: Sequence[memoryview]) -> int:
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

    def _drain(self) -> bool:
        """Hand over ciphertext while some of it goes; tell whether all is gone."""
        while True:
            if not self._sealed:
                self._sealed = memoryview(self._outgoing.read())
                if not self._sealed:
                    return True
            count = self._stream.try_write([self._sealed])
            if not count:
                return False
            self._sealed = self._sealed[count:]

    def _receive(self) -> bool:
        """Take in what is here; tell whether that was something.

        Raises:
            EOFError: The connection has ended.
            OSError: It broke.
        """
        count = self._stream.try_read_into([self._received])
        if count is None:
            return False
        if not count:
            raise EOFError
        if self._outgoing.pending > _ANSWERS_BYTES_MAX:
            raise ConnectionAbortedError("the peer asks for new keys without end")
        self._incoming.write(self._received[:count])
        return True


def _reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, in words and without where in its code."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        hint = _OTHER_NAME_HINT if error.verify_code in _OTHER_NAME_CODES else ""
        return f"the peer's certificate is not accepted: {reason}{hint}"
    return (error.reason or str(error)).replace("_", " ").lower()
