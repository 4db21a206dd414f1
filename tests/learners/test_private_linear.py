"""Private steps of linear models: what one row can change, checked on the integers; the laws of rows and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.events import DiscreteGaussianDpEvent
from fedloom.core.keys import NO_SECRET, Key, Keys, SecretKey
from fedloom.core.learner import Job
from fedloom.core.private_steps import PrivateSteps, noise_grid, record_event
from fedloom.core.schedule import Schedule
from fedloom.core.work import LocalResult, LocalWork
from fedloom.entropy.secret import Secret, derived_secret
from fedloom.errors import ComponentError, Error
from fedloom.learners import LinearLearner, logistic, ridge
from fedloom.learners.private_linear import rows_of
from fedloom.learners.private_training import drawn_rows, integer_noise, on_grid, secret_of
from fedloom.optim import adam
from fedloom.testing import rows, schema_of
from fedloom.testing.fakes import Task

quick = settings(max_examples=80, derandomize=True, database=None, deadline=None)
FALSE_ALARM = 1e-4
NUMBERS = st.one_of(
    st.floats(-10, 10),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, -1e-160, 1e80, -1e150, 1e160, 1.7e308]),
    st.integers(-3, 3).map(float),
)


def made(task: Task, columns: int = 3, **arguments: Any) -> LinearLearner:
    builder = ridge if task == "regression" else logistic
    learner = builder(**arguments).build(schema_of(task, columns=columns))
    assert isinstance(learner, LinearLearner)
    return learner


def dataset(features: Any, labels: Any) -> ClientDataset:
    return ClientDataset(
        {FEATURES: np.asarray(features, np.float64), LABEL: np.asarray(labels)}, {"train": slice(0, len(labels))}
    )


def some(data: ClientDataset, places: Any) -> ClientDataset:
    return dataset(data.arrays[FEATURES][places], data.arrays[LABEL][places])


def secret(number: int = 1) -> Secret:
    return derived_secret(Key.from_seed(number))


def fit(learner: LinearLearner, data: ClientDataset, private: PrivateSteps, **fields: Any) -> LocalResult:
    work = {name: fields.pop(name) for name in ("linear", "prox", "anchor", "start") if name in fields}
    own = fields.pop("secret", secret())
    schedule = Schedule(**{"steps": 1, "learning_rate": 0.5} | fields, private=private)
    start = work.pop("start", np.zeros(learner.layout.size, learner.dtype))
    return learner.fit([Job(LocalWork(start=start, schedule=schedule, **work), data, Keys(Key.from_seed(0), own))])[0]


def drawn_from(start: Any) -> SecretKey:
    """Return what ``fit`` draws from, for a start and no other vector."""
    work = LocalWork(start=start, schedule=Schedule(steps=1))
    return secret_of(Job(work, rows(Key.from_seed(0), 1), Keys(Key.from_seed(0), secret())))


def squared(vector: Any) -> int:
    """Return the squared norm in Python's integers, which do not overflow."""
    return sum(int(number) ** 2 for number in vector)


@quick
@given(data=st.data(), task=st.sampled_from(["binary", "classes", "regression"]), intercept=st.booleans())
def test_no_row_adds_more_than_the_clip_and_none_changes_what_another_adds(
    data: st.DataObject, task: Task, intercept: bool
) -> None:
    learner = made(task, intercept=intercept)
    count = data.draw(st.integers(1, 6))
    features = data.draw(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=count, max_size=count))
    labels = data.draw(
        st.lists(NUMBERS, min_size=count, max_size=count)
        if task == "regression"
        else st.lists(st.integers(0, 1 if task == "binary" else 2), min_size=count, max_size=count)
    )
    params = np.array(data.draw(st.lists(NUMBERS, min_size=learner.layout.size, max_size=learner.layout.size)))
    clip = data.draw(st.sampled_from([1e-8, 0.3, 1.0, 1e6]))
    with np.errstate(all="ignore"):
        whole = rows_of(learner.model, dataset(features, labels), clip=clip)
        alone = [whole.clipped(params, np.array([place])) for place in range(count)]
        together = whole.clipped(params, None)
    assert together.dtype == np.int64
    assert max(map(squared, alone)) <= 2 ** (2 * whole.bits)
    assert together.tolist() == [sum(int(each[i]) for each in alone) for i in range(len(together))]


