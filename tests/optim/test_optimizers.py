"""Optimizers and ramps: the laws that the callers rely on. Their equations are tested in tests/algorithms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core import codec
from fedloom.core.keys import Key
from fedloom.errors import ComponentError
from fedloom.optim import adagrad, adam, cosine, exponential, inverse, momentum, sgd, steps, warmup, yogi

quick = settings(max_examples=40, derandomize=True, database=None, deadline=None)
OPTIMIZERS = {
    "sgd": sgd(),
    "plain": momentum(0.9),
    "nesterov": momentum(0.9, variant="nesterov"),
    "damped": momentum(0.9, variant="damped"),
    "adagrad": adagrad(beta1=0.5),
    "adam": adam(),
    "adam uncorrected": adam(bias_correction=False, v0=None, tau=0.1),
    "yogi": yogi(tau=0.1),
}
RAMPS = {
    "exponential": exponential(0.5, decay=0.7, floor=0.01),
    "inverse": inverse(0.5, rate=0.3, power=0.5),
    "steps": steps(0.5, every=3, factor=0.1),
    "cosine": cosine(0.5, rounds=10, floor=0.1),
}


def directions(count: int, seed: int = 0) -> Any:
    return Key.from_seed(seed).generator().standard_normal((count, 4))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_odd_so_that_server_and_client_step_alike(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    up, down = optimizer.init(np.zeros(4)), optimizer.init(np.zeros(4))
    for direction in directions(6):
        rise, up = optimizer.update(direction, up)
        fall, down = optimizer.update(-direction, down)
        np.testing.assert_array_equal(rise, -fall)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_block_steps_as_its_rows_do_in_the_type_of_its_parameters(name: str, dtype: str) -> None:
    optimizer = OPTIMIZERS[name]
    block = directions(6).reshape(2, 3, 4).astype(dtype)
    together, alone = optimizer.init(np.zeros((3, 4), dtype)), [optimizer.init(np.zeros(4, dtype)) for _ in range(3)]
    for each in block:
        step, together = optimizer.update(each, together)
        assert step.dtype == dtype
        for row in range(3):
            mine, alone[row] = optimizer.update(each[row], alone[row])
            assert mine.tobytes() == step[row].tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_writes_into_nothing_and_its_moments_travel(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    start = optimizer.init(np.zeros(4))
    before, direction = codec.encode(start), directions(1)[0]
    direction.setflags(write=False)
    _, after = optimizer.update(direction, start)
    assert codec.encode(start) == before
    assert codec.encode(codec.decode(codec.encode(after), start)) == codec.encode(after)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_direction_gives_no_step(name: str) -> None:
    step, _ = OPTIMIZERS[name].update(np.zeros(4), OPTIMIZERS[name].init(np.zeros(4)))
    assert not np.isnan(step).any() and not step.any()


def test_only_sgd_is_plain() -> None:
    assert [name for name, optimizer in OPTIMIZERS.items() if optimizer.plain] == ["sgd"]


@pytest.mark.parametrize("name", RAMPS)
def test_decaying_ramps_start_at_their_start_and_never_rise(name: str) -> None:
    values = [RAMPS[name].at(t) for t in range(30)]
    assert values[0] == pytest.approx(0.5)
    assert all(0 < later <= earlier for earlier, later in itertools.pairwise(values))


@quick
@given(st.floats(0.01, 10), st.integers(1, 20))
def test_a_warmup_rises_to_its_top_and_stays(top: float, rounds: int) -> None:
    values = [warmup(top, rounds=rounds).at(t) for t in range(rounds + 5)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(top / (rounds + 1))
    assert values[rounds:] == [top] * 5


def test_floors_hold() -> None:
    assert exponential(0.5, decay=0.5, floor=0.1).at(50) == 0.1
    assert cosine(0.5, rounds=4, floor=0.1).at(4) == pytest.approx(0.1) == cosine(0.5, rounds=4, floor=0.1).at(40)


@pytest.mark.parametrize(
    "make",
    [
        lambda: momentum(1.0),
        lambda: momentum(-0.1),
        lambda: momentum(float("nan")),
        lambda: adam(beta1=1.0),
        lambda: adam(beta2=-0.1),
        lambda: adam(tau=-1.0),
        lambda: adagrad(v0=-1.0),
        lambda: yogi(beta2=2.0),
        lambda: exponential(0.0, decay=0.5),
        lambda: exponential(0.1, decay=-0.5),
        lambda: inverse(0.1, rate=-1.0),
        lambda: steps(0.1, every=0, factor=0.5),
        lambda: cosine(0.1, rounds=0),
        lambda: warmup(0.1, rounds=0),
    ],
)
def test_arguments_outside_their_range_are_refused(make: Any) -> None:
    with pytest.raises(ComponentError):
        make()
