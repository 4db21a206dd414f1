"""Range checks of optimizer arguments, with one wording."""

from __future__ import annotations

import math

from fedloom.errors import ComponentError


def check_fraction(component: str, **numbers: float) -> None:
    """Raise ComponentError for a number outside [0, 1)."""
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise ComponentError(f"{component}({name}={number}): expected a number from 0 to below 1")


def check_positive(component: str, *, zero: bool = False, **numbers: float) -> None:
    """Raise ComponentError for a number that is not positive (or zero, where ``zero`` is allowed) or not finite."""
    for name, number in numbers.items():
        if not (0 < number < math.inf or (zero and number == 0)):
            raise ComponentError(f"{component}({name}={number}): expected a number {'from' if zero else 'above'} 0")
