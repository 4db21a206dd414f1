"""Every error that fedloom raises on purpose.

Error:
    ├── ConfigError        an experiment file or a ``--set`` breaks rules: all violations at once
    ├── ComponentError     a name that nothing provides, or an argument outside its range
    ├── MissingExtra       an optional package is not installed: names the extra
    ├── PipelineError      stages in an order that cannot work
    ├── PlanError          an experiment whose parts do not fit together
    ├── DataError          rows, columns or labels that cannot be used as they are
    │   └── NoRows         a file, query or client that has none
    ├── CodecError         bytes that are not the message they claim to be
    ├── StoreError         a run folder or index that cannot be read, written or owned
    │   ├── CorruptBlob    a content that is not the one its digest names
    │   └── StoreWentBack  a coordinator's store that is older than this site has seen it, or another
    ├── BudgetError        a release that the privacy budget of a data set does not cover
    ├── AlgorithmError     the server step of an algorithm raised, or gave numbers that are not finite
    ├── SumAborted         a client side of a secure sum was asked for what it must not answer: it is over
    ├── TrustError         a certificate, token, signature, roster or list on which nothing may rest: names the reason
    ├── TransportError     a peer that cannot be reached, says no, or is not who it should be
    ├── WorkerError        a process of an engine ended, or raised what is no client's failure
    └── RunStopped         a run that could not go on: too few updates, by the policy

What happens to *a client* is a value (``core.messages.Failure``), never an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class Error(Exception):
    """Base class of all errors that fedloom raises on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One rule that a setting breaks, and where.

    ``where`` is ``file:line`` or the name of the flag, ``path`` the dotted key.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        """Return the violation as one line, place first, as compilers do."""
        return f"{self.where}: {self.path}: {self.message}"


class ConfigError(Error):
    """A file or flag breaks one or more rules; carries all of them."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(str(violation) for violation in self.violations))


class ComponentError(Error):
    """A component that does not exist, or an argument that it cannot take."""


class MissingExtra(Error):
    """An optional package is absent."""

    def __init__(self, feature: str, *, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{feature} needs the `{extra}` extra: pip install 'fedloom[{extra}]'")


class PipelineError(Error):
    """A stage received a wire type that it cannot work on."""

    def __init__(self, stage: str, *, received: object, advice: str) -> None:
        self.stage = stage
        self.received = received
        self.advice = advice
        super().__init__(f"{stage} received {received}. {advice}")


class PlanError(Error):
    """The parts of an experiment do not fit together."""


class DataError(Error):
    """Rows, columns or labels that cannot be used as they are."""


class NoRows(DataError):
    """There is nothing to read: a file without rows, a query that gives none."""


class CodecError(Error):
    """Bytes that do not decode into what was expected."""


class StoreError(Error):
    """A run folder or the index of runs cannot be read, written or owned."""


class CorruptBlob(StoreError):
    """A content is not the one that its digest names."""


class StoreWentBack(StoreError):
    """A coordinator's store is older than, or another than, the one that a site has worked with."""


class BudgetError(Error):
    """The privacy budget of a data set does not cover what is asked, or a release is not what was reserved."""


class AlgorithmError(Error):
    """The server step of an algorithm raised, or its result is not finite."""


class SumAborted(Error):
    """A client side of a secure sum was asked for what it must not answer: it has ended, and its secrets are gone."""


TrustReason = Literal[
    "unreadable",  # it is not what it should be, whoever made it
    "not_yet_valid",
    "expired",
    "other_authority",  # a certificate, but under another root
    "broken_chain",
    "wrong_usage",  # a server's certificate as a client's, or the reverse
    "wrong_federation",
    "wrong_name",
    "key_mismatch",
    "no_possession",  # a request that does not show that its sender has the keys
    "token_unknown",
    "token_used",
    "token_expired",
    "denied",
    "not_signed",
    "went_back",  # an older version than one that was seen, or another one of the same number
    "not_approved",
    "wrong_sender",
    "wrong_receiver",
    "changed_body",
    "replayed",
    "wrong_passphrase",
]


class TrustError(Error):
    """Something on which nothing may rest. ``reason`` is for programs, and stays the same when the words change."""

    def __init__(self, message: str, *, reason: TrustReason) -> None:
        self.reason: TrustReason = reason
        super().__init__(message)


class TransportError(Error):
    """A peer cannot be reached, says no, or is not who it should be."""


class WorkerError(Error):
    """A process that computes clients ended, or raised what is no failure of a client."""


class RunStopped(Error):
    """A run could not go on; what was reached is kept and can be resumed."""
