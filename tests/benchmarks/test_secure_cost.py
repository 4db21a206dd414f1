"""What measures secure sums: it adds up right, counts every byte, and notices a sum that is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.core.aggregator import Finish
from fedloom.core.ids import ClientId
from fedloom.errors import Error
from fedloom.secure.secure_sum import secure_sum
from fedloom.secure.shares_sum import shares_sum

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "secure"))

import costs
import sums


def test_a_secure_sum_is_measured_step_by_step_and_within_its_bytes() -> None:
    shape = sums.Shape(clients=6, dim=50, dropped=1)
    found = sums.measured(secure_sum(protocol=True), shape)
    assert len(found.client_s) == len(sums.STEPS)
    assert 0 < max(found.client_s) <= found.client <= found.slowest
    assert 0 < found.closing < found.server
    assert 4 * 50 < found.up <= 4 * 50 + 256 * 5 + 4096
    assert 0 < found.down <= 512 * 5 + 4096


def test_shares_are_measured_as_their_only_step() -> None:
    found = sums.measured(shares_sum(3, protocol=True), sums.Shape(clients=4, dim=50))
    assert (len(found.client_s), found.down) == (1, 0)
    assert 4 * 50 < found.up < 4 * 50 + 512
    assert found.client > 0


def test_what_is_weighed_is_what_a_client_sends() -> None:
    """The expansion is computed from sizes of fields; for a small sum it is that of the messages."""
    found = sums.measured(secure_sum(protocol=True), sums.Shape(clients=6, dim=50))
    assert costs.expansion(6, 50, others=5) == found.up / 100


def test_a_sum_that_is_not_that_of_those_that_stayed_is_an_error() -> None:
    cohort = tuple(ClientId(name) for name in "abc")
    total: Any = sum((sums.values_of(name, 4) for name in cohort), np.zeros(4, np.uint32))
    sums._check(Finish(total, cohort), cohort, set(), 4)
    for wrong in (Finish(total + np.uint32(1), cohort), Finish(total, cohort[:2])):
        with pytest.raises(Error, match="not that of the clients"):
            sums._check(wrong, cohort, set(), 4)
    with pytest.raises(Error, match="ended by"):
        sums.measured(secure_sum(protocol=True), sums.Shape(clients=4, dim=4, dropped=3))


def test_a_promise_says_whether_it_holds() -> None:
    assert str(costs.Line(what="a", figure=1.0, limit=1.0, unit="s")).endswith("holds")
    assert str(costs.Line(what="a", figure=3.0, limit=2.0, unit="s")).endswith("misses by 50%")
