"""Commitments to a self seed and to shares, so that whoever hands in another value is named."""

from __future__ import annotations

import hashlib

from fedloom.errors import Error
from fedloom.secure.encoding import COMMIT, frame

KINDS = ("mask", "self")
"""Shares of the mask's private key, and of the self seed."""


def commit_seed(*, sid: bytes, owner: str, seed: bytes) -> bytes:
    """Return the commitment of ``owner`` to its self seed: SHA-256 of the label, the session, the owner and the seed.

    Args:
        sid: The session's id.
        owner: Whose seed.
        seed: 32 bytes of entropy, and used in this session only: it has no salt because it needs none.

    Returns:
        32 bytes.

    Security:
        Adversary: the server and other clients, who see the commitment before the seed. It hides a seed of 256 random
        bits if SHA-256 is one-way on them, and binds if SHA-256 is collision resistant. Leaks: whether a guess of the
        seed is right.

    Constant time:
        SHA-256 is; lengths are public.

    Source:
        Ours: a hash as commitment. A hash without salt is enough for a seed of 256 random bits.

    Example:
        >>> commit_seed(sid=bytes(32), owner="north", seed=bytes(range(32))).hex()[:16]
        '4c43448a397b9c1c'
    """
    return hashlib.sha256(frame(COMMIT, sid, owner, seed)).digest()


def commit_share(*, sid: bytes, dealer: str, holder: str, kind: str, share: bytes, salt: bytes) -> bytes:
    """Return the dealer's commitment to one share for one holder.

    Whoever opens it gives the share and the salt; the opening is right if this function gives the signed commitment
    again. Lengths are not checked: an opening of another length gives another commitment.

    Args:
        sid: The session's id.
        dealer: Who split the secret.
        holder: Who receives the share.
        kind: ``"mask"`` or ``"self"``.
        share: As ``shamir.split`` returned it.
        salt: 16 bytes of entropy, of its own for each share.

    Returns:
        32 bytes.

    Raises:
        Error: If the kind is no such word.

    Security:
        Adversary: the server and clients that hold other shares. It hides by 128 random bits even if the share could
        be guessed (taking SHA-256 for a random function), and binds if SHA-256 is collision resistant: nobody opens it
        as another share, for another holder, kind or session. Leaks: nothing.

    Constant time:
        SHA-256 is; lengths are public.

    Source:
        Ours: a salted hash as commitment. Commitments of Feldman would need a group of the order of our field; no
        standard one has it.

    Example:
        >>> share, salt = bytes(33), bytes(range(16))
        >>> one = commit_share(sid=bytes(32), dealer="a", holder="b", kind="self", share=share, salt=salt)
        >>> one == commit_share(sid=bytes(32), dealer="a", holder="b", kind="mask", share=share, salt=salt)
        False
    """
    if kind not in KINDS:
        raise Error(f"a share is of kind {' or '.join(map(repr, KINDS))}; received {kind!r}")
    return hashlib.sha256(frame(COMMIT, sid, dealer, holder, kind, share, salt)).digest()
