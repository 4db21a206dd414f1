"""Anchors: the one document that all trust of a party rests on, and the fingerprint by which people compare it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom.errors import TrustError
from fedloom.secure.certificates import read_certificates
from fedloom.secure.encoding import frame
from fedloom.secure.fingerprints import fingerprint, same_fingerprint, short_digest, written
from fedloom.secure.peers import check_federation

_LABEL = b"fedloom/pki/v1/anchor"


class _AnchorFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    federation: str
    certificate: str
    signing: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What all trust of a party rests on: its federation's root. Public; its fingerprint comes by another way."""

    federation: str
    certificate: bytes
    """The root's certificate, PEM: channels rest on it."""
    signing: bytes
    """The root's Ed25519 key: rosters and deny lists rest on it."""

    @property
    def short(self) -> bytes:
        """The 20 bytes that a join token carries."""
        return short_digest(self._said())

    @property
    def fingerprint(self) -> str:
        """What people compare: of the name, the certificate and the key together."""
        return fingerprint(self._said())

    def _said(self) -> bytes:
        der = read_certificates(self.certificate)[0].public_bytes(Encoding.DER)
        return frame(_LABEL, self.federation, der, self.signing)

    def stored(self) -> bytes:
        """Return the anchor as a file, or as the coordinator hands it out: JSON."""
        document = _AnchorFile(federation=self.federation, certificate=self.certificate.decode(), signing=self.signing)
        return msgspec.json.format(msgspec.json.encode(document), indent=1)


def open_anchor(data: bytes, *, meant: str | bytes | None) -> Anchor:
    """Return an anchor, if it is the one that was meant.

    Args:
        data: As ``Anchor.stored`` gave it, from whomever.
        meant: Its fingerprint, from a join token (20 bytes) or from a person (a text); None only for one's own file.

    Raises:
        TrustError: ``unreadable``; ``other_authority``, when the fingerprint is another one.

    Security:
        Adversary: whoever answers at the coordinator's address. It is refused unless it shows the root that the
        fingerprint is of.
    """
    try:
        document = msgspec.json.decode(data, type=_AnchorFile)
        found = Anchor(
            federation=document.federation, certificate=document.certificate.encode(), signing=document.signing
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise TrustError(f"this is no anchor of a federation: {error}", reason="unreadable") from error
    check_federation(found.federation)
    if len(found.signing) != 32 or len(read_certificates(found.certificate)) != 1:
        raise TrustError("an anchor is one certificate and one Ed25519 key of 32 bytes", reason="unreadable")
    wanted = written(meant) if isinstance(meant, bytes) else meant
    if wanted is not None and not same_fingerprint(wanted, found.fingerprint):
        raise TrustError(
            f"the federation {found.federation!r} shows the fingerprint {found.fingerprint}; expected {wanted}. "
            "Somebody else answers, or the token is of another federation: do not go on, ask its operator",
            reason="other_authority",
        )
    return found
