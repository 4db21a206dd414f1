"""Integer noise in numbers: how large one draw of it may be, how many are added up, and what rounding may cost."""

from __future__ import annotations

import math

MOST_SIGMA = 4096
"""Largest standard deviation of one draw of integer noise: exact sampling stays cheap and within 64 bits."""
MOST_DRAWS = 64
"""Draws of noise added up in one sum: a draw takes about a second for a million coordinates."""
MOST_INFLATION = 0.05
"""Rounding may raise the bound on the norm by this share: the noise that protects the vector rises with it."""


def draws_of(noise_multiplier: float, l2: float) -> int:
    """Return how many draws of integer noise make up ``noise_multiplier * l2``, each of at most ``MOST_SIGMA``.

    Example:
        >>> draws_of(1.0, 4096.0), draws_of(1.0, 4097.0), draws_of(5.0, 2110.0)
        (1, 2, 7)
    """
    draws = max(1, math.ceil((noise_multiplier * l2 / MOST_SIGMA) ** 2))
    return draws if share_sigma(noise_multiplier, l2, draws) <= MOST_SIGMA else draws + 1  # a quotient rounded down


def share_sigma(noise_multiplier: float, l2: float, draws: int) -> int:
    """Return the standard deviation of each of ``draws`` draws, in steps: rounded up to an integer.

    Example:
        >>> share_sigma(1.0, 2048.3, 1), share_sigma(5.0, 2110.0, 7)
        (2049, 3988)
    """
    return math.ceil(noise_multiplier * l2 / math.sqrt(draws))
