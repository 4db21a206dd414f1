"""Schedule: what each local step reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key, permutation
from fedloom.core.schedule import Ramp, Schedule, value_at
from fedloom.errors import ComponentError
from fedloom.optim import adam, momentum, sgd

quick = settings(max_examples=150, derandomize=True, database=None, deadline=None)
KEY = Key.from_seed(3)
counts = st.integers(1, 70)
sizes = st.integers(1, 80)


@quick
@given(counts, sizes, st.integers(1, 4), st.integers(0, 2**32))
def test_an_epoch_reads_every_row_once(count: int, size: int, epochs: int, seed: int) -> None:
    schedule = Schedule(epochs=epochs, batch_size=size)
    order = schedule.order(count, Key.from_seed(seed))
    each = -(-count // size)
    assert order.steps == epochs * each
    assert order.valid.sum() == epochs * count, "the last, shorter batch is used"
    if size >= count:
        assert order.rows is None and order.valid.tolist() == [count] * epochs
        return
    assert order.rows is not None and order.rows.shape == (epochs * each, size)
    for epoch in range(epochs):
        steps = range(epoch * each, (epoch + 1) * each)
        read = [row for step in steps for row in order.rows[step, : order.valid[step]].tolist()]
        assert sorted(read) == list(range(count))
        assert read == permutation(Key.from_seed(seed).child("epoch", epoch), count).tolist()


@quick
@given(counts, sizes, st.integers(1, 9), st.integers(0, 2**32))
def test_a_number_of_steps_is_the_beginning_of_as_many_epochs(count: int, size: int, steps: int, seed: int) -> None:
    key = Key.from_seed(seed)
    order = Schedule(steps=steps, batch_size=size).order(count, key)
    whole = Schedule(epochs=steps, batch_size=size).order(count, key)
    assert order.steps == steps
    assert order.valid.tolist() == whole.valid[:steps].tolist()
    if order.rows is not None and whole.rows is not None:
        assert order.rows.tolist() == whole.rows[:steps].tolist()


@quick
@given(counts, sizes, st.integers(1, 3))
def test_padding_points_at_row_zero_has_no_weight_and_depends_on_the_client_alone(
    count: int, size: int, epochs: int
) -> None:
    schedule = Schedule(epochs=epochs, batch_size=size)
    order, length = schedule.order(count, KEY), schedule.batch_rows(count)
    assert length == (size if size < count else -(-count // 64) * 64)
    if order.rows is not None:
        for step, valid in enumerate(order.valid.tolist()):
            assert not order.rows[step, valid:].any()
    rows = ClientDataset(
        {FEATURES: np.arange(count)[:, None] + 1.0, LABEL: np.zeros(count)}, {"train": slice(0, count)}
    )
    batches = list(rows.batches(schedule, KEY))
    assert len(batches) == order.steps
    for batch, valid in zip(batches, order.valid.tolist(), strict=True):
        assert batch.weights.tolist() == [1.0] * valid + [0.0] * (length - valid)
        assert batch.arrays[FEATURES].shape == (length, 1)
    if epochs == 1:
        read = np.concatenate([b.arrays[FEATURES][b.weights > 0, 0] for b in batches])
        assert sorted(read.tolist()) == (np.arange(count) + 1.0).tolist()


def test_epochs_are_fresh_permutations() -> None:
    rows = Schedule(epochs=2, batch_size=10).order(50, KEY).rows
    assert rows is not None
    assert rows[:5].tolist() != rows[5:].tolist()


def test_a_round_and_a_client_choose_numbers() -> None:
    halving = Ramp(lambda t: 0.5**t)
    schedule = Schedule(steps={"a": 3, "b": 1}, learning_rate=halving)
    third = schedule.at(3, ClientId("a"))
    assert (third.steps, third.learning_rate) == (3, 0.25), "round 1 is the ramp's 0"
    assert schedule.at(1, ClientId("b")).learning_rate == 1.0
    assert (value_at(2.0, 9), value_at(halving, 1)) == (2.0, 1.0)
    plain = Schedule(steps=4)
    assert plain.at(9, ClientId("z")) is plain
    with pytest.raises(ComponentError, match="'z'"):
        schedule.at(1, ClientId("z"))


def test_a_step_is_plain_where_it_is_the_rate_times_the_gradient() -> None:
    assert Schedule().plain and Schedule(optimizer=sgd()).plain
    for changes in ({"optimizer": momentum(0.5)}, {"optimizer": adam()}, {"clip_norm": 1.0}, {"weight_decay": 0.1}):
        assert not Schedule(**changes).plain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 1, "steps": 1},
        {"epochs": 0},
        {"steps": 0},
        {"steps": {"a": 0}},
        {"batch_size": 0},
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"clip_norm": 0.0},
        {"clip_norm": float("nan")},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
    ],
    ids=str,
)
def test_arguments_outside_their_range_are_refused(arguments: Any) -> None:
    with pytest.raises(ComponentError):
        Schedule(**arguments)
