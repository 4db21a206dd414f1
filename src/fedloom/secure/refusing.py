"""RefusingServer: the end of a sum whose terms do not hold for the cohort that was drawn."""

from __future__ import annotations

from collections.abc import Sequence

from fedloom.core.aggregator import Abort, Continue, Payload, SumPart
from fedloom.core.ids import ClientId
from fedloom.pipeline.plain_sum import PlainSumServer


class RefusingServer:
    """Hears every client out, keeps nothing of what it hears, and gives no sum."""

    def __init__(self, cohort: Sequence[ClientId], reason: str, *, inner: PlainSumServer | None = None) -> None:
        self._cohort = cohort
        self._reason = reason
        self._inner = PlainSumServer(cohort) if inner is None else inner

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Note that a client has sent."""
        del message
        self._inner.lose(sender)

    def lose(self, client: ClientId) -> None:
        """Note that a client will not send."""
        self._inner.lose(client)

    def advance(self) -> Continue | Abort:
        """Return the reason, when every client has been heard of."""
        heard = self._inner.advance()
        return heard if isinstance(heard, Continue) else Abort(self._reason)

    def partial(self) -> RefusingServer:
        """Return an empty server of the same cohort."""
        return RefusingServer(self._cohort, self._reason, inner=self._inner.partial())

    def merge(self, other: RefusingServer) -> None:
        """Take over whom another server has heard of."""
        self._inner.merge(other._inner)

    def export(self) -> SumPart:
        """Return whom this server has heard of."""
        return self._inner.export()

    def absorb(self, part: SumPart) -> None:
        """Take over whom a server of another process has heard of."""
        self._inner.absorb(part)
