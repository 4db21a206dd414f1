"""Epoch: which start of which store this is, so that a peer notices a store that was restored or copied."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedloom.errors import StoreError
from fedloom.store.ledger_head import Head, parse_head

Verdict: TypeAlias = Literal["first", "same", "later", "older", "copy", "other"]
"""What an epoch is after the one seen last. ``older``, ``copy``: restored from a backup, or run twice. ``other``:
another store was made in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One start of a store: ``store`` names it from its first day on, ``start`` counts, ``nonce`` is drawn anew.

    Two stores of one name and the same count have drawn different nonces: one is a copy, or came from a backup.
    """

    store: str
    start: int
    nonce: str

    def __str__(self) -> str:
        """Return the epoch as it travels.

        Example:
            >>> str(Epoch(store="0f" * 8, start=3, nonce="ab" * 8))
            '0f0f0f0f0f0f0f0f:3:abababababababab'
        """
        return f"{self.store}:{self.start}:{self.nonce}"

    def next(self) -> Epoch:
        """Return the epoch of the next start."""
        return Epoch(store=self.store, start=self.start + 1, nonce=secrets.token_hex(8))


def before_first() -> Epoch:
    """Return the epoch of a store that has never started, with a name of its own."""
    return Epoch(store=secrets.token_hex(8), start=0, nonce="0" * 16)


def parse_epoch(text: str) -> Epoch:
    """Return the epoch that a text names.

    Raises:
        StoreError: When it names none.

    Example:
        >>> parse_epoch("0f0f0f0f0f0f0f0f:3:abababababababab").start
        3
    """
    found = re.fullmatch(r"([0-9a-f]{16}):([0-9]{1,18}):([0-9a-f]{16})", text)
    if found is None:
        raise StoreError(f"epoch {text!r}: expected STORE:START:NONCE, as a store's Hello carries it")
    return Epoch(store=found[1], start=int(found[2]), nonce=found[3])


def compare(last: Epoch | None, now: Epoch) -> Verdict:
    """Return what an epoch is to a peer that saw ``last`` before; None: it has seen none.

    Example:
        >>> five = Epoch(store="0f" * 8, start=5, nonce="ab" * 8)
        >>> compare(None, five), compare(five, five), compare(five, five.next()), compare(five.next(), five)
        ('first', 'same', 'later', 'older')
        >>> compare(five, Epoch(store="0f" * 8, start=5, nonce="cd" * 8))
        'copy'
    """
    if last is None:
        return "first"
    if last.store != now.store:
        return "other"
    if last.start != now.start:
        return "later" if now.start > last.start else "older"
    return "same" if last.nonce == now.nonce else "copy"


def head_text(head: Head | None) -> str | None:
    """Return a head as it is kept; None for none, and for that of an empty chain."""
    return None if head is None or head.rows == 0 else str(head)


def went_back(before: str | None, now: Head | None) -> bool:
    """Return whether a head is behind the one that was seen before, or another of as many rows.

    Example:
        >>> seen = str(Head(7, "0f" * 32))
        >>> went_back(seen, Head(8, "ab" * 32)), went_back(seen, Head(6, "ab" * 32)), went_back(seen, None)
        (False, True, True)
    """
    if before is None:
        return False
    last = parse_head(before)
    return now is None or now.rows < last.rows or (now.rows == last.rows and now.sha256 != last.sha256)
