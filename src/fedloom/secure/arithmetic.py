"""ArithmeticServer: the sum that a secure aggregator gives, without its messages; for simulation."""

from __future__ import annotations

from collections.abc import Sequence

from fedloom.core.aggregator import Abort, Continue, Finish, Payload, SumPart
from fedloom.core.ids import ClientId
from fedloom.pipeline.plain_sum import PlainSumServer


class ArithmeticServer:
    """Adds the vectors in the open, and gives no sum of fewer than ``fewest``: the outcome of the protocol, no secrecy.

    Sums in Z_m are exact, so this and the protocol give the same bytes for the same clients.
    """

    def __init__(self, cohort: Sequence[ClientId], fewest: int, *, inner: PlainSumServer | None = None) -> None:
        self._cohort = cohort
        self._fewest = fewest
        self._inner = PlainSumServer(cohort) if inner is None else inner

    def receive(self, sender: ClientId, message: Payload) -> None:
        """Fold one client's vector in."""
        self._inner.receive(sender, message)

    def lose(self, client: ClientId) -> None:
        """Leave a client out."""
        self._inner.lose(client)

    def advance(self) -> Continue | Finish | Abort:
        """Return the sum when every client has sent or is lost, if enough have sent."""
        outcome = self._inner.advance()
        match outcome:
            case Finish(_, included) if len(included) < self._fewest:
                return too_few(len(included), len(self._cohort), fewest=self._fewest)
            case Abort():
                return too_few(0, len(self._cohort), fewest=self._fewest)
        return outcome

    def partial(self) -> ArithmeticServer:
        """Return an empty server of the same cohort."""
        return ArithmeticServer(self._cohort, self._fewest, inner=self._inner.partial())

    def merge(self, other: ArithmeticServer) -> None:
        """Fold in another server's sum of other clients of the same cohort."""
        self._inner.merge(other._inner)

    def export(self) -> SumPart:
        """Return what this partial server has received; it is of no use afterwards."""
        return self._inner.export()

    def absorb(self, part: SumPart) -> None:
        """Fold in what a partial server of another process has received."""
        self._inner.absorb(part)


def too_few(sent: int, invited: int, *, fewest: int) -> Abort:
    """Return the end of a sum that too few clients are in: a sum of few tells of each.

    Example:
        >>> too_few(2, 5, fewest=3).reason
        '2 of 5 clients are in the sum; it is opened from 3 on'
    """
    return Abort(f"{sent} of {invited} clients are in the sum; it is opened from {fewest} on")