@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_row_adds_its_gradient_clipped_as_finite_differences_find_it(task: Task, intercept: bool) -> None:
    learner = made(task, intercept=intercept, l2=0.0)
    data = rows(Key.from_seed(4), 12, task=task)
    params, step = Key.from_seed(5).generator().standard_normal(learner.layout.size), 1e-5
    gradients = [
        np.array(
            [
                (learner.gradient(params + shift, row).loss - learner.gradient(params - shift, row).loss) / (2 * step)
                for shift in step * np.eye(len(params))
            ]
        )
        for row in (some(data, [place]) for place in range(12))
    ]
    norms = [float(np.linalg.norm(gradient)) for gradient in gradients]
    clip = float(np.median(norms))  # half of the rows are clipped
    whole = rows_of(learner.model, data, clip=clip)
    for place, (gradient, norm) in enumerate(zip(gradients, norms, strict=True)):
        found = whole.clipped(params, np.array([place])) * clip / 2**whole.bits
        assert np.allclose(found, gradient * min(1.0, clip / norm), atol=2e-5 * max(clip, 1.0)), f"row {place}"


def test_class_weights_are_inside_the_clip() -> None:
    heavy = made("binary", class_weight={"yes": 50.0})
    data = rows(Key.from_seed(4), 12)
    whole = rows_of(heavy.model, data, clip=1.0)
    norms = [squared(whole.clipped(np.zeros(4), np.array([place]))) for place in range(12)]
    assert max(norms) <= 2 ** (2 * whole.bits)
    assert max(norms) > 0.999 * 2 ** (2 * whole.bits)


def test_many_rows_are_summed_exactly_whatever_the_groups() -> None:
    learner = made("binary", columns=300)
    draw = np.random.default_rng(0)
    data = dataset(draw.standard_normal((900, 300)), draw.integers(0, 2, 900))
    whole = rows_of(learner.model, data, clip=1.0)
    params = draw.standard_normal(301) / 10
    halves = whole.clipped(params, np.arange(0, 900, 2)) + whole.clipped(params, np.arange(1, 900, 2))
    assert np.array_equal(whole.clipped(params, None), halves)
    assert np.array_equal(whole.clipped(params, draw.permutation(900)), halves)
    assert np.abs(whole.clipped(params, None)).max() < 2**53


def test_a_step_is_the_exact_sum_on_the_grid_and_integer_noise() -> None:
    learner = made("classes", l2=0.2)
    data = rows(Key.from_seed(6), 40, task="classes")
    private = PrivateSteps(clip=0.7, noise_multiplier=0.9, rate=0.4, rows=50)
    start = 0.3 * Key.from_seed(7).generator().standard_normal(learner.layout.size)
    found = fit(learner, data, private, start=start)
    grid = noise_grid(0.9, len(start))
    whole = rows_of(learner.model, data, clip=0.7)
    own = drawn_from(start)
    total = whole.clipped(start, drawn_rows(0.4, 40, own.child("batches", 0)))
    noised = on_grid(total, fine=whole.bits, bits=grid.bits) + integer_noise(grid, 1, own.child("noise", 0))[0]
    penalty = np.where(np.arange(len(start)) < 9, 0.2 * start, 0.0)
    expected = start - 0.5 * (noised * (0.7 / 2**grid.bits / 20.0) + penalty)
    assert np.allclose(found.params, expected, atol=1e-15)


def test_a_row_more_changes_nothing_but_the_sum_by_at_most_the_bound() -> None:
    learner = made("binary", l2=0.1)
    data = rows(Key.from_seed(8), 31)
    data.arrays[FEATURES][-1] *= 100.0
    private = PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=1.0, rows=30)
    more, fewer = fit(learner, data, private), fit(learner, some(data, slice(0, 30)), private)
    event = record_event(private, steps=1, dim=4)
    assert isinstance(event, DiscreteGaussianDpEvent)
    unit = 0.5 * 0.5 / 2 ** noise_grid(1.0, 4).bits / 30
    steps = (more.params - fewer.params) / unit
    assert np.allclose(steps, np.rint(steps), atol=1e-6), "deltas differ by whole steps of the grid"
    assert 0.9 * event.l2 < float(np.linalg.norm(steps)) <= event.l2


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    learner = made("binary", l2=0.0)
    private = PrivateSteps(clip=1.0, noise_multiplier=2.0, rate=2.0**-40, rows=2**40)
    results = [fit(learner, rows(Key.from_seed(seed), 30), private).params for seed in (1, 2)]
    assert np.array_equal(results[0], results[1])
    grid = noise_grid(2.0, 4)
    steps = results[0] / (0.5 / 2**grid.bits)
    assert np.array_equal(np.rint(-steps), integer_noise(grid, 1, drawn_from(np.zeros(4)).child("noise", 0))[0])


