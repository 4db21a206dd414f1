"""Loot: every sum that a server could open from all that clients have told it, by whatever means it made them talk."""

from __future__ import annotations

import itertools
from collections import defaultdict

import msgspec
import numpy as np
from scene import Session

from fedloom.core.params import Vector
from fedloom.entropy.secret import Secret
from fedloom.errors import Error
from fedloom.secure.agreement import pair_seed, private_key, self_seed
from fedloom.secure.commitments import commit_seed, commit_share
from fedloom.secure.masks import add_masks
from fedloom.secure.messages import HASH, OPENED, Advertise, Delivery, Masked, Roll, Shares, Unmask
from fedloom.secure.secagg_client import SHARE
from fedloom.secure.shamir import coefficients, combine

KINDS = ("mask", "self")


class Loot:
    """What follows from the clients' answers: secrets that can be rebuilt, and sums that can be opened with them."""

    def __init__(self, session: Session) -> None:
        self._sid = session.terms.sid
        self._threshold = session.terms.rules.threshold
        self._adverts: dict[str, Advertise] = {}
        self._rolls: dict[str, Roll] = {}
        self._shares: dict[str, Shares] = {}
        self._masked: dict[str, Vector] = {}
        self._partners: dict[str, set[str]] = {}
        """Whose masks are in a client's vector, by what that client was told."""
        self.known: dict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)
        """By dealer and kind: right shares, by place."""
        self.seeds: dict[str, bytes] = {}
        self.keys: dict[str, bytes] = {}
        self._colluders = set(session.colluders)
        dtype = np.dtype(session.terms.about.wire.dtype).newbyteorder("<")
        unmasked = []
        for name, asked, answer in session.heard:
            match asked, answer:
                case _, Advertise():
                    self._adverts[name] = answer
                case Roll(), Shares():
                    self._rolls[name], self._shares[name] = asked, answer
                case Delivery(), Masked():
                    self._masked[name] = np.frombuffer(answer.vector, dtype).astype(dtype.newbyteorder("="))
                    self._partners[name] = {self._name(name, parcel.place) for parcel in asked.parcels}
                case _, Unmask():
                    unmasked.append((name, answer.shares))
        for holder, opened in unmasked:
            self._sort(holder, opened)
        for colluder, stored in session.colluders.items():
            self._confess(colluder, stored)
        self._rebuild()

    def _name(self, told: str, place: int) -> str:
        return next(entry.client for entry in self._rolls[told].entries if entry.place == place)

    def _place(self, dealer: str, holder: str) -> int:
        """Return where a dealer has evaluated its shares for a holder: by the roll that the dealer was told."""
        return next(entry.place for entry in self._rolls[dealer].entries if entry.client == holder)

    def _sort(self, holder: str, shares: bytes) -> None:
        """Find out of which dealer and kind each opened share is: its commitment says it."""
        opened = [shares[start : start + OPENED] for start in range(0, len(shares), OPENED)]
        for dealer, kind, share in itertools.product(self._shares, KINDS, opened):
            self._note(dealer, kind, holder, share)

    def _note(self, dealer: str, kind: str, holder: str, opened: bytes) -> None:
        holders = [entry.client for entry in self._rolls[dealer].entries]
        if holder not in holders:
            return
        start = HASH * (2 * holders.index(holder) + KINDS.index(kind))
        promised = self._shares[dealer].commitments[start : start + HASH]
        share, salt = opened[:SHARE], opened[SHARE:]
        if commit_share(sid=self._sid, dealer=dealer, holder=holder, kind=kind, share=share, salt=salt) == promised:
            self.known[dealer, kind][self._place(dealer, holder)] = share

    def _confess(self, name: str, stored: bytes) -> None:
        """Take what a colluder has: shares of both kinds, and its own secrets."""
        if not stored:
            return
        state = msgspec.msgpack.decode(stored)
        for place, mask, seed in state["held"]:
            dealer = self._name(name, place)
            self._note(dealer, "mask", name, mask)
            self._note(dealer, "self", name, seed)
        own = Secret(state["root"], derived=state["derived"])
        self.keys[name] = own.child("key", "mask").random_bytes(32)
        self.seeds[name] = own.child("seed").random_bytes(32)

    def _rebuild(self) -> None:
        for (dealer, kind), shares in self.known.items():
            if len(shares) < self._threshold:
                continue
            places = sorted(shares)[: self._threshold]
            try:
                secret = combine([shares[place] for place in places], coefficients(places))
            except Error:
                continue
            if kind == "mask" and private_key(secret).public == self._adverts[dealer].mask:
                self.keys[dealer] = secret
            if kind == "self" and commit_seed(sid=self._sid, owner=dealer, seed=secret) == self._shares[dealer].seed:
                self.seeds[dealer] = secret

    def has(self, dealer: str, kind: str, *, holder: str) -> bool:
        """Return whether a holder has given away its share of a secret."""
        return self._place(dealer, holder) in self.known.get((dealer, kind), {})

    def sums(self) -> dict[frozenset[str], Vector]:
        """Return every sum over honest clients that can be computed, by whose vectors are in it.

        A set of vectors can be opened if each one's own mask is known, and each mask that it shares with somebody
        outside of the set: one of the two keys is enough. What colluders have sent is known and left out.
        """
        honest = sorted(set(self._masked) & set(self.seeds) - self._colluders)
        found = {}
        for size in range(1, len(honest) + 1):
            for chosen in itertools.combinations(honest, size):
                total = self._open(frozenset(chosen))
                if total is not None:
                    found[frozenset(chosen)] = total
        return found

    def _open(self, chosen: frozenset[str]) -> Vector | None:
        masks: list[tuple[bytes, int]] = []
        for name in chosen:
            masks.append((self_seed(self.seeds[name], sid=self._sid, owner=name), -1))
            for other in self._partners[name]:
                if other in chosen and name in self._partners[other]:
                    continue  # added by the one and subtracted by the other
                owner = name if name in self.keys else other
                if owner not in self.keys:
                    return None
                theirs = self._adverts[other if owner == name else name].mask
                seed = pair_seed(private_key(self.keys[owner]), theirs, sid=self._sid, one=name, other=other)
                masks.append((seed, -1 if name < other else 1))
        total: Vector = np.sum(
            [self._masked[name] for name in chosen], axis=0, dtype=next(iter(self._masked.values())).dtype
        )
        add_masks(total, masks)
        return total


def openable(session: Session) -> tuple[frozenset[str], ...]:
    """Return the sets of honest clients whose sums could be opened from all that was said in a session."""
    return tuple(Loot(session).sums())
