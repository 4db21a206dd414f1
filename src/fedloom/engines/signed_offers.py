"""Signed offers: what a coordinator asks of a site, under its own signature, and how a site looks at one.

The line says who is at its other end now. The signature says it afterwards too: before an auditor, and of a task that
came out of a store that somebody else wrote into.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import structs

from fedloom.core.ids import ClientId, RunId
from fedloom.core.roster import Identity, Roster
from fedloom.errors import Error, TrustError
from fedloom.secure.envelopes import Header, Seen, body_digest, check_envelope, judge, read_envelope, seal_envelope
from fedloom.secure.peers import COORDINATOR
from fedloom.transport import verbs

_ORDER = {"query": 0, "train": 1, "evaluate": 2}
_BITS = {"phase": 7, "round": 32, "program": 2, "retry": 12, "step": 6}
_NEVER = (1 << 63) - 1
"""An offer stands until its round is over, which no clock tells."""


def signed_offer(offer: verbs.Offer, identity: Identity, *, federation: str, site: ClientId) -> verbs.Offer:
    """Return an offer with the coordinator's signature: the same bytes, however often it is repeated.

    Args:
        offer: For the site.
        identity: The coordinator's.
        federation: Its name.
        site: Whom it is for.

    Raises:
        Error: When the task is numbered beyond what an envelope can hold.

    Security:
        Adversary: one who can write into the coordinator's store or change what passes, and has not its signing key:
        kind, place in the run and digests of all contents are signed. One who has the key signs what he likes, and
        cannot deny it. The time that is left is not signed: it changes, and decides nothing at the site.
    """
    key = offer.key
    header = Header(
        federation=federation,
        sender=ClientId(COORDINATOR),
        receiver=site,
        run=RunId(key.run),
        round=key.round,
        retry=key.retry,
        step=key.step,
        message_id=hashlib.sha256(offer.task.encode()).digest()[:16],
        sequence=_place(key),
        expires_at=_NEVER,
    )
    return structs.replace(offer, envelope=seal_envelope(_said(offer), header, identity).stored())


def check_offer(offer: verbs.Offer, members: Roster, *, key: bytes, site: ClientId, newest: Seen | None) -> Seen:
    """Return what to remember of an offer, if the coordinator has signed it and it is no older one again.

    Args:
        offer: As it came.
        members: The roster in force here.
        key: The coordinator's, as this site's operator has approved it.
        site: This one.
        newest: Offer of the run that was acted on last; None: there was none.

    Raises:
        TrustError: ``not_signed``, ``changed_body``, ``replayed``, or as ``secure.envelopes.open_envelope``.
    """
    if not offer.envelope:
        raise TrustError("the offer is not signed, and the roster has a key of the coordinator", reason="not_signed")
    opened = read_envelope(offer.envelope)
    header = check_envelope(opened, _said(offer), members, sender=ClientId(COORDINATOR), receiver=site, key=key)
    named = (header.run, header.round, header.retry, header.step, header.sequence)
    asked = offer.key
    if named != (asked.run, asked.round, asked.retry, asked.step, _place(asked)):
        raise TrustError("the envelope is of another task than the offer", reason="changed_body")
    return judge(newest, opened).seen


def _said(offer: verbs.Offer) -> bytes:
    said: Any = structs.replace(offer, deadline_s=None, envelope=b"")
    return body_digest(msgspec.msgpack.encode(said))


def _place(key: verbs.TaskKey) -> int:
    """Return the place of a task among all of its run: a later one has a higher number, and nothing is counted."""
    parts = {"phase": key.phase, "round": key.round, "program": _ORDER.get(key.program, 3), "retry": key.retry,
             "step": key.step}  # fmt: skip
    number = 0
    for name, bits in _BITS.items():
        if not 0 <= parts[name] < 1 << bits:
            raise Error(f"a task of {name} {parts[name]}: expected a number below {1 << bits}")
        number = number << bits | parts[name]
    return number
