"""Authentication: a keyed challenge in both directions, before a byte of anything else is read.

Both sides hold the same secret.  Four messages of fixed length open each connection:

    source                                      destination
    opening:  role, session, nonce   ------>
                                     <------    challenge: nonce
    proof:    MAC                    ------>
                                     <------    answer: MAC, or a refusal

A MAC is HMAC-SHA256, by the secret, of who proves (source or destination) and of the opening and
the challenge as they were on the wire.  So a proof holds for one side, role, session and connection
alone: what is reflected, replayed or taken over to another connection proves nothing.  The source
proves first, so that whoever just connects gets nothing to guess secrets by.

`SourceProof` and `DestProof` make and check the messages; who uses them sends and receives.  The
tags tell this exchange from a frame, which begins with a zero byte, and from TLS.
"""

from __future__ import annotations

import hmac
from enum import IntEnum

from protocol.channels import Channel
from protocol.errors import AuthenticationFailed
from protocol.limits import NONCE_BYTES, SESSION_ID_BYTES

TAG = b"MSp1"
_REFUSAL_TAG = b"MSno"
TAG_BYTES = len(TAG)

_MAC_BYTES = 32

# A role is its place among the channels.
_ROLES = tuple(Channel)

OPENING_BYTES = TAG_BYTES + 1 + SESSION_ID_BYTES + NONCE_BYTES
CHALLENGE_BYTES = TAG_BYTES + NONCE_BYTES
PROOF_BYTES = _MAC_BYTES
# A refusal is as long as what it comes instead of.
ANSWER_BYTES = TAG_BYTES + _MAC_BYTES
assert CHALLENGE_BYTES == ANSWER_BYTES

# All that a source sends and gets before its first frame.
SOURCE_BYTES = OPENING_BYTES + PROOF_BYTES
DEST_BYTES = CHALLENGE_BYTES + ANSWER_BYTES


class Refusal(IntEnum):
    """Why a destination takes no part; the number is what crosses."""

    SECRETS_DIFFER = 1
    NO_SECRET_HERE = 2
    SECRET_DEMANDED = 3
    TLS_DEMANDED = 4

    @property
    def reason(self) -> str:
        """A line for the source's user."""
        return _REASONS[self]


_REASONS = {
    Refusal.SECRETS_DIFFER: "the secrets of the source and the destination differ",
    Refusal.NO_SECRET_HERE: "the source has a secret and the destination has none",
    Refusal.SECRET_DEMANDED: "the destination demands a secret, see --secret-file",
    Refusal.TLS_DEMANDED: "the destination speaks TLS only, see --tls-cert",
}


def refusal(why: Refusal) -> bytes:
    """Return what a destination sends in the place of its challenge or its answer."""
    return _REFUSAL_TAG + bytes([why]) + bytes(ANSWER_BYTES - TAG_BYTES - 1)


class SourceProof:
    """The source's side of the exchange on one connection."""

    def __init__(self, secret: bytes, role: Channel, session: bytes, nonce: bytes) -> None:
        """Prepare; send the `opening`, feed `prove` the challenge, send that, `check` the answer.

        Args:
            secret: What both sides know.
            role: The connection's.
            session: 16 bytes.
            nonce: NONCE_BYTES random bytes, never used before.
        """
        assert (len(session), len(nonce)) == (SESSION_ID_BYTES, NONCE_BYTES)
        self.opening = TAG + bytes([_ROLES.index(role)]) + session + nonce
        self._secret = secret
        self._challenge = b""

    def prove(self, challenge: bytes) -> bytes:
        """Return the proof that a challenge asks for.

        Raises:
            AuthenticationFailed: It is a refusal, or no challenge.
        """
        _check_tag(challenge)
        self._challenge = challenge
        return _mac(self._secret, b"source", self.opening, challenge)

    def check(self, answer: bytes) -> None:
        """Check that the destination knows the secret.

        Raises:
            AuthenticationFailed: It refuses, or does not know it.
        """
        _check_tag(answer)
        expected = _mac(self._secret, b"destination", self.opening, self._challenge)
        if not hmac.compare_digest(answer[TAG_BYTES:], expected):
            raise AuthenticationFailed(Refusal.SECRETS_DIFFER.reason)


class DestProof:
    """The destination's side of the exchange on one connection.

    Attributes:
        session: What the opening says; to be believed when the proof holds.
        role: The same.
        challenge: What follows the opening.
    """

    def __init__(self, secret: bytes, opening: bytes, nonce: bytes) -> None:
        """Read an opening; send the `challenge`; if the proof `holds`, send the `answer`.

        Args:
            secret: What both sides know.
            opening: OPENING_BYTES bytes that begin with TAG.
            nonce: NONCE_BYTES random bytes, never used before.

        Raises:
            AuthenticationFailed: It is no opening.
        """
        assert (len(opening), len(nonce)) == (OPENING_BYTES, NONCE_BYTES)
        assert opening.startswith(TAG)
        number = opening[TAG_BYTES]
        if number >= len(_ROLES):
            raise AuthenticationFailed(f"an opening for a connection of role {number}")
        self.role = _ROLES[number]
        self.session = opening[TAG_BYTES + 1 :][:SESSION_ID_BYTES]
        self.challenge = TAG + nonce
        self._secret = secret
        self._opening = opening

    def holds(self, proof: bytes) -> bool:
        """Return whether a proof shows that the source knows the secret."""
        expected = _mac(self._secret, b"source", self._opening, self.challenge)
        return hmac.compare_digest(proof, expected)

    @property
    def answer(self) -> bytes:
        """The proof of this side; only a source whose own proof holds may have it."""
        return TAG + _mac(self._secret, b"destination", self._opening, self.challenge)


def _mac(secret: bytes, who: bytes, opening: bytes, challenge: bytes) -> bytes:
    # Of fixed lengths all but the first, so no two different triples make the same bytes.
    return hmac.digest(secret, b"midstream " + who + opening + challenge, "sha256")


def _check_tag(answer: bytes) -> None:
    assert len(answer) == ANSWER_BYTES
    if answer.startswith(TAG):
        return
    number = answer[TAG_BYTES]
    if answer.startswith(_REFUSAL_TAG) and number in set(Refusal):
        raise AuthenticationFailed(Refusal(number).reason)
    raise AuthenticationFailed("the other side is no destination that knows the secret")
