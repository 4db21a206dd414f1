"""Roster: who may take part in a federation, and by which key each one signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedloom.core.ids import ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One client as the roster has it."""

    client: ClientId
    organisation: str
    """Whom it belongs to: however many identities one has, they count once."""
    key: bytes
    """Ed25519 public key, 32 bytes."""


class Roster(Protocol):
    """The members that a party has approved. Read-only."""

    @property
    def federation(self) -> str:
        """Name of the federation."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that the roster says."""
        ...

    def member(self, client: ClientId) -> Member | None:
        """Return a member; None: no such client was approved."""
        ...


class Identity(Protocol):
    """A client's own long-term key. It does not print, compare or pickle."""

    @property
    def client(self) -> ClientId:
        """Whose it is."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return an Ed25519 signature, 64 bytes."""
        ...
