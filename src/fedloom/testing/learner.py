"""check_learner: the laws that every learner keeps, whatever it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from fedloom.core.data import FEATURES, ClientDataset
from fedloom.core.keys import NO_SECRET, Key, Keys, SecretKey, permutation
from fedloom.core.learner import Job, Learner
from fedloom.core.metrics import Histogram, Mean
from fedloom.core.params import Dtype, ParamSpec, Vector
from fedloom.core.private_steps import PrivateSteps, record_bound
from fedloom.core.schedule import Schedule
from fedloom.core.work import EvaluationResult, LocalResult, LocalWork
from fedloom.entropy.secret import derived_secret
from fedloom.errors import Error

BuildLearner: TypeAlias = Callable[[Dtype], Learner]
MakeData: TypeAlias = Callable[[Key, int], ClientDataset]

DTYPES: tuple[Dtype, ...] = ("float32", "float64")
_CLOSE: dict[Dtype, float] = {"float32": 1e-4, "float64": 1e-9}
_MINIBATCH = Schedule(epochs=2, batch_size=8, learning_rate=0.05)
_FULL = Schedule(steps=3, batch_size="full", learning_rate=0.05)
_ONE = Schedule(steps=1, batch_size="full", learning_rate=0.1)


def check_learner(build: BuildLearner, make_data: MakeData, *, dtypes: Sequence[Dtype] = DTYPES) -> None:
    """Check a learner against every law below.

    Terms that it does not claim (``capabilities.linear``, ``prox``, ``gradient``, ``private``) are not asked of it.

    Args:
        build: Returns the learner for a type of parameters.
        make_data: Returns a client with a number of training rows, drawn from a key.
        dtypes: Types that the learner offers.

    Raises:
        AssertionError: With the law that is broken.
    """
    for dtype in dtypes:
        learner = build(dtype)
        data = make_data(Key.from_seed(11), 20).split("train")
        check_layout(learner)
        check_same_key_same_bytes(learner, data)
        check_zero_rate_moves_nothing(learner, data)
        check_terms(learner, data)
        check_block(learner, make_data)
        check_private(learner, make_data)
        check_evaluation_ignores_row_order(learner, data)
        check_evaluation_of_a_block(learner, make_data)
    if "float64" in dtypes:
        learner = build("float64")
        check_gradient(learner, make_data(Key.from_seed(12), 20).split("train"))


def check_layout(learner: Learner) -> None:
    """Flatten after unflatten is the identity, and ``init`` fits layout and type."""
    start = learner.init(Key.from_seed(1))
    assert start.shape == (learner.layout.size,), (
        f"init gave {start.shape}; the layout has {learner.layout.size} numbers"
    )
    assert start.dtype == learner.dtype, f"init gave {start.dtype}; the learner says {learner.dtype}"
    vector = np.arange(learner.layout.size, dtype=learner.dtype)
    again = learner.layout.flatten(learner.layout.unflatten(vector))
    assert _same(again, vector), "flatten(unflatten(v)) is not v"
    assert ParamSpec(learner.layout.leaves).digest == learner.layout.digest, (
        "the digest depends on more than the leaves"
    )


def check_same_key_same_bytes(learner: Learner, data: ClientDataset) -> None:
    """The same work under the same key gives the same bytes; arguments are left as they were."""
    if not learner.capabilities.deterministic:
        return
    start = _start(learner, 1)
    before = start.copy()
    for schedule in (_MINIBATCH, _FULL):
        first, second = (_fit(learner, [_job(data, start, schedule)])[0] for _ in range(2))
        assert _same(first.params, second.params), "the same key gave different parameters"
        assert dict(first.metrics) == dict(second.metrics), "the same key gave different metrics"
    assert _same(start, before), "fit wrote into its start"


def check_zero_rate_moves_nothing(learner: Learner, data: ClientDataset) -> None:
    """A learning rate of zero gives a delta of zero; steps, rows and the sum of rates are as asked."""
    start = _start(learner, 2)
    result = _fit(learner, [_job(data, start, replace(_FULL, learning_rate=0.0))])[0]
    trained = _trained(learner)  # statistics are measured at any rate
    assert np.array_equal(result.params[trained], start[trained]), "a learning rate of zero moved the parameters"
    taken = _fit(learner, [_job(data, start, _FULL)])[0]
    assert not np.array_equal(taken.params[trained], start[trained]), (
        "three steps at 0.05 moved nothing: the data say nothing"
    )
    assert (taken.steps, taken.examples) == (3, data.count("train")), f"steps, examples: {taken.steps, taken.examples}"
    assert np.isclose(taken.lr_sum, 3 * 0.05), f"lr_sum = {taken.lr_sum} after 3 steps of 0.05"
    assert taken.params.dtype == learner.dtype, f"fit gave {taken.params.dtype}; the learner says {learner.dtype}"
    assert set(taken.metrics) <= set(learner.fit_metrics.kinds), "fit gave metrics that fit_metrics does not declare"


def check_terms(learner: Learner, data: ClientDataset) -> None:
    """``linear`` and ``prox`` do what the local objective ``f + <linear, w> + prox/2 |w - anchor|^2`` says."""
    start = _start(learner, 3)
    close = _CLOSE[learner.dtype]
    trained = _trained(learner)
    full = _delta(learner, data, start, _ONE)
    plain = full[trained]
    scale = max(float(np.abs(plain).max()), 1e-3)
    if learner.capabilities.linear:
        held = _delta(learner, data, start, _ONE, linear=full / 0.1)[
            trained
        ]  # one plain step is -0.1 times the gradient
        assert np.abs(held).max() <= close * scale, (
            f"linear = -gradient moved the parameters by {np.abs(held).max():.3g}"
        )
        push = np.ones_like(start)
        pushed = _delta(learner, data, start, _ONE, linear=push)[trained] - plain
        assert np.allclose(pushed, -0.1, atol=close), "a linear term of one is not a step of -rate"
    if learner.capabilities.prox:
        first = _delta(learner, data, start, _ONE, prox=100.0)[trained]
        assert np.allclose(first, plain, atol=close * scale), "prox pulled in the first step, where w is the anchor"
        for prox in (1e3, 1e5):
            # Steps of 0.5 / prox halve the distance to the minimum, which is -gradient / prox away.
            schedule = replace(_FULL, steps=20, learning_rate=0.5 / prox)
            moved = _delta(learner, data, start, schedule, prox=prox)[trained]
            bound = 1.1 * np.abs(plain / 0.1).max() / prox + 10 * close * np.finfo(learner.dtype).eps
            rounding = 20 * np.finfo(learner.dtype).eps * np.abs(start).max()
            assert np.abs(moved).max() <= bound + rounding, f"prox = {prox:g} left a delta of {np.abs(moved).max():.3g}"
        anchor = start + 1
        drawn = _delta(learner, data, start, _ONE, prox=2.0, anchor=anchor)[trained] - plain
        assert np.allclose(drawn, 0.1 * 2.0, atol=close), "prox does not pull towards the anchor"


def check_block(learner: Learner, make_data: MakeData) -> None:
    """A block equals its clients one by one, in any order, of equal and of ragged sizes, with mixed step counts.

    In bytes where ``capabilities.block`` says "same bytes", else within rounding.
    """
    key = Key.from_seed(5)
    exact = learner.capabilities.block == "same bytes"
    for sizes in ((16,) * 5, (3, 20, 7, 64, 65, 1, 16, 33, 129)):
        clients = [make_data(key.child(number, size), size).split("train") for number, size in enumerate(sizes)]
        for kind, schedule in _block_schedules().items():
            jobs = [
                _job(data, _start(learner, number), _steps(schedule, kind, number), key=key.child(number))
                for number, data in enumerate(clients)
            ]
            alone = [_fit(learner, [job])[0] for job in jobs]
            for order in (range(len(jobs)), permutation(key, len(jobs)).tolist(), range(len(jobs) - 1, -1, -1)):
                places = list(order)
                for place, together in zip(places, _fit(learner, [jobs[place] for place in places]), strict=True):
                    where = f"client {place} of sizes {sizes}, {kind} steps"
                    _check_result(together, alone[place], where, exact=exact, close=_CLOSE[learner.dtype])


def check_gradient(learner: Learner, data: ClientDataset) -> None:
    """``gradient`` is the slope of its own loss (central differences), and one plain full-batch step follows it."""
    if not learner.capabilities.gradient:
        return
    at, step = _start(learner, 6), 1e-5
    answer = learner.gradient(at, data)
    trained = _trained(learner)
    for place in np.flatnonzero(trained):
        shift = np.zeros_like(at)
        shift[place] = step
        slope = (learner.gradient(at + shift, data).loss - learner.gradient(at - shift, data).loss) / (2 * step)
        found = float(answer.gradient[place])
        assert abs(slope - found) <= 1e-7 + 1e-6 * abs(slope), (
            f"gradient[{place}] = {found!r}; differences give {slope!r}"
        )
    moved = _delta(learner, data, at, _ONE)[trained]
    assert np.allclose(moved, -0.1 * answer.gradient[trained], atol=1e-10), "a full-batch step is not -rate * gradient"
    assert answer.examples == data.count("train"), f"examples = {answer.examples}"


def check_private(learner: Learner, make_data: MakeData) -> None:
    """Private steps read secret entropy alone, divide by the declared number of rows, and bound what a row changes."""
    if not learner.capabilities.private or learner.capabilities.not_private():
        return
    data, start = make_data(Key.from_seed(13), 20).split("train"), _start(learner, 13)
    noisy = _private(PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=0.3, rows=25), steps=2)
    first = _fit(learner, [_job(data, start, noisy, secret=_secret(1))])[0]
    assert (first.steps, dict(first.metrics)) == (2, {}), f"private steps gave the metrics {dict(first.metrics)}"
    assert np.isclose(first.lr_sum, 0.2), f"lr_sum = {first.lr_sum} after 2 steps of 0.1"
    other_key = _fit(learner, [_job(data, start, noisy, key=Key.from_seed(99), secret=_secret(1))])[0]
    assert _same(first.params, other_key.params), "the public key changed what private steps draw"
    other_secret = _fit(learner, [_job(data, start, noisy, secret=_secret(2))])[0]
    assert not np.array_equal(first.params, other_secret.params), "another secret drew the same rows and noise"
    try:
        _fit(learner, [_job(data, start, noisy)])
    except Error:
        pass
    else:
        raise AssertionError("private steps went on without a secret key")
    _check_private_block(learner, make_data, noisy)
    _check_private_step(learner, data, start)
    if learner.dtype == "float64":
        _check_one_row(learner, make_data(Key.from_seed(14), 21).split("train"), start)


def _check_private_block(learner: Learner, make_data: MakeData, schedule: Schedule) -> None:
    """Clients together have the bytes of each alone, whatever the learner says of its other steps."""
    clients = [make_data(Key.from_seed(30 + rows), rows).split("train") for rows in (1, 20)]
    jobs = [_job(data, _start(learner, 1), schedule, secret=_secret(len(data))) for data in clients]
    for job, together in zip(jobs, _fit(learner, jobs), strict=True):
        alone = _fit(learner, [job])[0]
        _check_result(together, alone, f"{len(job.data)} rows, private steps", exact=True, close=0.0)


def _check_private_step(learner: Learner, data: ClientDataset, start: Vector) -> None:
    """All rows, next to no noise, no row clipped: the ordinary full step; twice the declared rows, half of its sum."""
    count, clip = data.count("train"), 1e3

    def moved(rate: float, rows: int) -> Vector:
        private = PrivateSteps(clip=clip, noise_multiplier=1e-6, rate=rate, rows=rows)
        delta: Vector = _fit(learner, [_job(data, start, _private(private, steps=1), secret=_secret(3))])[0].params
        return delta - start

    whole, without_rows = moved(1.0, count), moved(2.0**-40, 2**40 * count)
    # Of a row 2**-17 of the clip may be cut off; noise is some millionths of it.
    close = 0.1 * clip * (2.0**-17 + 1e-5) + 20 * np.finfo(learner.dtype).eps * float(np.abs(start).max())
    far = float(np.abs(whole - _delta(learner, data, start, _ONE)).max())
    assert far <= close, f"a private step on all rows, none clipped, is {far:.3g} away from the ordinary one"
    half = moved(1.0, 2 * count) - without_rows
    far = float(np.abs(half - (whole - without_rows) / 2).max())
    assert far <= close, f"for twice the declared rows a step is {far:.3g} away from half: it divides by another count"


def _check_one_row(learner: Learner, data: ClientDataset, start: Vector) -> None:
    """Under shared noise a row more, a thousand times as long as others, changes the delta by at most the bound."""
    arrays, count = dict(data.arrays), data.count("train")
    arrays[FEATURES] = arrays[FEATURES].copy()
    arrays[FEATURES][-1] *= 1e3
    more = ClientDataset(arrays, {"train": slice(0, count)})
    fewer = ClientDataset({name: array[:-1] for name, array in arrays.items()}, {"train": slice(0, count - 1)})
    private = PrivateSteps(clip=0.5, noise_multiplier="shared", rate=1.0, rows=25)
    bound = record_bound(private, learning_rate=0.1)
    jobs = [_job(each, start, _private(private, steps=1)) for each in (more, fewer)]
    one, other = (result.params - start for result in _fit(learner, jobs))
    change = float(np.linalg.norm(one - other))
    assert change <= bound, f"one row changed the delta by {change:.6g}; the bound is {bound:.6g}"


def _private(private: PrivateSteps, *, steps: int) -> Schedule:
    return Schedule(steps=steps, learning_rate=0.1, private=private)


def _secret(number: int) -> SecretKey:
    return derived_secret(Key.from_seed(number).child("secret"))


def check_evaluation_ignores_row_order(learner: Learner, data: ClientDataset) -> None:
    """Permuted rows evaluate to the same figures but for rounding, as do the same rows in two parts, merged."""
    params = _start(learner, 7)
    whole = learner.evaluate(params, [data])[0]
    count = data.count("train")
    order = permutation(Key.from_seed(8), count)
    shuffled = learner.evaluate(params, [_take(data, order)])[0]
    assert set(whole.metrics) == set(learner.evaluation_metrics.kinds), "metrics differ from evaluation_metrics"
    close = _CLOSE[learner.dtype]
    for name, metric in whole.metrics.items():
        other = shuffled.metrics[name]
        if isinstance(metric, Mean) and isinstance(other, Mean):
            sums = np.allclose([metric.total, metric.weight], [other.total, other.weight], rtol=close, atol=close)
            assert sums, f"{name} depends on the order of rows: {metric} against {other}"
        elif isinstance(metric, Histogram) and isinstance(other, Histogram):
            assert np.allclose(metric.counts.sum(), other.counts.sum()), f"{name} depends on the order of rows"
    for name, score in whole.scores.items():
        again = shuffled.scores[name]
        same = score == again or (score is not None and again is not None and np.isclose(score, again, rtol=close))
        assert same, f"{name} depends on the order of rows: {score} against {again}"


def check_evaluation_of_a_block(learner: Learner, make_data: MakeData) -> None:
    """A client evaluates to the same bytes in any block; ``losses`` are those of ``evaluate``; so do predictions."""
    params = _start(learner, 9)
    clients = [make_data(Key.from_seed(20 + place), rows).split("train") for place, rows in enumerate((1, 7, 64, 20))]
    alone = [learner.evaluate(params, [data])[0] for data in clients]
    for order in ((0, 1, 2, 3), (3, 1), (2, 0, 3)):
        for place, found in zip(order, learner.evaluate(params, [clients[place] for place in order]), strict=True):
            _check_evaluation(found, alone[place], f"client {place} in the block {order}")
    for place, found in enumerate(learner.losses(params, clients)):
        assert set(found.metrics) == {"loss", "objective"} == set(found.scores), "losses gives loss and objective"
        for name, metric in found.metrics.items():
            assert metric == alone[place].metrics[name], f"losses of client {place} differ from evaluate in {name}"
    rows = clients[2].arrays[FEATURES]
    whole = learner.predict(params, rows)
    for start, stop in ((0, 1), (3, 10), (63, 64)):
        assert _same(learner.predict(params, rows[start:stop]), whole[start:stop]), (
            f"rows {start} to {stop} have other predictions alone than among others"
        )


def _check_evaluation(found: EvaluationResult, alone: EvaluationResult, where: str) -> None:
    assert dict(found.scores) == dict(alone.scores), f"{where}: other scores than alone"
    for name, metric in alone.metrics.items():
        other = found.metrics[name]
        if isinstance(metric, Histogram):
            assert isinstance(other, Histogram) and _same(metric.counts, other.counts), f"{where}: other {name}"
        else:
            assert metric == other, f"{where}: {name} is {other}, alone {metric}"


def _trained(learner: Learner) -> Vector:
    return learner.layout.mask(lambda leaf: leaf.kind == "parameter")


def _block_schedules() -> dict[str, Schedule]:
    return {"minibatch": _MINIBATCH, "full": _FULL, "mixed": _FULL, "mixed minibatch": replace(_MINIBATCH, epochs=None)}


def _steps(schedule: Schedule, kind: str, number: int) -> Schedule:
    return replace(schedule, steps=1 + (3 * number) % 5) if kind.startswith("mixed") else schedule


def _check_result(found: LocalResult, expected: LocalResult, where: str, *, exact: bool, close: float) -> None:
    assert (found.steps, found.examples, found.lr_sum) == (expected.steps, expected.examples, expected.lr_sum), where
    if exact:
        assert _same(found.params, expected.params), f"{where}: other bytes in a block than alone"
        assert dict(found.metrics) == dict(expected.metrics), f"{where}: other metrics in a block than alone"
    else:
        assert np.allclose(found.params, expected.params, rtol=close, atol=close), f"{where}: not close to alone"


def _start(learner: Learner, seed: int) -> Vector:
    draw = Key.from_seed(seed).child("start").generator()
    start: Vector = learner.init(Key.from_seed(seed)) + 0.1 * draw.standard_normal(learner.layout.size).astype(
        learner.dtype
    )
    start.setflags(write=False)
    return start


def _job(
    data: ClientDataset,
    start: Vector,
    schedule: Schedule,
    *,
    key: Key | None = None,
    secret: SecretKey = NO_SECRET,
    linear: Vector | None = None,
    prox: float = 0.0,
    anchor: Vector | None = None,
) -> Job:
    work = LocalWork(start=start, schedule=schedule, linear=linear, prox=prox, anchor=anchor)
    return Job(work, data, Keys(Key.from_seed(9) if key is None else key, secret))


def _fit(learner: Learner, jobs: Sequence[Job]) -> Sequence[LocalResult]:
    results = learner.fit(jobs)
    assert len(results) == len(jobs), f"{len(jobs)} jobs gave {len(results)} results"
    return results


def _delta(
    learner: Learner,
    data: ClientDataset,
    start: Vector,
    schedule: Schedule,
    *,
    linear: Vector | None = None,
    prox: float = 0.0,
    anchor: Vector | None = None,
) -> Vector:
    job = _job(data, start, schedule, linear=linear, prox=prox, anchor=anchor)
    delta: Vector = _fit(learner, [job])[0].params - start
    return delta


def _take(data: ClientDataset, order: Vector) -> ClientDataset:
    return ClientDataset({name: array[order] for name, array in data.arrays.items()}, data.rows)


def _same(left: Vector, right: Vector) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
