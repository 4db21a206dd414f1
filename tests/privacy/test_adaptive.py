"""Adaptive clipping: one noise for update and number, the clip of the round it began with, and where it ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedloom.core.keys import Key, Keys
from fedloom.core.wire import SumInfo, WireType
from fedloom.entropy import derived_secret
from fedloom.errors import ComponentError
from fedloom.pipeline import fixed_point
from fedloom.pipeline.chain import chain
from fedloom.privacy.adaptive import adaptive_gaussian

SECRET = derived_secret(Key.from_seed(5))
COHORT = 100


def info(clients: int = COHORT) -> SumInfo:
    return SumInfo(clients=clients, expected_clients=float(clients), round=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("noise_multiplier", "bit_noise"), [(1.0, 5.0), (0.5, 5.0), (4.0, 2.5), (1.2, 0.7)])
def test_update_and_number_share_the_noise_as_the_paper_splits_it(noise_multiplier: float, bit_noise: float) -> None:
    """Noise of z times the whole bound is sigma_b on the number and z_delta on the update, by Theorem 1."""
    stage = adaptive_gaussian(1.0, noise_multiplier, bit_noise=bit_noise)
    whole = stage.plan(WireType(dim=3, dtype="float64", weight=False)).l2
    assert whole is not None
    on_update = (noise_multiplier**-2 - (2 * bit_noise) ** -2) ** -0.5
    assert noise_multiplier * whole == pytest.approx(on_update, rel=1e-12)
    one, _ = stage.encode(WireType(dim=3, dtype="float64"), np.zeros((1, 3)), np.ones(1), np.empty((1, 0)), [])
    scale = 2 * float(one[0, -1])
    assert noise_multiplier * whole / scale == pytest.approx(bit_noise, rel=1e-9)
    assert math.hypot(1.0, scale / 2) <= whole


def test_a_round_is_clipped_by_the_clip_that_it_began_with() -> None:
    stage = adaptive_gaussian(2.0, 1e-3, bit_noise=1.0)
    state = stage.init(WireType(dim=1, dtype="float64"))
    values = np.array([[1.0], [5.0]])
    encoded, _ = stage.encode(WireType(dim=1, dtype="float64"), values, stage.setting(state), np.empty((2, 0)), [])
    assert encoded[:, 0] == pytest.approx([0.5, 1.0])
    decoded, moved = stage.decode(WireType(dim=1, dtype="float64"), encoded.sum(axis=0), state, info(2))
    assert decoded == pytest.approx([3.0]) and moved == pytest.approx(2.0), "half of the clients were within: no move"


def test_too_few_unclipped_updates_raise_the_clip_and_too_many_lower_it() -> None:
    stage = adaptive_gaussian(1.0, 1e-3, bit_noise=1.0, rate=0.2)
    state = stage.init(WireType(dim=1, dtype="float64"))
    for norm, factor in ((10.0, math.exp(0.1)), (0.1, math.exp(-0.1))):
        values = np.full((4, 1), norm)
        encoded, _ = stage.encode(WireType(dim=1, dtype="float64"), values, stage.setting(state), np.empty((4, 0)), [])
        _, moved = stage.decode(WireType(dim=1, dtype="float64"), encoded.sum(axis=0), state, info(4))
        assert moved == pytest.approx(factor)


@pytest.mark.parametrize("start", [0.1, 10.0])
def test_the_clip_ends_near_the_median_norm(start: float) -> None:
    """Within 10 % in 60 rounds in at least 98 % of trials: cohort 100, norms log-normal with log-sd 0.3."""
    trials, near = 200, 0
    for trial in range(trials):
        pipeline = chain(adaptive_gaussian(start, 1.0, bit_noise=5.0)).bind(
            WireType(dim=1, dtype="float64", weight=False)
        )
        sizes = np.exp(0.3 * Key.from_seed(trial).generator().standard_normal(COHORT))
        states, clips = pipeline.init(), []
        for number in range(60):
            settings = pipeline.settings(states)
            values, _ = pipeline.encode(sizes[:, None].copy(), settings, np.empty((COHORT, 0)), [])
            released = pipeline.release(values.sum(axis=0), SECRET.child(trial, number))
            _, states = pipeline.decode(released, states, info())
            clips.append(float(states[0][0]))
        near += abs(math.exp(np.log(clips[-10:]).mean()) / float(np.median(sizes)) - 1) <= 0.10
    assert near >= 0.98 * trials, near


def test_integer_noise_and_adaptive_clipping_go_together() -> None:
    wire = WireType(dim=8, dtype="float64", weight=False, most_clients=COHORT)
    pipeline = chain(adaptive_gaussian(1.0, 0.5, bit_noise=2.0), fixed_point()).bind(wire)
    keys: Any = [Keys(Key.from_seed(1).child(n), SECRET) for n in range(COHORT)]
    values = np.full((COHORT, 8), 0.05)
    encoded, _ = pipeline.encode(values.copy(), pipeline.settings(pipeline.init()), np.empty((COHORT, 0)), keys)
    released = pipeline.release(encoded.sum(axis=0, dtype=encoded.dtype), SECRET.child("once"))
    decoded, states = pipeline.decode(released, pipeline.init(), info())
    assert decoded / COHORT == pytest.approx(np.full(8, 0.05), abs=5 * 0.5 / COHORT)
    assert 0.85 < float(states[0][0]) < 0.95, "all were within the clip: it falls towards their median"


@pytest.mark.parametrize("wrong", [{"bit_noise": 0.5}, {"quantile": 0.0}, {"quantile": 1.0}, {"rate": 0.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ComponentError, match=f"adaptive_gaussian\\({next(iter(wrong))}"):
        adaptive_gaussian(**{"clip": 1.0, "noise_multiplier": 1.0, "bit_noise": 5.0, **wrong})