def test_a_sum_is_rounded_by_less_than_one_step_of_the_grid() -> None:
    draw = np.random.default_rng(1)
    total = draw.integers(-(2**40), 2**40, 2000)
    change = draw.integers(-(2**36), 2**36, 2000)
    moved = on_grid(total + change, fine=36, bits=11) - on_grid(total, fine=36, bits=11)
    assert (np.abs(moved - change / 2.0**25) < 1).all()
    assert np.array_equal(on_grid(total, fine=36, bits=36), total)


def test_rows_are_drawn_independently_with_the_rate() -> None:
    """Every row equally often, batches as unequal as Binomial sizes are, pairs independent: each at 1e-4."""
    steps, count, rate = 3000, 40, 0.15
    joined = np.zeros((steps, count))
    for step in range(steps):
        joined[step, drawn_rows(rate, count, secret(5).child("batches", step))] = 1
    spread = rate * (1 - rate)
    by_row = ((joined.sum(axis=0) - steps * rate) ** 2).sum() / (steps * spread)
    sizes = ((joined.sum(axis=1) - count * rate) ** 2).sum() / (count * spread)
    centred = (joined - rate) / np.sqrt(spread)
    pairs = (centred.T @ centred / np.sqrt(steps))[np.triu_indices(count, 1)]
    for statistic, freedom in [(by_row, count), (sizes, steps), ((pairs**2).sum(), len(pairs))]:
        low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], freedom)
        assert low < statistic < high
    assert drawn_rows(1.0, count, NO_SECRET) is None


def test_a_step_of_noise_has_the_deviation_that_is_priced() -> None:
    learner = made("binary", columns=400, l2=0.0)
    data = dataset(np.zeros((1, 400)), [0])
    private = PrivateSteps(clip=2.0, noise_multiplier=1.5, rate=2.0**-40, rows=2**40)
    found = fit(learner, data, private, steps=50, learning_rate=1.0).params
    sigma = noise_grid(1.5, 401).sigma / 2 ** noise_grid(1.5, 401).bits * 2.0
    assert sigma >= 1.5 * 2.0
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 401)
    assert low < float(found @ found) / (50 * sigma**2) < high


def test_a_server_that_asks_twice_from_two_starts_gets_two_noises() -> None:
    """One noise on two sums would be no noise on their difference."""
    learner, data = made("binary", l2=0.0), rows(Key.from_seed(9), 25)
    private = PrivateSteps(clip=1.0, noise_multiplier=8.0, rate=2.0**-40, rows=2**40)
    nudge = np.array([1e-9, 0.0, 0.0, 0.0])
    one, two = fit(learner, data, private).params, fit(learner, data, private, start=nudge).params
    assert np.abs(one - two).max() > 0.1
    pulled = fit(learner, data, private, linear=nudge).params
    assert np.abs(one - pulled).max() > 0.1
    assert np.array_equal(one, fit(learner, data, private).params)


def test_neither_rows_nor_noise_come_from_the_public_key_and_every_step_draws_its_own() -> None:
    learner, data = made("binary"), rows(Key.from_seed(9), 25)
    private = PrivateSteps(clip=1.0, noise_multiplier=1.0, rate=0.5, rows=25)
    with pytest.raises(Error, match="without secret keys"):
        fit(learner, data, private, secret=NO_SECRET)
    one, two = fit(learner, data, private, steps=1), fit(learner, data, private, steps=2)
    assert not np.allclose(two.params - one.params, one.params, atol=1e-3), "step 2 drew the noise of step 1"


