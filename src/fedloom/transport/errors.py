"""What goes wrong on the line: a peer says no, or there is no peer.

TransportError:
    ├── Refused        the peer answered, and said no: a ``Refusal`` with a stable code
    ├── Unreachable    no answer for as long as the caller was ready to wait
    ├── PortBusy       another process listens there
    └── TlsFilesError  certificate, key or root that cannot be used
"""

from __future__ import annotations

from enum import StrEnum

from fedloom.errors import TransportError
from fedloom.transport.fields import Message, Name, Seconds, Text


class Code(StrEnum):
    """Stable codes of refusals. A peer of another version may send one that is not listed here."""

    ABORTED = "ABORTED"
    BUSY = "BUSY"
    CORRUPT_UPLOAD = "CORRUPT_UPLOAD"
    DENIED = "DENIED"
    DRAINING = "DRAINING"
    INTERNAL = "INTERNAL"
    LOST_STATE = "LOST_STATE"
    MALFORMED = "MALFORMED"
    NO_SPACE = "NO_SPACE"
    NOT_FOUND = "NOT_FOUND"
    NOT_IN_ROSTER = "NOT_IN_ROSTER"
    STALE_SESSION = "STALE_SESSION"
    TOO_LARGE = "TOO_LARGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    VERSION = "VERSION"
    WEAK_CHANNEL = "WEAK_CHANNEL"


class Refusal(Message, frozen=True):
    """A no: what a program goes by, what a person reads, and what to do."""

    code: Name
    sentence: Text
    remedy: Text = ""
    retryable: bool = False
    retry_after_s: Seconds = 0.0


class Refused(TransportError):
    """A peer said no; a service raises it to say no.

    Example:
        >>> str(Refused(Code.DENIED, "hospital-a is on the deny list.", remedy="Ask the operator."))
        'DENIED: hospital-a is on the deny list. Ask the operator.'
    """

    def __init__(
        self, code: str, sentence: str, *, remedy: str = "", retryable: bool = False, retry_after_s: float = 0.0
    ) -> None:
        self.refusal = Refusal(
            code=str(code)[:200],
            sentence=sentence[:2000],
            remedy=remedy[:2000],
            retryable=retryable,
            retry_after_s=retry_after_s,
        )
        super().__init__(f"{code}: {sentence} {remedy}".rstrip())

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        """Return the exception that a refusal stands for."""
        return cls(
            refusal.code,
            refusal.sentence,
            remedy=refusal.remedy,
            retryable=refusal.retryable,
            retry_after_s=refusal.retry_after_s,
        )


class Unreachable(TransportError):
    """No answer from a peer within the time that the caller gave it."""


class PortBusy(TransportError):
    """Another process listens on the port."""


class TlsFilesError(TransportError):
    """A root, a certificate or a key that cannot be used."""
