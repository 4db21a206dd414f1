"""Composition by other code: own privacy loss distributions on a grid, own FFT. No import of the library.

The loss of one release is a monotone function of one number x. Its axis is cut into cells; a cell gives its probability
to the two grid points around its loss, so that mass and mean loss are kept. ``side`` moves all losses of a cell up or
down to a grid point instead: bounds of the composed delta from above and below, up to what lies outside the axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp, ndtr

Array = npt.NDArray[np.float64]
Side = Literal["middle", "above", "below"]


@dataclass(frozen=True, slots=True)
class Losses:
    """Probabilities of losses ``width * (first + k)`` under the first of two neighbours."""

    width: float
    first: int
    mass: Array

    @property
    def values(self) -> Array:
        return self.width * (self.first + np.arange(len(self.mass), dtype=np.float64))


def gaussian_mixtures(
    *, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], z: float, cells: int = 1 << 15
) -> tuple[Array, Array]:
    """Return (probability under ``upper``, loss at the edges) of cells; both are mixtures [(weight, mean)], noise z."""
    means = [mean for _, mean in (*upper, *lower)]
    edges = np.linspace(min(means) - 9.5 * z, max(means) + 9.5 * z, cells + 1)

    def log_density(parts: Sequence[tuple[float, float]]) -> Array:
        logs = [math.log(weight) - (edges - mean) ** 2 / (2 * z**2) for weight, mean in parts if weight > 0]
        return np.asarray(logsumexp(logs, axis=0))

    mass = np.zeros(cells)
    for weight, mean in upper:
        at = (edges - mean) / z
        # From the nearer tail, so that differences far out keep their digits.
        mass += weight * np.where(at[1:] < 0, np.diff(ndtr(at)), -np.diff(ndtr(-at)))
    return mass, log_density(upper) - log_density(lower)


def poisson_pairs(q: float, z: float, adjacency: str, *, length: float = 1.0) -> list[tuple[Array, Array]]:
    """Return the pairs of a Gaussian on a Poisson sample, one for each direction that differs."""
    out, with_ = [(1.0, 0.0)], [(1 - q, 0.0), (q, length)]
    if adjacency == "replace_one":
        return [gaussian_mixtures(upper=with_, lower=[(1 - q, 0.0), (q, -length)], z=z)]
    return [gaussian_mixtures(upper=with_, lower=out, z=z), gaussian_mixtures(upper=out, lower=with_, z=z)]


def laplace_pairs(q: float, b: float, cells: int = 1 << 15) -> list[tuple[Array, Array]]:
    """Return the pairs of Laplace noise of scale b on a Poisson sample; the one unit adds 1."""
    middle = np.linspace(0.0, 1.0, cells + 1)
    edges = np.concatenate([[-60 * b, -30 * b], middle, [1 + 30 * b, 1 + 60 * b]])

    def cdf(at: Array) -> Array:
        return np.where(at < 0, np.exp(np.minimum(at, 0) / b) / 2, 1 - np.exp(-np.maximum(at, 0) / b) / 2)

    ratio = np.log1p(q * np.expm1((np.abs(edges) - np.abs(edges - 1)) / b))
    with_ = np.diff((1 - q) * cdf(edges) + q * cdf(edges - 1))
    return [(with_, ratio), (np.diff(cdf(edges)), -ratio)]


def on_grid(pair: tuple[Array, Array], width: float, side: Side = "middle") -> Losses:
    mass, edges = pair
    low, high = np.minimum(edges[:-1], edges[1:]) / width, np.maximum(edges[:-1], edges[1:]) / width
    place = (low + high) / 2 if side == "middle" else np.ceil(high) if side == "above" else np.floor(low)
    base = np.floor(place)
    share = place - base
    first = int(base.min())
    index = (base - first).astype(np.int64)
    size = int(index.max()) + 2
    grid = np.bincount(index, mass * (1 - share), size) + np.bincount(index + 1, mass * share, size)
    return Losses(width, first, np.asarray(grid, np.float64))


def merged(parts: Sequence[tuple[float, Losses]]) -> Losses:
    """Return the losses of one of several releases, drawn and told with these weights."""
    first = min(each.first for _, each in parts)
    size = max(each.first + len(each.mass) for _, each in parts) - first
    mass = np.zeros(size)
    for weight, each in parts:
        mass[each.first - first : each.first - first + len(each.mass)] += weight * each.mass
    return Losses(parts[0][1].width, first, mass)


def composed(parts: Sequence[tuple[Losses, int]]) -> Losses:
    """Return the losses of releases one after the other, each so many times, by one FFT."""
    width = parts[0][0].width
    low, high = _reach(parts)
    first, size = math.floor(low / width), math.ceil((high - low) / width) + 2
    size = 1 << (size - 1).bit_length()
    product = np.ones(size // 2 + 1, complex)
    offset = 0
    for each, count in parts:
        wrapped = np.bincount(np.arange(len(each.mass)) % size, each.mass, size)
        product *= np.fft.rfft(wrapped) ** count
        offset += each.first * count
    mass = np.roll(np.fft.irfft(product, size), (offset - first) % size)
    return Losses(width, first, np.maximum(mass, 0.0))


def _reach(parts: Sequence[tuple[Losses, int]], log_mass: float = -36.0) -> tuple[float, float]:
    """Return bounds that the sum leaves with a probability of at most e^log_mass on either side (Chernoff)."""
    tilts = np.geomspace(0.1, 400, 14)
    ends = []
    for sign in (-1.0, 1.0):
        best = math.inf
        for tilt in tilts:
            total = 0.0
            for each, count in parts:
                kept = each.mass > 0
                total += count * float(logsumexp(sign * tilt * each.values[kept], b=each.mass[kept]))
            best = min(best, (total - log_mass) / tilt)
        ends.append(sign * best)
    return ends[0], ends[1]


def delta_at(losses: Losses, epsilon: float) -> float:
    values = losses.values
    above = values > epsilon
    return float(-(losses.mass[above] * np.expm1(epsilon - values[above])).sum())


def epsilon_at(losses: Losses, delta: float) -> float:
    low, high = 0.0, max(float(losses.values[-1]), 1e-9)
    if delta_at(losses, 0.0) <= delta:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(losses, middle) > delta else (low, middle)
    return high


def epsilon_of_pairs(
    pairs: Sequence[tuple[Array, Array]], rounds: int, *, delta: float, side: Side = "middle", finest: float = 1 / 60
) -> float:
    """Return the largest epsilon over the directions."""
    return max(epsilon_at(composed([(on_grid(pair, _width(pair, finest), side), rounds)]), delta) for pair in pairs)


def _width(pair: tuple[Array, Array], finest: float) -> float:
    mass, edges = pair
    middle = (edges[:-1] + edges[1:]) / 2
    mean = float((mass * middle).sum())
    return finest * math.sqrt(float((mass * (middle - mean) ** 2).sum()))


def analytic_delta(mu: float, epsilon: float) -> float:
    """Balle and Wang 2018, Theorem 8, in its textbook form."""
    near, far = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(np.exp(near) * -np.expm1(far - near))


def analytic_epsilon(mu: float, delta: float) -> float:
    low, high = 0.0, mu**2 + 40 * mu
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if analytic_delta(mu, middle) > delta else (low, middle)
    return high


def discrete_gaussian(sigma: float) -> tuple[int, Array]:
    """Return (least value, log probabilities) of a discrete Gaussian on the integers."""
    far = math.ceil(14 * sigma) + 2
    logs = -(np.arange(-far, far + 1) ** 2) / (2 * sigma**2)
    return -far, np.asarray(logs - logsumexp(logs))


def sum_of_draws(sigma: float, draws: int) -> Array:
    """Return the log probabilities of a sum of discrete Gaussians, by repeated convolution without cancellation."""
    one = np.exp(discrete_gaussian(sigma)[1])
    total = one
    for _ in range(draws - 1):
        total = np.convolve(total, one)
    middle, far = len(total) // 2, math.ceil(11 * sigma * math.sqrt(draws)) + 2
    return np.log(total[max(0, middle - far) : middle + far + 1])


def renyi(log_p: Array, *, shift: int, order: float) -> float:
    """Return the Renyi divergence of order alpha between a distribution moved by ``shift`` and itself."""
    p, q = log_p[:-shift], log_p[shift:]
    return float(logsumexp(order * p + (1 - order) * q)) / (order - 1)


def max_log_ratio(log_p: Array, log_q: Array) -> float:
    return float(np.abs(log_p - log_q).max())