def test_the_shared_mode_gives_the_exact_clipped_sum_over_the_public_denominator() -> None:
    learner, data = made("binary", l2=0.1), rows(Key.from_seed(10), 30)
    start = 0.1 * np.ones(4)
    private = PrivateSteps(clip=0.4, noise_multiplier="shared", rate=1.0, rows=40)
    found = fit(learner, data, private, start=start, secret=NO_SECRET)
    whole = rows_of(learner.model, data, clip=0.4)
    total = whole.clipped(start, None) * 0.4 / 2**whole.bits / 40 + 0.1 * start * [1, 1, 1, 0]
    assert np.allclose(found.params, start - 0.5 * total, atol=1e-15)


def test_the_shared_mode_refuses_parameters_that_float64_rounds_too_coarsely() -> None:
    data = rows(Key.from_seed(10), 30)
    private = PrivateSteps(clip=0.4, noise_multiplier="shared", rate=1.0, rows=40)
    with pytest.raises(ComponentError, match="float64"):
        fit(made("binary", dtype="float32"), data, private)
    with pytest.raises(ComponentError, match="too large beside"):
        fit(made("binary"), data, private, start=np.full(4, 1e12))


def test_terms_optimizer_and_decay_come_after_the_noise() -> None:
    learner, data = made("binary", l2=0.0), rows(Key.from_seed(11), 30)
    private = PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=0.5, rows=30)
    start, pull = 0.2 * np.ones(4), np.array([1.0, -2.0, 0.5, 3.0])
    bare = fit(learner, data, private, start=start).params - start
    shared = PrivateSteps(clip=0.5, noise_multiplier="shared", rate=1.0, rows=30)  # where no noise hides the terms
    clear = fit(learner, data, shared, start=start).params - start
    linear = fit(learner, data, shared, start=start, linear=pull).params - start
    assert np.allclose(linear, clear - 0.5 * pull, atol=1e-14)
    drawn = fit(learner, data, shared, start=start, prox=2.0, anchor=start + 1).params - start
    assert np.allclose(drawn, clear + 0.5 * 2.0, atol=1e-14)
    decayed = fit(learner, data, private, start=start, weight_decay=0.3).params - start
    assert np.allclose(decayed, bare - 0.5 * 0.3 * start, atol=1e-14)
    cut = fit(learner, data, private, start=start, clip_norm=1e-3).params - start
    assert np.linalg.norm(cut) == pytest.approx(0.5e-3)
    signs = fit(learner, data, private, start=start, optimizer=adam(beta1=0.0, beta2=0.0, tau=1e-12)).params - start
    assert np.allclose(np.sign(signs), np.sign(bare))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_private_and_ordinary_jobs_share_a_block_and_have_the_bytes_of_each_alone(dtype: str) -> None:
    learner = made("classes", dtype=dtype)
    private = PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=0.5, rows=20)
    jobs = []
    for place, own in enumerate([private, None, private, None]):
        data = rows(Key.from_seed(place), 10 + place, task="classes", dtype=dtype)
        schedule = Schedule(steps=3, learning_rate=0.1, private=own)
        work = LocalWork(start=learner.init(Key.from_seed(0)), schedule=schedule)
        jobs.append(Job(work, data, Keys(Key.from_seed(place), secret(place))))
    for job, together in zip(jobs, learner.fit(jobs), strict=True):
        alone = learner.fit([job])[0]
        assert together.params.dtype == dtype
        assert together.params.tobytes() == alone.params.tobytes()
        assert bool(together.metrics) is (job.work.schedule.private is None)


def test_parameters_that_ran_away_leave_noise_and_no_nan_in_the_sum() -> None:
    learner, data = made("regression"), rows(Key.from_seed(12), 20, task="regression")
    whole = rows_of(learner.model, data, clip=1.0)
    with np.errstate(all="ignore"):
        for params in (np.full(4, np.nan), np.full(4, np.inf), np.full(4, 1e308), np.full(4, -1e300)):
            total = whole.clipped(params, None)
            assert squared(total) <= (20 * 2**whole.bits) ** 2
        assert not whole.clipped(np.full(4, np.nan), None).any()
        assert whole.clipped(np.full(4, -1e300), None).any(), "a gradient too long for its square is clipped, not lost"
