"""Privacy loss distributions of dp_accounting: which releases they can price, and on how fine a grid of losses."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fedloom.core.events import (
    DiscreteGaussianDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.errors import PlanError
from fedloom.privacy.analytic import gaussian_mu, gaussian_multiplier, pure_leaf, reach_of
from fedloom.privacy.guarantee import Adjacency
from fedloom.privacy.leaves import Leaf, noises

Pld: TypeAlias = Any  # dp_accounting has no types
_MOST_PURE = 300.0
"""A larger epsilon of one release is beyond what a grid of losses can hold."""


@functools.lru_cache(maxsize=16)
def composed_losses(found: tuple[tuple[Leaf, int], ...], adjacency: Adjacency) -> Pld:
    """Return the composed distribution; equal rounds are composed with themselves, not one by one."""
    for leaf, _ in found:
        _check_pld(leaf)
        pure = pure_leaf(leaf, reach=reach_of(adjacency))
        if _MOST_PURE < pure < math.inf:
            raise PlanError(f"{leaf}: costs an epsilon of {pure:g} each time, which no grid of losses holds.")
    interval = _interval(found, reach_of(adjacency))
    gaussian = gaussian_mu(
        {leaf: count for leaf, count in found if isinstance(leaf, GaussianDpEvent)}, reach=reach_of(adjacency)
    )
    whole: Pld = None
    for leaf, count in found:
        if isinstance(leaf, GaussianDpEvent):
            continue
        one = _leaf_pld(leaf, adjacency, interval)
        many = one.self_compose(count) if count > 1 else one
        whole = many if whole is None else whole.compose(many)
    if gaussian:
        noise = _leaf_pld(GaussianDpEvent(reach_of(adjacency) / gaussian), adjacency, interval)
        whole = noise if whole is None else whole.compose(noise)
    return whole


def _check_pld(leaf: Leaf) -> None:
    """Refuse what privacy loss distributions cannot price."""
    match leaf:
        case SampledWithoutReplacementDpEvent():
            raise PlanError(
                f"{leaf}: no privacy loss distribution for a sample of fixed size. Use Renyi divergences under "
                'adjacency="replace_one", or sample by poisson().'
            )
        case PoissonSampledDpEvent() | TruncatedPoissonSampledDpEvent():
            inner = noises(leaf.event)
            for noise in inner:
                _check_pld(noise)
            gaussian = gaussian_multiplier(leaf.event) is not None
            one_laplace = len(inner) == 1 and isinstance(leaf, PoissonSampledDpEvent)
            if not gaussian and not one_laplace:
                raise PlanError(f"{leaf}: no privacy loss distribution for this noise on such a sample.")
        case DiscreteGaussianDpEvent():
            raise PlanError(
                f"{leaf}: no privacy loss distribution is proven for integer noise in many dimensions. Use "
                'method="rdp", or "gaussian_limit" beside it.'
            )
        case _:
            return


@functools.lru_cache(maxsize=32)
def _leaf_pld(leaf: Leaf, adjacency: Adjacency, interval: float) -> Pld:
    import dp_accounting
    from dp_accounting.pld import common, privacy_loss_distribution

    relation = {
        "zero_out": dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
        "add_remove": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace_one": dp_accounting.NeighboringRelation.REPLACE_ONE,
    }[adjacency]
    reach = reach_of(adjacency)
    match leaf:
        case GaussianDpEvent():
            # Under replace-one this one doubles the distance itself.
            return privacy_loss_distribution.from_gaussian_mechanism(
                leaf.noise_multiplier, value_discretization_interval=interval, neighboring_relation=relation
            )
        case LaplaceDpEvent():
            return privacy_loss_distribution.from_laplace_mechanism(
                leaf.noise_multiplier / reach, value_discretization_interval=interval
            )
        case PoissonSampledDpEvent():
            multiplier = gaussian_multiplier(leaf.event)
            if multiplier is not None:
                return privacy_loss_distribution.from_gaussian_mechanism(
                    multiplier,
                    value_discretization_interval=interval,
                    sampling_prob=leaf.rate,
                    neighboring_relation=relation,
                )
            ((noise, count),) = noises(leaf.event).items()
            if isinstance(noise, LaplaceDpEvent) and count == 1 and reach == 1:
                return privacy_loss_distribution.from_laplace_mechanism(
                    noise.noise_multiplier, value_discretization_interval=interval, sampling_prob=leaf.rate
                )
        case TruncatedPoissonSampledDpEvent():
            return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
                dataset_size=leaf.population,
                sampling_probability=leaf.rate,
                truncated_batch_size=leaf.most,
                noise_multiplier=gaussian_multiplier(leaf.event),
                value_discretization_interval=interval,
                neighboring_relation=relation,
            )
        case _:
            pass
    pure = pure_leaf(leaf, reach=reach)
    return privacy_loss_distribution.from_privacy_parameters(
        common.DifferentialPrivacyParameters(pure, 0.0), value_discretization_interval=interval
    )


def _interval(found: Sequence[tuple[Leaf, int]], reach: float) -> float:
    """Return the width of the grid of losses, a power of two: a thirtieth of the spread of one round, at most 5e-4.

    The estimate is from above at any width; a wide grid costs epsilon (1.4 per cent at rate 0.001, noise 4, 1e-4), a
    narrow one memory, which is kept to some hundred thousand cells.
    """
    spreads, total, farthest = [1.0], 0.0, 0.0
    for leaf, count in found:
        spread, far = _spread(leaf, reach)
        if not isinstance(leaf, GaussianDpEvent):
            spreads.append(spread)
        total += count * spread**2
        farthest = max(farthest, far)
    width = min(5e-4, min(spreads) / 30)
    cells = (farthest + total / 2 + 8 * math.sqrt(total)) / 2e5
    return float(2.0 ** max(math.floor(math.log2(width)), math.ceil(math.log2(max(cells, 1e-9)))))


def _spread(leaf: Leaf, reach: float) -> tuple[float, float]:
    """Return about the standard deviation, and about the most, of the loss of one release."""
    rate = leaf.rate if isinstance(leaf, PoissonSampledDpEvent | TruncatedPoissonSampledDpEvent) else 1.0
    inner: Mapping[Any, int] = noises(leaf.event) if isinstance(leaf, PoissonSampledDpEvent) else {leaf: 1}
    if isinstance(leaf, TruncatedPoissonSampledDpEvent):
        inner, reach = noises(leaf.event), 2.0
    mu = gaussian_mu(inner, reach=reach)
    if mu is None:
        pure = pure_leaf(leaf, reach=reach)
        return pure, pure
    far = mu**2 / 2 + 10 * mu
    if rate < 1:
        far = math.log1p(rate * math.expm1(min(far, 700.0)))
    return min(mu, rate * math.sqrt(math.expm1(min(mu**2, 700.0)))), far
