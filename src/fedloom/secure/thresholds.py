"""How many clients must answer before a masked sum is opened, and how many of them may be false: arithmetic alone.

``n`` is the number of clients *invited*, ``t`` the threshold of the secret sharing, ``c`` the number of colluders:
clients that hand all they hold to the server.
"""

from __future__ import annotations

import math

from fedloom.errors import PlanError

_FEWEST_INVITED = 3
"""The sum of two tells each of them what the other gave."""
_HONEST_SURVIVORS = 2
"""From a sum with one honest vector the colluders subtract their own, and hold that vector."""


def default_threshold(invited: int) -> int:
    """Return ``floor(2n/3) + 1``: it stands against a third of the clients, and survives the loss of almost a third.

    Security: Against an active server with up to ``n/3`` colluders (``2t > n + c``); on the complete graph.

    Raises:
        PlanError: When fewer than 3 clients are invited.

    Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning": its threshold
        against an active server.

    Example:
        >>> [default_threshold(invited) for invited in (3, 4, 5, 10)]
        [3, 3, 4, 7]
    """
    _check_invited(invited)
    return 2 * invited // 3 + 1


def default_colluders(invited: int) -> int:
    """Return the colluders assumed when none are stated: one from four clients on, none among three.

    Of three clients, one that colludes leaves the other two hidden behind each other only.

    Raises:
        PlanError: When fewer than 3 clients are invited.

    Example:
        >>> default_colluders(3), default_colluders(4)
        (0, 1)
    """
    _check_invited(invited)
    return 0 if invited == _FEWEST_INVITED else 1


def largest_colluders(invited: int, threshold: int) -> int:
    """Return the largest ``c`` with ``2t > n + c``.

    Raises:
        PlanError: When the threshold does not stand even with no colluder.

    Example:
        >>> [largest_colluders(invited, default_threshold(invited)) for invited in (3, 4, 5, 10)]
        [2, 1, 2, 3]
    """
    check_threshold(invited, threshold, 0)
    return 2 * threshold - invited - 1


def check_threshold(invited: int, threshold: int, colluders: int) -> None:
    """Refuse a threshold at which a server could have one client's mask and its seed both, from two groups of clients.

    A server that lies about who survived asks one group for the shares of a client's self seed and another, disjoint
    one for those of its mask key. The ``n - c`` honest clients answer once each, the ``c`` colluders in both groups:
    both reach ``t`` only if ``2t <= n + c``.

    Security: Active server with ``colluders`` clients; complete graph. A server that follows the protocol needs only
        ``t > c``, which this implies.

    Args:
        invited: Clients invited, ``n``; not those that answered.
        threshold: Shares that rebuild a secret, ``t``.
        colluders: Clients assumed to share all they hold with the server, ``c``.

    Raises:
        PlanError: Unless ``n >= 3``, ``c >= 0``, ``1 <= t <= n`` and ``2t > n + c``.

    Example:
        >>> check_threshold(10, 7, 3)
        >>> check_threshold(10, 7, 4)
        Traceback (most recent call last):
        fedloom.errors.PlanError: threshold = 7 with 10 clients invited and 4 colluders assumed: expected ...
    """
    _check_invited(invited)
    if colluders < 0:
        raise PlanError(f"colluders = {colluders}: expected 0 or more; state how many clients may side with the server")
    if not 1 <= threshold <= invited:
        raise PlanError(
            f"threshold = {threshold} with {invited} clients invited: expected 1 to {invited}; "
            f"leave it out for {default_threshold(invited)}"
        )
    if 2 * threshold <= invited + colluders:
        raise PlanError(
            f"threshold = {threshold} with {invited} clients invited and {colluders} colluders assumed: expected "
            f"2 * threshold > {invited + colluders}, or two groups of clients could answer for one client in two ways; "
            f"{_ways_out(invited, threshold, colluders)}"
        )


def fewest_survivors(invited: int, *, threshold: int, colluders: int, least: int = 3, quorum: float = 0.8) -> int:
    """Return how many masked vectors must have arrived before any client helps to open their sum.

    ``max(least, ceil(quorum * n), t, c + 2)``: the policy of the federation, what rebuilding needs, and two honest
    vectors in every sum.

    Security: In a sum of that many, every honest vector has at least one other honest one beside it. No more is
        promised: masking does not limit what an exact sum of few tells.

    Args:
        invited: Clients invited, ``n``.
        threshold: Shares that rebuild a secret, ``t``.
        colluders: Clients assumed to side with the server, ``c``.
        least: Fewest vectors in any sum.
        quorum: Share of those invited that must be in the sum, in (0, 1].

    Raises:
        PlanError: When more would be needed than are invited, or ``least`` or ``quorum`` is out of its range.

    Example:
        >>> fewest_survivors(10, threshold=7, colluders=1)
        8
    """
    _check_invited(invited)
    if least < 1:
        raise PlanError(f"min_survivors = {least}: expected 1 or more")
    if not 0 < quorum <= 1:
        raise PlanError(f"quorum = {quorum}: expected a share of the clients invited, above 0 and at most 1")
    if colluders < 0:
        raise PlanError(f"colluders = {colluders}: expected 0 or more; state how many clients may side with the server")
    needs = {
        "min_survivors": least,
        "quorum": math.ceil(quorum * invited),
        "threshold": threshold,
        "colluders": colluders + _HONEST_SURVIVORS,
    }
    cause, fewest = max(needs.items(), key=lambda need: need[1])
    if fewest > invited:
        counted = f"colluders = {colluders} and two honest clients" if cause == "colluders" else f"{cause} = {fewest}"
        raise PlanError(
            f"{counted}: {fewest} vectors would have to be in the sum of {invited} clients invited; "
            f"lower {cause} or invite at least {fewest}"
        )
    return fewest


def may_be_missing(invited: int, *, threshold: int, colluders: int, least: int = 3, quorum: float = 0.8) -> int:
    """Return how many of those invited may be lost before their vectors arrive: ``n`` less the fewest survivors.

    Arguments and errors are those of ``fewest_survivors``. Clients lost afterwards, between their vector and the
    opening, are no loss to the sum as long as ``t`` remain.

    Example:
        >>> may_be_missing(3, threshold=3, colluders=0), may_be_missing(10, threshold=7, colluders=1)
        (0, 2)
    """
    return invited - fewest_survivors(invited, threshold=threshold, colluders=colluders, least=least, quorum=quorum)


def _check_invited(invited: int) -> None:
    if invited < _FEWEST_INVITED:
        raise PlanError(
            f"a secure sum of {invited} invited clients: expected {_FEWEST_INVITED} or more, because the sum of two "
            "tells each what the other gave; invite more clients, or use the plain sum"
        )


def _ways_out(invited: int, threshold: int, colluders: int) -> str:
    """Say which threshold, or which colluders, would do."""
    enough = (invited + colluders) // 2 + 1
    fewer = 2 * threshold - invited - 1
    ways = [f"raise the threshold to {enough}"] if enough <= invited else []
    ways += [f"assume {fewer} colluders or fewer"] if 0 <= fewer < colluders else []
    return " or ".join(ways) or f"assume at most {invited - 1} colluders, with the threshold at {invited}"
