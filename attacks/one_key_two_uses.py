"""One key derived twice.

A key derivation without context gives the same key for two purposes, two directions, two sessions: a message of the one
opens in the other, and two streams under one key show the difference of what they hide. This was found in shipped
implementations. Two clients agree here on one X25519 secret; all that may be derived from it must differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from scene import secret_bytes
from verdict import Attempt, error_of, refused, report

from fedloom.secure.agreement import channel_key, open_sealed, pair_seed, private_key, seal, self_seed
from fedloom.secure.commitments import commit_seed, commit_share


def attack() -> Iterator[Attempt]:
    ash, birch = (private_key(secret_bytes(name)) for name in ("ash", "birch"))
    derived: dict[str, bytes] = {}
    for sid in (bytes(32), bytes(31) + b"\1"):
        where = f"session {sid[-1]}"
        for sender, receiver in (("ash", "birch"), ("birch", "ash"), ("as", "hbirch"), ("ashb", "irch")):
            key = channel_key(ash, birch.public, sid=sid, sender=sender, receiver=receiver)
            derived[f"channel {sender} to {receiver}, {where}"] = key
        for one, other in (("ash", "birch"), ("as", "hbirch"), ("ash", "cedar")):
            derived[f"pair mask {one}, {other}, {where}"] = pair_seed(ash, birch.public, sid=sid, one=one, other=other)
        for owner in ("ash", "birch"):
            derived[f"self mask {owner}, {where}"] = self_seed(ash.exchange(birch.public), sid=sid, owner=owner)
            derived[f"seed commitment {owner}, {where}"] = commit_seed(sid=sid, owner=owner, seed=bytes(32))
            for kind in ("mask", "self"):
                committed = commit_share(
                    sid=sid, dealer=owner, holder="cedar", kind=kind, share=bytes(33), salt=bytes(16)
                )
                derived[f"share commitment {owner} {kind}, {where}"] = committed
    values = list(derived.values())
    both = pair_seed(birch, ash.public, sid=bytes(32), one="birch", other="ash")
    agree = both == derived["pair mask ash, birch, session 0"]
    yield Attempt(
        tried=f"{len(values)} derivations from one shared secret, that differ in one word of their context",
        seen="refused: all differ, and where they must not, at the two ends of one mask, they are the same",
        holds=len(set(values)) == len(values) and agree,
    )
    key = derived["channel ash to birch, session 0"]
    sealed = seal(key, b"a share", sid=bytes(32), step=1, sender="ash", receiver="birch")
    for tried, name in (
        ("a sealed share, sent back to its sender", "channel birch to ash, session 0"),
        ("a sealed share, in another session", "channel ash to birch, session 1"),
    ):
        attempt = partial(open_sealed, derived[name], sealed, sid=bytes(32), step=1, sender="ash", receiver="birch")
        yield refused(tried, error_of(attempt))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
