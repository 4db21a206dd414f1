"""The curve test: whether releases with a canary and without it differ by more than a claimed curve allows.

Statistics alone: numbers in, a verdict out. What is released, and how, is in ``audit_layer``.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedloom.core.events import DpEvent, SelfComposedDpEvent
from fedloom.core.params import Vector
from fedloom.errors import ComponentError, PlanError
from fedloom.privacy.accountants import delta_of
from fedloom.privacy.guarantee import Method, check_target

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEVEL = 5e-5
"""Chance that one bound on a rate is wrong; a test needs two."""
FEWEST = 100
"""Releases a side; with fewer not even certainty could be shown."""
_POINTS = 256
"""Points of a claimed curve. Between two of them nothing is tested, so a coarser grid rejects less, never more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claimed curve: at each epsilon the delta of some sums released together.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent
        >>> claim = claim_of(GaussianDpEvent(1.0), sums=2, most_epsilon=5.0)
        >>> len(claim.epsilons), round(claim.deltas[0], 3)
        (256, 0.52)
    """

    event: DpEvent
    """Of one sum, without any sampling."""
    sums: int
    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]

    def allowed(self, rates: Floats) -> Floats:
        """Return how likely an event may be in one world that has these probabilities in the other.

        ``min over eps of e^eps * rate + delta(eps)``
        """
        scales, deltas = np.exp(self.epsilons), np.array(self.deltas)
        found: Floats = np.minimum.reduce(
            [scale * rates + delta for scale, delta in zip(scales, deltas, strict=True)], initial=1.0
        )
        return found

    def testable(self, releases: int) -> bool:
        """Return whether so many releases a side would reject the claim if every one of them were told apart."""
        low, high = bounds(releases - releases // 2)
        return bool(low[-1] > self.allowed(high[:1])[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """An event that tells the worlds apart: one statistic lies on one side of a threshold."""

    statistic: int
    """Which column of what was released."""
    threshold: float
    above: bool
    """Whether the event is a value from the threshold on, or one below it."""
    swapped: bool
    """Whether the event is more likely without the canary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A cut that was fixed on one half of the releases, and how often it happened in the other half."""

    cut: Cut
    hits: int
    false_hits: int
    trials: int
    """In either world."""
    hits_low: float
    """Lower bound on the probability of a hit."""
    false_high: float
    """Upper bound on the probability of a false one."""

    def epsilon_low(self, delta: float) -> float:
        """Return the largest epsilon that this rejects at a delta; 0 where it rejects none."""
        gained = self.hits_low - delta
        return max(0.0, math.log(gained / self.false_high)) if gained > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What two cuts showed of one claim: one looks for the worst break of the curve, one for the largest epsilon."""

    counted: tuple[Counted, Counted]
    rejected: bool
    epsilon_low: float
    """The largest epsilon rejected at the stated delta. A lower bound: absence of evidence is not privacy."""


def claim_of(event: DpEvent, *, sums: int, most_epsilon: float, method: Method = "best") -> Claim:
    """Return what an event claims of so many sums, about one who contributes something or zero.

    Args:
        event: Of one sum.
        sums: Released together.
        most_epsilon: The curve is taken from 0 to here.
        method: How the curve is priced. "gaussian_limit", for integer noise on a fine grid, is no promise, but nearer
            to what the noise is than the proven curve, which leaves room for noise that is too small.

    Raises:
        PlanError: When the event claims nothing at all, or the method cannot price it.
    """
    whole = SelfComposedDpEvent(event, sums)
    epsilons = tuple(np.linspace(0.0, most_epsilon, _POINTS).tolist())
    deltas = tuple(delta_of(whole, epsilon=epsilon, adjacency="zero_out", method=method) for epsilon in epsilons)
    if min(deltas) >= 1:
        raise PlanError(f"{event} claims nothing that an audit could reject: no stage of the pipeline adds noise")
    return Claim(event=event, sums=sums, epsilons=epsilons, deltas=deltas)


def judge(kept: Vector, dropped: Vector, claim: Claim, *, delta: float) -> Verdict:
    """Return whether releases break a claim.

    On the first half of each world two events are fixed, "this statistic lies on this side of this threshold": the one
    that breaks the claimed curve most, and the one that shows the largest epsilon at ``delta``. The second half counts
    them. With ``p`` a lower bound on an event's probability in one world and ``q`` an upper bound in the other, the
    claim is rejected when ``p > e^eps q + delta(eps)`` for some eps of the curve.

    Args:
        kept: Releases with the canary, ``(releases, statistics)``: independent rows.
        dropped: The same without it, as many.
        claim: What is tested.
        delta: At which the largest epsilon is told; 0 for a claim of pure differential privacy.

    Guarantee: A claim that holds is rejected with probability at most ``4 * LEVEL``, 2e-4, for any law of the releases:
        the bounds are exact, the events fixed before the rows that count them are looked at, and one pair of bounds
        serves all epsilons. Values that are no numbers count as infinite.

    Source: Clopper and Pearson 1934 for the bounds; the test is the definition of (epsilon, delta), turned round.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent
        >>> draw = np.random.default_rng(5).standard_normal
        >>> claim = claim_of(GaussianDpEvent(1.0), sums=1, most_epsilon=5.0)
        >>> right = judge(draw((5000, 1)) + 1, draw((5000, 1)), claim, delta=1e-5)
        >>> wrong = judge(draw((5000, 1)) / 3 + 1, draw((5000, 1)) / 3, claim, delta=1e-5)
        >>> right.rejected, wrong.rejected
        (False, True)
    """
    check_target(delta=delta)
    if kept.shape != dropped.shape or kept.ndim != 2 or len(kept) < FEWEST:
        raise ComponentError(
            f"releases of shape {kept.shape} with a canary and {dropped.shape} without: expected equal shapes "
            f"(releases, statistics) of at least {FEWEST} releases"
        )
    with_it, without = _orderable(kept), _orderable(dropped)
    half = len(with_it) // 2
    low, high = bounds(half)
    break_of = _Score(gains=low, costs=claim.allowed(high))
    tiny = np.finfo(np.float64).tiny
    epsilon_of = _Score(gains=np.log(np.maximum(low - delta, tiny)), costs=np.log(high))
    first, second = _best_cuts(with_it[:half], without[:half], (break_of, epsilon_of))
    counted = _counted(with_it[half:], without[half:], first), _counted(with_it[half:], without[half:], second)
    return Verdict(
        counted=counted,
        rejected=any(each.hits_low > claim.allowed(np.array([each.false_high]))[0] for each in counted),
        epsilon_low=max(each.epsilon_low(delta) for each in counted),
    )


