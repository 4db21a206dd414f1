"""Stop conditions are functions of the records, and never read test rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import RoundNumber
from fedloom.errors import ComponentError
from fedloom.runtime.record import RoundRecord
from fedloom.runtime.stopping import (
    all_of,
    any_of,
    divergence,
    falls,
    has_diverged,
    max_rounds,
    patience,
    small_update,
    target,
    wall_clock,
)

quick = settings(max_examples=50, derandomize=True, database=None, deadline=None)


def record(number: int, status: Any = "closed", **metrics: float | None) -> RoundRecord:
    named = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    return RoundRecord(round=RoundNumber(number), retry=0, program="train", status=status, invited=1, metrics=named)


def losses(*values: float | None) -> list[RoundRecord]:
    return [record(number, validation_loss=value) for number, value in enumerate(values, start=1)]


def stopped_after(stop: Any, records: list[RoundRecord]) -> int | None:
    return next((n for n in range(1, len(records) + 1) if stop.holds(records[:n]) is not None), None)


@quick
@given(st.integers(1, 20), st.integers(1, 20))
def test_max_rounds_stops_after_that_many_rounds(bound: int, done: int) -> None:
    holds = max_rounds(bound).holds([record(number) for number in range(1, done + 1)])
    assert (holds is not None) == (done >= bound)


def test_skipped_rounds_count_and_retried_ones_do_not() -> None:
    records = [record(1), record(2, "skipped"), record(3, "retried"), record(3, "retried")]
    assert max_rounds(2).holds(records) is not None
    assert max_rounds(3).holds(records) is None


@pytest.mark.parametrize(
    ("values", "rounds", "expected"),
    [
        ((3.0, 2.0, 1.0, 0.5), 2, None),
        ((3.0, 2.0, 2.0, 2.0, 1.0), 2, 4),
        ((3.0, 2.0, 2.5, 1.9, 2.5, 2.5), 2, 6),
        ((1.0, 2.0), 1, 2),
        ((None, None, None), 1, None),
        ((1.0, None, None), 2, 3),
    ],
)
def test_patience_waits_since_the_best_round(values: Any, rounds: int, expected: int | None) -> None:
    assert stopped_after(patience("validation/loss", rounds=rounds), losses(*values)) == expected


def test_patience_asks_for_an_improvement_of_min_delta() -> None:
    falling = losses(1.0, 0.95, 0.9, 0.85, 0.8)
    assert stopped_after(patience("validation/loss", rounds=2), falling) is None
    assert stopped_after(patience("validation/loss", rounds=2, min_delta=0.1), falling) == 3


def test_patience_knows_which_way_is_better() -> None:
    rising = [record(n, validation_auroc=n / 10) for n in range(1, 6)]
    assert stopped_after(patience("validation/auroc", rounds=2), rising) is None
    assert stopped_after(patience("validation/auroc", rounds=2, minimise=True), rising) == 3
    assert falls("train/objective") and falls("validation/rmse") and not falls("validation/r2")


def test_a_skipped_round_is_a_round_without_improvement() -> None:
    records = [record(1, validation_loss=1.0), record(2, "skipped"), record(3, "skipped")]
    assert stopped_after(patience("validation/loss", rounds=2), records) == 3


def test_target_is_reached_from_either_side() -> None:
    falling = losses(1.0, 0.6, 0.4, 0.7)
    assert stopped_after(target("validation/loss", at_most=0.5), falling) == 3
    assert stopped_after(target("validation/loss", at_least=1.0), falling) == 1
    assert stopped_after(target("validation/loss", at_most=0.1), falling) is None
    assert target("validation/loss", at_most=0.5).holds([]) is None


@quick
@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 5), st.integers(1, 12), st.floats(0, 1))
def test_any_of_holds_where_one_of_them_does(values: list[float], rounds: int, bound: int, level: float) -> None:
    stops = [patience("validation/loss", rounds=rounds), max_rounds(bound), target("validation/loss", at_most=level)]
    both, records = any_of(*stops), losses(*values)
    assert both.rounds == bound
    assert set(both.metrics) == {"validation/loss"}
    assert (both.holds(records) is not None) == any(stop.holds(records) is not None for stop in stops)
    assert both.holds(records) in [None, *(stop.holds(records) for stop in stops)]


@quick
@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 5), st.integers(1, 12), st.floats(0, 1))
def test_all_of_holds_where_each_of_them_does(values: list[float], rounds: int, bound: int, level: float) -> None:
    stops = [patience("validation/loss", rounds=rounds), max_rounds(bound), target("validation/loss", at_most=level)]
    together, records = all_of(*stops), losses(*values)
    assert together.rounds is None and all_of(max_rounds(bound), max_rounds(3)).rounds == max(bound, 3)
    assert set(together.metrics) == {"validation/loss"}
    held = together.holds(records)
    assert (held is not None) == all(stop.holds(records) is not None for stop in stops)
    assert held is None or all(str(stop.holds(records)) in held for stop in stops)


def test_combinations_nest() -> None:
    """Small steps for two rounds after at least four, or ten rounds."""
    stop = any_of(max_rounds(10), all_of(max_rounds(4), small_update(0.1, rounds=2)))
    steps = [record(number, step_norm=0.01) for number in range(1, 12)]
    assert stop.rounds == 10 and stop.metrics == ("step/norm",)
    assert stopped_after(stop, steps) == 4
    assert stopped_after(stop, [replace(each, metrics={"step/norm": 1.0}) for each in steps]) == 10


def test_the_wall_clock_adds_all_seconds_of_training() -> None:
    records = [replace(record(1), seconds=2.0), replace(record(2, "retried"), seconds=0.5)]
    assert wall_clock(3.0).holds(records) is None
    reason = wall_clock(3.0).holds([*records, replace(record(2), seconds=0.5)])
    assert reason == "3.0 of 3 seconds used"


def test_a_small_update_must_be_small_for_its_rounds_in_a_row() -> None:
    norms = (0.5, 0.01, 0.5, 0.01, 0.01, 0.01)
    records = [record(number, step_norm=norm) for number, norm in enumerate(norms, start=1)]
    assert stopped_after(small_update(0.01), records) == 2
    assert stopped_after(small_update(0.01, rounds=2), records) == 5
    assert stopped_after(small_update(0.001), records) is None
    records[4:4] = [record(5, "skipped"), record(5, "retried")]
    assert stopped_after(small_update(0.01, rounds=2), records) == 7, "a round without a step is none"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 0.5, 0.6, 1.4, 0.4), None),
        ((1.0, 0.5, 1.6), 3),
        ((4.0, 3.5, 3.0), None),
        ((1.0, None, 1.0, None, None), 5),
        ((1.0, None, 0.9), None),
        ((None, None), 2),
        ((0.0, 1e-9), 2),
        ((1.0, float("inf"), float("nan")), 3),
    ],
)
def test_divergence_is_a_loss_far_above_its_best_or_without_a_value(values: Any, expected: int | None) -> None:
    stop, records = divergence("validation/loss", factor=3.0), losses(*values)
    assert stopped_after(stop, records) == expected
    if expected is not None:
        assert has_diverged(str(stop.holds(records[:expected])))
        assert has_diverged(str(any_of(stop, max_rounds(99)).holds(records[:expected])))


def test_rounds_that_were_not_evaluated_are_no_missing_values() -> None:
    records = [record(1, validation_loss=1.0), *(record(number) for number in range(2, 9))]
    assert stopped_after(divergence("validation/loss"), records) is None
    assert not has_diverged("8 rounds done")


@pytest.mark.parametrize("metric", ["eval/loss", "eval/auroc", "loss"])
@pytest.mark.parametrize(
    "make", [lambda metric: patience(metric, rounds=1), lambda metric: target(metric, at_most=1.0), divergence]
)
def test_test_rows_never_decide(make: Any, metric: str) -> None:
    with pytest.raises(ComponentError, match="test rows never decide"):
        make(metric)


@pytest.mark.parametrize(
    "make",
    [
        lambda: max_rounds(0),
        lambda: patience("validation/loss", rounds=0),
        lambda: patience("validation/loss", rounds=1, min_delta=-1.0),
        lambda: patience("validation/loss", rounds=1, min_delta=float("nan")),
        lambda: target("validation/loss"),
        lambda: target("validation/loss", at_least=0.0, at_most=1.0),
        any_of,
        all_of,
        lambda: wall_clock(0.0),
        lambda: wall_clock(float("nan")),
        lambda: small_update(-1.0),
        lambda: small_update(1.0, rounds=0),
        lambda: divergence("validation/auroc"),
        lambda: divergence(factor=1.0),
        lambda: divergence(evaluations=0),
    ],
)
def test_arguments_outside_their_range_are_refused(make: Any) -> None:
    with pytest.raises(ComponentError):
        make()
