"""Who shares masks with whom: all pairs of clients, or a random k-regular graph with a planned ``k`` and ``t``."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fedloom.errors import Error, PlanError

_LABEL = b"fedloom/sa/v1/graph"
_SEED_BYTES = 32
_FEWEST = 4
"""Three clients with two neighbours each are all linked."""
_FEWEST_SHARES = 2
"""A secret that one share rebuilds is not shared."""
_MOST_BITS = 256
"""Nobody needs a failure rarer than 2**-256; a float holds it with room to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """How many neighbours each client has, how many of their shares rebuild its secrets, and for which losses.

    Security: Semi-honest server. The corrupt and the lost clients do not depend on the graph: they are what they are
        before it is drawn. An active server, or one that chooses who is lost with the graph before it, is outside.

    Args:
        clients: Clients invited, ``n``.
        neighbours: Neighbours of each client, ``k``; even.
        threshold: Shares that rebuild a secret, ``t``, of the ``k`` that its neighbours hold.
        corrupt: Largest share of the clients that side with the server, ``gamma``.
        dropout: Largest share of the clients that are lost by the end of the session, ``delta``.
        security_bits: Each event that would tell a vector has a probability of at most ``2**-security_bits``.
        correctness_bits: The sum cannot be opened with a probability of at most ``2**-correctness_bits``.
    """

    clients: int
    neighbours: int
    threshold: int
    corrupt: float
    dropout: float
    security_bits: float = 40
    correctness_bits: float = 30

    @property
    def colluders(self) -> int:
        """Return the largest number of corrupt clients planned for."""
        return _count(self.corrupt, self.clients)

    @property
    def losses(self) -> int:
        """Return the largest number of lost clients planned for.

        When more are lost, the survivors need not be connected, and the sums of their parts would be open: no client
        may help to open a sum with fewer than ``clients - losses`` vectors.
        """
        return _count(self.dropout, self.clients)


def plan_graph(
    clients: int,
    *,
    corrupt: float,
    dropout: float,
    absent: float | None = None,
    neighbours: int | None = None,
    threshold: int | None = None,
    security_bits: float = 40,
    correctness_bits: float = 30,
) -> GraphPlan:
    """Return the smallest even number of neighbours for which a threshold exists, and the smallest such threshold.

    With ``c = ceil(corrupt n)`` and ``l = ceil(dropout n)`` clients corrupt and lost, ``m = c + l``, of the lost
    ``a = ceil(absent n)`` before the graph is drawn, and as neighbours of a client a uniform ``k``-subset of the
    others in it:

    1. no client has ``t`` corrupt neighbours: ``n P[H(n - a - 1, c, k) >= t] <= 2**-security_bits``;
    2. the honest survivors are connected: ``n (m / n)**(k / 2) <= 2**-security_bits``;
    3. every client has ``t`` surviving neighbours: ``n P[H(n - 1, n - 1 - l, k) < t] <= 2**-correctness_bits``.

    ``H`` is hypergeometric; its tails are compared as integers, so no rounding can let a plan pass. For 2: on the
    ring, the survivors fall apart only where ``k / 2`` clients in a row are gone, and such a row starts at one of
    ``n`` places. Losses before the drawing help 2 and 3, which are therefore stated without any; they harm 1, since all
    corrupt clients turn up. The threshold is 2 at least: a secret that one share rebuilds is not shared.

    Security: As ``GraphPlan``. An honest vector could be told by 1 failing or by 2, together with a probability of at
        most ``2**(1 - security_bits)``. With all pairs linked there is no such event: prefer that below about 128
        clients.

    Args:
        clients: Clients invited, ``n``; at least 4.
        corrupt: Largest share of the clients that side with the server, in [0, 1).
        dropout: Largest share of the clients that are lost by the end of the session, in [0, 1).
        absent: Largest share of the clients that are lost before the graph is drawn, at most ``dropout``; left out,
            that. With 0 the graph is drawn of all clients invited, whether they answer or not.
        neighbours: The ``k`` to plan for; left out, the smallest that will do.
        threshold: The ``t`` to plan for; left out, the smallest that will do.
        security_bits: See ``GraphPlan``; above 0, at most 256.
        correctness_bits: See ``GraphPlan``; above 0, at most 256.

    Raises:
        PlanError: When a number is out of its range, or no threshold will do; says for which ``k`` or rate one does.

    Source: Bell, Bonawitz, Gascon, Lepoint and Raykova 2020, "Secure single-server aggregation with
        (poly)logarithmic overhead", ePrint 2020/704, section 3: its three events and its permuted ring. Differs: a
        rate becomes a number of clients by rounding up, and all lost clients are taken to be among the other ``n - 1``
        (both on the safe side); ``absent``, as there the graph is of all clients; 1 and 2 have the bound each, not
        together; of the thresholds that do, the smallest. The bound of 2 is a simple one: parting a ring takes *two*
        such rows, so the true probability is far smaller.

    Example:
        >>> plan = plan_graph(1000, corrupt=0.1, dropout=0.1)
        >>> plan.neighbours, plan.threshold, plan.colluders, plan.losses
        (54, 29, 100, 100)
        >>> all_invited = plan_graph(1000, corrupt=0.1, dropout=0.1, absent=0)
        >>> all_invited.neighbours, all_invited.threshold
        (52, 28)
    """
    for name, rate in (("corrupt", corrupt), ("dropout", dropout)):
        if not 0 <= rate < 1:
            raise PlanError(f"{name} = {rate}: expected a share of the clients, from 0 to below 1")
    if absent is not None and not 0 <= absent <= dropout:
        raise PlanError(f"absent = {absent}: expected a share of the clients from 0 to dropout, which is {dropout}")
    asked = _Asked(
        clients,
        colluders=_count(corrupt, clients),
        losses=_count(dropout, clients),
        absent=_count(dropout if absent is None else absent, clients),
        security_bits=security_bits,
        correctness_bits=correctness_bits,
    )
    _check_ranges(asked, neighbours, threshold)
    found = _fitting(asked, neighbours, threshold)
    if found is None:
        raise PlanError(_advice(asked, neighbours, threshold))
    return GraphPlan(
        clients=clients,
        neighbours=found[0],
        threshold=found[1],
        corrupt=corrupt,
        dropout=dropout,
        security_bits=security_bits,
        correctness_bits=correctness_bits,
    )


