"""Thresholds: the table of the design, the border ``2t = n + c``, and what each refusal says."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import PlanError
from fedloom.secure.thresholds import (
    check_threshold,
    default_colluders,
    default_threshold,
    fewest_survivors,
    largest_colluders,
    may_be_missing,
)

quick = settings(max_examples=200, derandomize=True, database=None, deadline=None)
sizes = st.integers(3, 1000)


@pytest.mark.parametrize("row", [(3, 3, 0, 2, 3, 0), (4, 3, 1, 1, 4, 0), (5, 4, 1, 2, 4, 1), (10, 7, 3, 3, 8, 2)])
def test_the_defaults_are_those_of_the_table(row: tuple[int, int, int, int, int, int]) -> None:
    invited, threshold, survives, colluders, quorum, missing = row
    assert default_threshold(invited) == threshold
    assert invited - threshold == survives
    assert largest_colluders(invited, threshold) == colluders
    assumed = default_colluders(invited)
    assert fewest_survivors(invited, threshold=threshold, colluders=assumed) == quorum
    assert may_be_missing(invited, threshold=threshold, colluders=assumed) == missing


def test_four_clients_can_miss_one_when_three_are_declared_enough() -> None:
    assert may_be_missing(4, threshold=3, colluders=1, quorum=0.75) == 1


@quick
@given(sizes)
def test_the_default_threshold_stands_against_a_third_and_is_the_least_that_does(invited: int) -> None:
    threshold = default_threshold(invited)
    assert 3 * threshold > 2 * invited >= 3 * (threshold - 1)
    check_threshold(invited, threshold, invited // 3)
    assert largest_colluders(invited, threshold) >= default_colluders(invited)


@quick
@given(sizes, st.data())
def test_a_threshold_at_the_border_is_refused_and_one_above_it_accepted(invited: int, data: st.DataObject) -> None:
    colluders = data.draw(st.integers(0, invited - 1).filter(lambda count: (invited + count) % 2 == 0))
    border = (invited + colluders) // 2
    with pytest.raises(PlanError, match=re.escape(f"2 * threshold > {invited + colluders}")):
        check_threshold(invited, border, colluders)
    check_threshold(invited, border + 1, colluders)
    assert largest_colluders(invited, border + 1) == colluders + 1


@quick
@given(sizes, st.data())
def test_a_threshold_accepts_its_largest_colluders_and_no_more(invited: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(invited // 2 + 1, invited))
    most = largest_colluders(invited, threshold)
    check_threshold(invited, threshold, most)
    with pytest.raises(PlanError, match=r"threshold"):
        check_threshold(invited, threshold, most + 1)


@pytest.mark.parametrize("invited", [3, 4, 5, 6])
def test_two_groups_can_answer_differently_exactly_when_the_threshold_is_refused(invited: int) -> None:
    """The definition, by search: honest clients stand in at most one group, colluders in both."""
    for threshold, colluders in itertools.product(range(1, invited + 1), range(invited + 1)):
        honest = invited - colluders
        splits = ((first + colluders, honest - first + colluders) for first in range(honest + 1))
        attacked = any(min(split) >= threshold for split in splits)
        try:
            check_threshold(invited, threshold, colluders)
        except PlanError:
            assert attacked
        else:
            assert not attacked


@pytest.mark.parametrize(
    ("threshold", "colluders", "message"),
    [
        (0, 0, "threshold = 0 with 10 clients invited: expected 1 to 10; leave it out for 7"),
        (11, 0, "threshold = 11 with 10 clients invited: expected 1 to 10"),
        (7, -1, "colluders = -1: expected 0 or more"),
        (7, 4, "raise the threshold to 8 or assume 3 colluders or fewer"),
        (5, 0, "raise the threshold to 6"),
        (5, 9, "raise the threshold to 10"),
        (5, 12, "assume at most 9 colluders, with the threshold at 10"),
        (10, 12, "assume 9 colluders or fewer"),
    ],
)
def test_a_refusal_says_what_to_change(threshold: int, colluders: int, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        check_threshold(10, threshold, colluders)


@quick
@given(st.integers(3, 60), st.data())
def test_what_a_refusal_advises_is_accepted(invited: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, invited))
    colluders = data.draw(st.integers(0, 2 * invited))
    try:
        check_threshold(invited, threshold, colluders)
    except PlanError as refused:
        said = str(refused)
    else:
        return
    tried = 0
    if raised := re.search(r"raise the threshold to (\d+)", said):
        check_threshold(invited, int(raised[1]), colluders)
        tried += 1
    if fewer := re.search(r"assume (\d+) colluders or fewer", said):
        check_threshold(invited, threshold, int(fewer[1]))
        tried += 1
    if both := re.search(r"assume at most (\d+) colluders, with the threshold at (\d+)", said):
        check_threshold(invited, int(both[2]), int(both[1]))
        tried += 1
    assert tried


@pytest.mark.parametrize("invited", [-1, 0, 1, 2])
def test_fewer_than_three_clients_have_no_secure_sum(invited: int) -> None:
    for refused in (
        lambda: default_threshold(invited),
        lambda: default_colluders(invited),
        lambda: largest_colluders(invited, 2),
        lambda: check_threshold(invited, 2, 0),
        lambda: fewest_survivors(invited, threshold=2, colluders=0),
    ):
        with pytest.raises(PlanError, match=f"a secure sum of {invited} invited clients: expected 3 or more"):
            refused()


def test_a_threshold_that_stands_against_nobody_has_no_largest_colluders() -> None:
    with pytest.raises(PlanError, match="raise the threshold to 6"):
        largest_colluders(10, 5)


@quick
@given(sizes, st.data())
def test_the_fewest_survivors_meet_each_need_and_one_fewer_does_not(invited: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, invited))
    colluders = data.draw(st.integers(0, invited - 2))
    least = data.draw(st.integers(1, invited))
    percent = data.draw(st.integers(1, 100))

    def enough(survivors: int) -> bool:
        honest = survivors - colluders
        return survivors >= max(least, threshold) and honest >= 2 and survivors >= percent / 100 * invited

    fewest = fewest_survivors(invited, threshold=threshold, colluders=colluders, least=least, quorum=percent / 100)
    assert enough(fewest)
    assert not enough(fewest - 1)
    missing = may_be_missing(invited, threshold=threshold, colluders=colluders, least=least, quorum=percent / 100)
    assert missing == invited - fewest


@quick
@given(sizes)
def test_the_default_quorum_is_four_fifths_in_whole_clients(invited: int) -> None:
    """0.8 is no binary fraction: no size may be rounded up because of it."""
    assert fewest_survivors(invited, threshold=1, colluders=0, least=1) == max(2, -(-4 * invited // 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colluders": 2}, "colluders = 2 and two honest clients: 4 vectors would have to be in the sum of 3 clients"),
        (
            {"least": 5},
            "min_survivors = 5: 5 vectors would have to be in the sum of 3 clients invited; lower min_survi",
        ),
        (
            {"threshold": 4},
            "threshold = 4: 4 vectors would have to be in the sum of 3 clients invited; lower threshold",
        ),
        ({"least": 0}, "min_survivors = 0: expected 1 or more"),
        ({"quorum": 0.0}, "quorum = 0.0: expected a share"),
        ({"quorum": 1.1}, "quorum = 1.1: expected a share"),
        ({"quorum": math.nan}, "quorum = nan: expected a share"),
        ({"colluders": -1}, "colluders = -1: expected 0 or more"),
    ],
)
def test_survivors_that_cannot_be_had_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        fewest_survivors(3, **{"threshold": 3, "colluders": 0, **changes})  # type: ignore[arg-type]
