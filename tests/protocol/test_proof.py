"""The exchange of proofs: who knows the secret passes, and nothing else does."""

from itertools import product

import pytest

from protocol.channels import Channel
from protocol.errors import AuthenticationFailed
from protocol.limits import NONCE_BYTES, SESSION_ID_BYTES
from protocol.proof import (
    ANSWER_BYTES,
    CHALLENGE_BYTES,
    OPENING_BYTES,
    PROOF_BYTES,
    TAG,
    DestProof,
    Refusal,
    SourceProof,
    refusal,
)

SECRET, OTHER = b"correct horse battery", b"correct horse batterz"
SESSION = bytes(range(SESSION_ID_BYTES))
PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


def nonce(number: int) -> bytes:
    """Return a nonce that is told from others by a number."""
    return number.to_bytes(NONCE_BYTES, "big")


def source(secret: bytes = SECRET, role: Channel = PRE, number: int = 1) -> SourceProof:
    """Return a source's side."""
    return SourceProof(secret, role, SESSION, nonce(number))


def dest(opening: bytes, secret: bytes = SECRET, number: int = 2) -> DestProof:
    """Return a destination's side."""
    return DestProof(secret, opening, nonce(number))


@pytest.mark.parametrize("role", Channel)
def test_who_knows_the_secret_passes(role: Channel) -> None:
    """With one secret both proofs hold, and the destination knows session and role."""
    ours = source(role=role)
    theirs = dest(ours.opening)
    proof = ours.prove(theirs.challenge)
    assert theirs.holds(proof)
    ours.check(theirs.answer)
    assert (theirs.session, theirs.role) == (SESSION, role)
    lengths = [len(each) for each in (ours.opening, theirs.challenge, proof, theirs.answer)]
    assert lengths == [OPENING_BYTES, CHALLENGE_BYTES, PROOF_BYTES, ANSWER_BYTES]


def test_another_secret_does_not_pass() -> None:
    """Neither side takes the other's proof where the secrets differ."""
    ours = source()
    theirs = dest(ours.opening, OTHER)
    assert not theirs.holds(ours.prove(theirs.challenge))
    with pytest.raises(AuthenticationFailed, match="the secrets of the source and the destination"):
        ours.check(theirs.answer)


def test_no_bit_of_the_exchange_may_change() -> None:
    """Whichever bit of opening, challenge, proof or answer is flipped, a proof does not hold."""
    ours = source()
    theirs = dest(ours.opening)
    honest = [ours.opening, theirs.challenge, ours.prove(theirs.challenge), theirs.answer]
    for which, message in enumerate(honest):
        for place, bit in product(range(len(message)), (1, 128)):
            spoiled = bytearray(message)
            spoiled[place] ^= bit
            assert not passes([*honest[:which], bytes(spoiled), *honest[which + 1 :]])
    assert passes(honest)


def passes(messages: list[bytes]) -> bool:
    """Tell whether both sides are content with what reaches them."""
    opening, challenge, proof, answer = messages
    ours = source()
    if not opening.startswith(TAG):
        return False
    try:
        theirs = dest(opening)
        ours.prove(challenge)
        ours.check(answer)
    except AuthenticationFailed:
        return False
    return theirs.holds(proof)


def test_a_reflected_proof_proves_nothing() -> None:
    """What a side has said itself is no proof of the other, in either direction."""
    ours = source()
    theirs = dest(ours.opening)
    proof = ours.prove(theirs.challenge)
    with pytest.raises(AuthenticationFailed):
        ours.check(TAG + proof)
    assert not theirs.holds(theirs.answer[len(TAG) :])


def test_a_replayed_proof_proves_nothing() -> None:
    """A proof of one connection is none on the next, nor for its twin of the other role."""
    ours = source()
    theirs = dest(ours.opening)
    proof, answer = ours.prove(theirs.challenge), theirs.answer
    assert not dest(ours.opening, number=3).holds(proof)
    assert not dest(source(role=POST).opening).holds(proof)
    again = source(number=4)
    again.prove(theirs.challenge)
    with pytest.raises(AuthenticationFailed):
        again.check(answer)


@pytest.mark.parametrize("why", Refusal)
def test_a_refusal_tells_its_reason(why: Refusal) -> None:
    """In the place of the challenge or of the answer the source is told what is wrong."""
    with pytest.raises(AuthenticationFailed, match=why.reason):
        source().prove(refusal(why))
    ours = source()
    ours.prove(dest(ours.opening).challenge)
    with pytest.raises(AuthenticationFailed, match=why.reason):
        ours.check(refusal(why))


@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"HTTP/1.1 400 Bad Request"])
def test_garbage_is_no_challenge(garbage: bytes) -> None:
    """What is neither a challenge nor a refusal comes from somebody else."""
    with pytest.raises(AuthenticationFailed, match="no destination that knows the secret"):
        source().prove((garbage * CHALLENGE_BYTES)[:CHALLENGE_BYTES])


def test_a_role_that_is_none() -> None:
    """An opening for a role that no connection has is refused."""
    spoiled = bytearray(source().opening)
    spoiled[len(TAG)] = len(Channel)
    with pytest.raises(AuthenticationFailed, match="role 2"):
        dest(bytes(spoiled))


def test_first_bytes_tell_languages_apart() -> None:
    """An opening is taken neither for a frame, whose length begins with 0, nor for TLS."""
    assert TAG[0] not in (0, 0x16)
    assert refusal(Refusal.TLS_DEMANDED)[: len(TAG)] != TAG
