"""Noise on a sum: integers in Z_m, exactly and from secret entropy; floats in simulation."""

from __future__ import annotations

import math

import numpy as np

from fedloom.core.integer_noise import draws_of, share_sigma
from fedloom.core.keys import SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import WireType
from fedloom.entropy.discrete_noise import discrete_gaussian, discrete_laplace
from fedloom.errors import Error
from fedloom.pipeline.modular import residues


def gaussian_noise(total: Vector, last: WireType, secret: SecretKey, *, noise_multiplier: float) -> Vector:
    """Return a sum with Gaussian noise of ``noise_multiplier`` times the L2 bound of one client's vector.

    Args:
        total: The sum, of the last wire type: integers in Z_m, or floats.
        last: The last wire type; it has a bound.
        secret: Names this release and no other: what is drawn from it is drawn once.
        noise_multiplier: Standard deviation over the bound.

    Raises:
        Error: On a float sum, when the secret is a real one: float noise gives the noise away by which floats it can
            reach.
    """
    assert last.l2 is not None, "the event of the stage was asked for first, and needs the bound"
    if last.modulus is None:
        drawn = noise_multiplier * last.l2 * normals(_derived(secret), total.size)
        noised: Vector = total + drawn.astype(total.dtype)
        return noised
    draws = draws_of(noise_multiplier, last.l2)
    sigma = share_sigma(noise_multiplier, last.l2, draws)
    noise = np.zeros(total.size, np.int64)
    for number in range(draws):
        noise += discrete_gaussian(secret.child(number), sigma * sigma, total.size)
    return _wrapped(total, noise)


def laplace_noise(total: Vector, last: WireType, secret: SecretKey, *, noise_multiplier: float) -> Vector:
    """Return a sum with Laplace noise of ``noise_multiplier`` times the L1 bound of one client's vector.

    Raises:
        Error: As ``gaussian_noise``.
    """
    assert last.l1 is not None, "the event of the stage was asked for first, and needs the bound"
    if last.modulus is None:
        uniform = _between(_derived(secret), total.size) - 0.5
        scale = noise_multiplier * last.l1
        drawn = -scale * np.sign(uniform) * np.log1p(-2.0 * np.abs(uniform))
        noised: Vector = total + drawn.astype(total.dtype)
        return noised
    scale = math.ceil(noise_multiplier * last.l1)
    return _wrapped(total, discrete_laplace(secret.child(0), scale, total.size))


def normals(secret: SecretKey, size: int) -> Vector:
    """Return standard normal numbers of a stream, in float64, for simulation: the inverse distribution of its words.

    Example:
        >>> from fedloom.core.keys import Key
        >>> from fedloom.entropy import derived_secret
        >>> abs(float(normals(derived_secret(Key.from_seed(1)), 10_000).std()) - 1) < 0.03
        True
    """
    from scipy.special import ndtri  # not before it is needed: plans are made without it

    drawn: Vector = ndtri(_between(secret, size))
    return drawn


def _between(secret: SecretKey, size: int) -> Vector:
    """Return numbers strictly between 0 and 1: the middles of 2**52 equal pieces."""
    return ((secret.random_raw(size) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _derived(secret: SecretKey) -> SecretKey:
    if not secret.derived:
        raise Error(
            "float noise is for simulation: of real noise it leaks which floats it can reach. Add fixed_point() behind "
            "the mechanism, so that noise is whole numbers"
        )
    return secret


def _wrapped(total: Vector, noise: Vector) -> Vector:
    """Add noise in Z_m: a cast to the words of the sum keeps the residue."""
    wrapped: Vector = total + residues(noise, total.dtype.name)
    return wrapped