def clopper_pearson(hits: int | Counts, trials: int, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return a lower and an upper bound on a probability, each wrong with probability at most ``level``.

    Source: Clopper and Pearson 1934, Biometrika 26: quantiles of beta distributions.

    Example:
        >>> low, high = clopper_pearson(50, 100, level=0.025)
        >>> round(float(low), 4), round(float(high), 4)
        (0.3983, 0.6017)
    """
    from scipy.special import betaincinv

    counts = np.asarray(hits, np.float64)
    missed = trials - counts
    low = np.where(counts > 0, betaincinv(np.maximum(counts, 1.0), missed + 1.0, level), 0.0)
    high = np.where(missed > 0, betaincinv(counts + 1.0, np.maximum(missed, 1.0), 1.0 - level), 1.0)
    return low, high


@functools.lru_cache(maxsize=8)
def bounds(trials: int) -> tuple[Floats, Floats]:
    """Return both bounds for every count of hits, ``0 .. trials``; read-only."""
    low, high = clopper_pearson(np.arange(trials + 1), trials)
    low.setflags(write=False)
    high.setflags(write=False)
    return low, high


def most_epsilon(releases: int) -> float:
    """Return the largest epsilon that an audit of so many releases a side can reject, were the worlds disjoint.

    Raises:
        ComponentError: When the releases are too few to show anything.

    Example:
        >>> round(most_epsilon(5_000), 2)
        5.53
    """
    if releases < FEWEST:
        raise ComponentError(f"{releases} releases: expected at least {FEWEST} releases a side to tell rates from them")
    low, high = bounds(releases - releases // 2)
    return math.log(float(low[-1] / high[0]))


@dataclass(frozen=True, slots=True)
class _Score:
    """``gains[hits] - costs[false hits]``: what an event is worth."""

    gains: Floats
    costs: Floats


def _best_cuts(kept: Vector, dropped: Vector, scores: tuple[_Score, _Score]) -> tuple[Cut, Cut]:
    """Return for each score the cut that is worth most on these releases."""
    nothing = Cut(statistic=0, threshold=math.inf, above=True, swapped=False)
    best = [(-math.inf, nothing), (-math.inf, nothing)]
    for statistic in range(kept.shape[1]):
        ones, zeros = np.sort(kept[:, statistic]), np.sort(dropped[:, statistic])
        thresholds = _between(ones, zeros)
        if not len(thresholds):
            continue
        below = np.searchsorted(ones, thresholds), np.searchsorted(zeros, thresholds)
        sides = {True: (len(ones) - below[0], len(zeros) - below[1]), False: below}
        for number, score in enumerate(scores):
            for above, swapped in itertools.product((True, False), repeat=2):
                hits, false_hits = reversed(sides[above]) if swapped else sides[above]
                worth = score.gains[hits] - score.costs[false_hits]
                place = int(worth.argmax())
                if worth[place] > best[number][0]:
                    threshold = float(thresholds[place])
                    cut = Cut(statistic=statistic, threshold=threshold, above=above, swapped=swapped)
                    best[number] = float(worth[place]), cut
    return best[0][1], best[1][1]


def _between(ones: Floats, zeros: Floats) -> Floats:
    """Return a threshold between any two neighbours among all values."""
    values = np.unique(np.concatenate([ones, zeros]))
    with np.errstate(invalid="ignore"):
        thresholds = values[:-1] / 2 + values[1:] / 2
    found: Floats = np.where(np.isnan(thresholds), 0.0, thresholds)  # between the two infinities
    return found


def _counted(kept: Vector, dropped: Vector, cut: Cut) -> Counted:
    """Return a cut with its counts in releases that did not choose it."""
    happened = [int(((values[:, cut.statistic] >= cut.threshold) == cut.above).sum()) for values in (kept, dropped)]
    hits, false_hits = reversed(happened) if cut.swapped else happened
    low, high = bounds(len(kept))
    return Counted(
        cut=cut,
        hits=hits,
        false_hits=false_hits,
        trials=len(kept),
        hits_low=float(low[hits]),
        false_high=float(high[false_hits]),
    )


def _orderable(values: Vector) -> Floats:
    """Return values in which what is no number is infinite: it tells as much as any other value."""
    found = values.astype(np.float64)
    found[np.isnan(found)] = np.inf
    return found