def neighbours(seed: bytes, clients: int, degree: int) -> npt.NDArray[np.int64]:
    """Return the neighbours of each client in the graph of a seed, shape ``(clients, degree)``, rows ascending.

    The clients stand on a ring in the order of ``SHA-256(label, clients, degree, seed, client)``, each linked with the
    ``degree / 2`` on either side. So every client has exactly ``degree`` neighbours, a link goes both ways, and the
    graph is connected.

    Security: The graph is public, and drawn after it is settled which clients are corrupt. A server that may choose
        the seed, or try many, can put corrupt clients around an honest one: semi-honest server only.

    Constant time: no; nothing here is secret.

    Args:
        seed: 32 public random bytes.
        clients: Clients in the graph, ``n``.
        degree: Neighbours of each, ``k``: even, below ``n``.

    Raises:
        Error: When the seed is not 32 bytes, or no such graph exists.

    Source: Bell et al. 2020, ePrint 2020/704, section 3: a Harary graph with its places permuted.

    Example:
        >>> neighbours(bytes(32), 5, 2).tolist()
        [[3, 4], [2, 3], [1, 4], [0, 1], [0, 2]]
    """
    if len(seed) != _SEED_BYTES:
        raise Error(f"a graph's seed of {len(seed)} bytes: expected {_SEED_BYTES}")
    if degree < 2 or degree % 2 or degree >= clients:
        raise Error(
            f"a graph of {clients} clients with {degree} neighbours each: expected an even number below {clients}"
        )
    prefix = _LABEL + clients.to_bytes(4, "big") + degree.to_bytes(4, "big") + seed
    order = np.array(
        sorted(range(clients), key=lambda client: hashlib.sha256(prefix + client.to_bytes(4, "big")).digest()), np.int64
    )
    half = np.arange(1, degree // 2 + 1)
    places = np.arange(clients)[:, None] + np.concatenate([-half, half])
    linked = np.empty((clients, degree), np.int64)
    linked[order] = np.sort(order[places % clients], axis=1)
    return linked


def complete(clients: int) -> npt.NDArray[np.int64]:
    """Return the neighbours of each client when all pairs are linked, shape ``(clients, clients - 1)``, rows ascending.

    Security: Nothing here can fail by chance; with ``2t > n + c`` it stands against an active server.

    Raises:
        Error: When there are fewer than 2 clients.

    Example:
        >>> complete(3).tolist()
        [[1, 2], [0, 2], [0, 1]]
    """
    if clients < 2:
        raise Error(f"a graph of {clients} clients: expected 2 or more")
    others = np.arange(clients - 1)
    return others + (others >= np.arange(clients)[:, None])


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a plan is made for, in whole clients."""

    clients: int
    colluders: int
    losses: int
    absent: int
    security_bits: float
    correctness_bits: float


def _count(rate: float, clients: int) -> int:
    """Return a share of the clients in whole clients, rounded up; 0.07 is seven hundredths, not the float beside it."""
    return math.ceil(Fraction(repr(float(rate))) * clients)


def _largest_even(asked: _Asked) -> int:
    return (asked.clients - asked.absent - 1) // 2 * 2


def _check_ranges(asked: _Asked, degree: int | None, threshold: int | None) -> None:
    if asked.clients < _FEWEST:
        raise PlanError(f"a graph of {asked.clients} clients: expected {_FEWEST} or more; below that, link all of them")
    for name, bits in (("security_bits", asked.security_bits), ("correctness_bits", asked.correctness_bits)):
        if not 0 < bits <= _MOST_BITS:
            raise PlanError(f"{name} = {bits}: expected a number above 0 and at most {_MOST_BITS}")
    if degree is not None and (degree < 2 or degree % 2 or degree > _largest_even(asked)):
        present = (
            f"{asked.clients} clients, {asked.absent} of them absent" if asked.absent else f"{asked.clients} clients"
        )
        raise PlanError(
            f"neighbours = {degree} with {present}: expected an even number from 2 to {_largest_even(asked)}; "
            "leave it out for the smallest that will do"
        )
    if threshold is not None and threshold < _FEWEST_SHARES:
        raise PlanError(f"threshold = {threshold}: expected {_FEWEST_SHARES} or more; leave it out for the smallest")


@functools.lru_cache(maxsize=256)
def _fitting(asked: _Asked, degree: int | None = None, threshold: int | None = None) -> tuple[int, int] | None:
    """Return the smallest ``k`` and ``t`` that keep the bounds, of those that are not given."""
    clients, present, others = asked.clients, asked.clients - asked.absent - 1, asked.clients - 1
    gone = Fraction(asked.colluders + asked.losses, clients)
    if gone >= 1:
        return None
    told, unopened = Fraction(2.0**-asked.security_bits), Fraction(2.0**-asked.correctness_bits)
    corrupt, honest, drawings = map(_binomials, (asked.colluders, present - asked.colluders, present))
    lost, kept, subsets = map(_binomials, (asked.losses, others - asked.losses, others))
    for tried in range(2, _largest_even(asked) + 1, 2) if degree is None else (degree,):
        if clients * gone ** (tried // 2) > told:
            continue
        corrupted = _reached(corrupt, honest, tried, allowed=drawings[tried] * told / clients)
        missed = _reached(lost, kept, tried, allowed=subsets[tried] * unopened / clients)
        least, most = max(_FEWEST_SHARES, corrupted), tried - missed + 1
        if least <= (least if threshold is None else threshold) <= most:
            return tried, least if threshold is None else threshold
    return None


def _binomials(total: int) -> list[int]:
    """Return ``C(total, j)`` for ``j`` from 0 to ``total``."""
    row = [1]
    for taken in range(total):
        row.append(row[-1] * (total - taken) // (taken + 1))
    return row


def _reached(marked: Sequence[int], plain: Sequence[int], drawn: int, *, allowed: Fraction) -> int:
    """Return the smallest number, at least 1, that so few subsets have as marked members, or more, as are allowed.

    Args:
        marked: Binomial coefficients of the number of marked members.
        plain: Binomial coefficients of the number of the others.
        drawn: Members of a subset.
        allowed: How many of the subsets may have so many.
    """
    limit, subsets = math.floor(allowed), 0
    for count in range(min(len(marked) - 1, drawn), 0, -1):
        if drawn - count < len(plain):
            subsets += marked[count] * plain[drawn - count]
        if subsets > limit:
            return count + 1
    return 1


def _advice(asked: _Asked, degree: int | None, threshold: int | None) -> str:
    """Say what was asked, that no threshold fits it, and what would."""
    given = f"{asked.clients} clients, {asked.colluders} of them corrupt and {asked.losses} lost"
    bounds = f"2**-{asked.security_bits:g} for secrecy and 2**-{asked.correctness_bits:g} for opening the sum"
    found = _fitting(asked)
    if found is not None:
        fixed = [f"{name} = {value}" for name, value in (("neighbours", degree), ("threshold", threshold)) if value]
        return (
            f"{' and '.join(fixed)} with {given}: that does not keep {bounds}; {found[0]} neighbours do, with the "
            f"threshold {found[1]}: leave neighbours and threshold out to take them"
        )
    ways = [
        *_milder(asked),
        "lower security_bits or correctness_bits",
        "or link all pairs: there nothing fails by chance",
    ]
    return f"{given}: no number of neighbours has a threshold that keeps {bounds}; {', '.join(ways)}"


def _milder(asked: _Asked) -> list[str]:
    """Return the largest dropout that has a plan at the corruption asked for, or else the largest corruption."""
    if most := _most(lambda losses: replace(asked, losses=losses, absent=min(asked.absent, losses)), asked.clients):
        return [f"plan for dropout = {_below(most, asked.clients)} or less"]
    if most := _most(lambda colluders: replace(asked, colluders=colluders, losses=0, absent=0), asked.clients):
        return [f"plan for dropout = 0 with corrupt = {_below(most, asked.clients)} or less"]
    return []


def _most(case: Callable[[int], _Asked], clients: int) -> int:
    """Return the largest number of clients for which a case has a plan, or 0: more of them never make it easier."""
    low, high = 0, clients
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fitting(case(middle)) else (low, middle)
    return low


def _below(count: int, clients: int) -> float:
    """Return a share of at most ``count`` clients, to three places."""
    return count * 1000 // clients / 1000
