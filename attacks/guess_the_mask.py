"""A mask that can be guessed.

Shipped implementations cut mask seeds to 28 or 32 bits, or fed them to a generator that is not cryptographic; whoever
tries all seeds then has the mask. The attacker knows one client's vector and what it shares with all others, so that
one keystream is left, and looks for a short seed that makes it. The same search finds a mask that was made that way.
fedloom's masks are AES-256 keystreams of 32-byte seeds, of which no bit goes unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from loot import Loot
from scene import NAMES, Federation, secret_bytes
from verdict import Attempt, report

from fedloom.core.ids import ClientId
from fedloom.core.params import Vector
from fedloom.secure.agreement import pair_seed, private_key
from fedloom.secure.masks import add_masks
from fedloom.secure.messages import Advertise, Masked

BITS = 10
"""Of the seeds that are tried: enough to find the control's, few enough for a test."""
DIM = 16
Stream = Callable[[int], Vector]


def attack() -> Iterator[Attempt]:
    streams: Mapping[str, Stream] = {
        "Mersenne Twister": lambda seed: np.random.RandomState(seed).randint(0, 2**32, DIM, dtype=np.uint32),
        "PCG64": lambda seed: np.random.default_rng(seed).integers(0, 2**32, DIM, dtype=np.uint32),
        "fedloom's own keystream, of a short seed": _short,
    }
    mask = _own_mask_of(NAMES[0])
    for what, stream in streams.items():
        found = _seeds(mask, stream)
        yield Attempt(
            tried=f"the mask of a client whose vector is known, {what}: 2**{BITS} seeds",
            seen=f"FOUND: seeds {found}" if found else "refused: no short seed makes a word of it",
            holds=not found,
        )
    weak = streams["PCG64"](837)
    yield Attempt(
        tried="control: a mask that was made of a short seed by PCG64",
        seen=f"found: seed {_seeds(weak, streams['PCG64'])}. The search can see",
        holds=_seeds(weak, streams["PCG64"]) != [837],
        claimed=False,
    )

    # A key that differs in its last bit gives another seed, another stream: no bit of a key goes unused.
    own, other = private_key(secret_bytes("one")), private_key(secret_bytes("other"))
    seed = pair_seed(own, other.public, sid=bytes(32), one="a", other="b")
    whole = _stream(seed)
    alike = [place for place in range(8 * len(seed)) if (_stream(_turned(seed, place)) == whole).any()]
    yield Attempt(
        tried="each of the 256 bits of a mask's seed turned over",
        seen="refused: another stream each time, in every word" if not alike else f"THE SAME WORDS for bits {alike}",
        holds=len(seed) == 32 and not alike,
    )


def _own_mask_of(name: ClientId) -> Vector:
    """Return the mask that a client has put on zeros, less what it shares with the others, who all tell their keys."""
    federation = Federation(4)
    zeros = {each: np.zeros(DIM, np.uint32) for each in federation.names}
    others = [each for each in federation.names if each != name]
    session = federation.session(federation.terms(federation.about(dim=DIM)), vectors=zeros, colluders=others)
    outcome = session.until(2)
    masked = {each: session.ask(each, message) for each, message in outcome.items()}[name]
    assert isinstance(masked, Masked)
    own: Vector = np.frombuffer(masked.vector, "<u4").astype(np.uint32)
    advert = next(said for who, _, said in session.heard if who == name)
    assert isinstance(advert, Advertise)
    sid, keys = session.terms.sid, Loot(session).keys
    shared = {each: pair_seed(private_key(keys[each]), advert.mask, sid=sid, one=name, other=each) for each in others}
    add_masks(own, [(seed, -1 if name < each else 1) for each, seed in shared.items()])
    return own


def _seeds(mask: Vector, stream: Stream) -> list[int]:
    """Return the short seeds whose stream has a word of the mask where the mask has it, added or subtracted."""
    found = []
    for seed in range(1 << BITS):
        words = stream(seed)
        if (words == mask).any() or (-words == mask).any():
            found.append(seed)
    return found


def _short(seed: int) -> Vector:
    return _stream(seed.to_bytes(32, "big"))


def _stream(seed: bytes) -> Vector:
    words: Vector = np.zeros(DIM, np.uint32)
    add_masks(words, [(seed, 1)])
    return words


def _turned(seed: bytes, place: int) -> bytes:
    number = int.from_bytes(seed, "big") ^ (1 << place)
    return number.to_bytes(len(seed), "big")


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
