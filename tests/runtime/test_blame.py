"""Whose line an exception is, and where a function stands."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fedloom.runtime.blame import blame, place_of


def test_an_error_inside_a_library_is_blamed_on_the_line_that_called_it() -> None:
    try:
        np.linalg.inv(np.zeros((2, 2)))
    except np.linalg.LinAlgError as error:
        assert blame(error).startswith(f"{__file__}:")


def test_a_function_is_placed_where_it_is_defined_also_behind_a_wrapper() -> None:
    def inner() -> None: ...

    @functools.wraps(inner)
    def outer() -> Any: ...

    assert place_of(outer) == place_of(inner) == f"{__file__}:{inner.__code__.co_firstlineno}"


def test_what_is_no_plain_function_is_named() -> None:
    assert "partial" in place_of(functools.partial(print))
