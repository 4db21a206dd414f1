"""Local steps that protect single rows: what is the same for every model, from drawn rows to a moved parameter.

A model gives one thing: the sum of the clipped gradients of some rows, in integers of which the clip is a power of two.
Everything that touches rows happens in there. What comes out is rounded to the grid of the noise, noised, and only then
a float; all terms that do not read rows (penalty, linear, prox, weight decay, an optimizer's moments) come after.
"""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedloom.core.keys import SecretKey, Stream
from fedloom.core.learner import Job
from fedloom.core.params import Dtype, Vector
from fedloom.core.private_steps import NoiseGrid, PrivateSteps, noise_grid, record_bound, room_for
from fedloom.core.schedule import Schedule
from fedloom.core.work import LocalResult, LocalWork
from fedloom.errors import ComponentError, DataError

Integers = npt.NDArray[np.int64]

MOST_ROWS = 2**26
"""Rows of a client at most: so many clipped gradients add up within 64 bits on every fine grid."""
_NOISE_AT_ONCE = 1 << 16
_MOST_CLIPS = 20
"""Under shared noise a coordinate of a sum is cut at ``2**20`` clips: which makes no row's effect larger."""


class RowSums(Protocol):
    """The rows of one client, as sums of clipped gradients."""

    @property
    def count(self) -> int:
        """Number of rows."""
        ...

    @property
    def bits(self) -> int:
        """The clip is ``2**bits``."""
        ...

    def clipped(self, params: Vector, rows: Integers | None) -> Integers:
        """Return the sum over ``rows`` (None: all) of integer vectors, one a row, of norm at most ``2**bits`` each.

        A row's vector is a function of the row and of ``params``, and of nothing else. No rows: zeros.
        """
        ...


def train_private(job: Job, sums: RowSums, *, penalty: Vector, dtype: Dtype) -> LocalResult:
    """Do the local work of one client by private steps. The result has no metrics: they would be of bare rows.

    Args:
        job: Work whose schedule has ``private``; rows and noise are drawn from its ``secret_of``, by step.
        sums: The client's rows.
        penalty: ``l2`` of each parameter, zero where there is none, shape ``(d,)``.
        dtype: Type of the parameters.

    Raises:
        ComponentError: When noise or type of the parameters do not suit the model.
        DataError: When there are more rows than sums of them can hold.

    Guarantee:
        ``core.private_steps.record_event`` with the schedule's steps, for rows there or not, whatever else is known:
        all other rows, the start, the public key, the results of every step. Under shared noise: none by itself; the
        delta changes by at most ``record_bound`` in the norm.
    """
    work, schedule = job.work, job.work.schedule
    private, steps, rate = _numbers(schedule)
    if sums.count > MOST_ROWS:
        raise DataError(f"private steps sum the rows of a client exactly up to {MOST_ROWS} rows; it has {sums.count}")
    params, secret = np.array(work.start, dtype), secret_of(job)
    release: _Exact | _Noised
    if private.shared:
        release = _Exact(private, sums.bits)
        _check_room(work, penalty, private, rate=rate, dtype=dtype)
    else:
        release = _Noised(private, steps, sums.bits, dim=len(params), secret=secret)
    terms = _Terms(work, penalty, params)
    optimizer = schedule.optimizer
    moments = None if optimizer is None or optimizer.plain else optimizer.init(params)
    for step in range(steps):
        rows = drawn_rows(private.rate, sums.count, secret.child("batches", step))
        gradient = terms.added(release.gradient(step, sums.clipped(params, rows)), params)
        if optimizer is not None and moments is not None:
            gradient, moments = optimizer.update(gradient.astype(dtype, copy=False), moments)
        params -= (rate * gradient).astype(dtype, copy=False)
    return LocalResult(params=params, lr_sum=steps * rate, steps=steps, examples=sums.count)


def secret_of(job: Job) -> SecretKey:
    """Return what a job draws from: its secret key, at a path that names the vectors which the server chose.

    A server that asks twice under one round, from two starts, would get two sums with one noise, and their difference
    without any. With the vectors in the path it gets two noises; asked twice alike it gets the same bytes.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for vector in (job.work.start, job.work.linear, job.work.anchor):
        hashed.update(b"none" if vector is None else f"{vector.dtype.str}{vector.shape}".encode() + vector.tobytes())
    return job.keys.secret.child("work", hashed.hexdigest())


def drawn_rows(rate: float, count: int, secret: Stream) -> Integers | None:
    """Return which of ``count`` rows a step reads, ascending; None: all, at a rate of 1.

    Each is drawn by itself: when its word of 64 bits is below ``floor(rate * 2**64)``, a chance that is never above
    ``rate``. There may be none.

    Example:
        >>> from fedloom.core.keys import Key
        >>> drawn_rows(0.25, 12, Key.from_seed(3).child("batches", 0)).tolist()
        [6, 9, 10]
    """
    if rate >= 1:
        return None
    limit = np.uint64(math.floor(rate * 2.0**64))
    rows: Integers = np.flatnonzero(secret.random_raw(count) < limit)
    return rows


def on_grid(total: Integers, *, fine: int, bits: int) -> Integers:
    """Return a sum in steps of ``2**-bits`` of the clip, for one in steps of ``2**-fine``: the nearest, halves up.

    Each coordinate is ``floor`` of an exact number: so two sums that differ by ``g`` fine steps give integers that
    differ from ``g / 2**(fine - bits)`` by less than one.

    Example:
        >>> on_grid(np.array([-24, -23, 23, 24]), fine=5, bits=1).tolist()
        [-1, -1, 1, 2]
    """
    down = fine - bits
    if not down:
        return total
    rounded: Integers = (total + (1 << (down - 1))) >> down
    return rounded


class _Noised:
    """Sums on the grid of the noise, with noise of this client's own."""

    def __init__(self, private: PrivateSteps, steps: int, fine: int, *, dim: int, secret: Stream) -> None:
        multiplier = private.noise_multiplier
        assert not isinstance(multiplier, str), "shared noise is not the client's"
        self.grid = noise_grid(multiplier, dim)
        self.steps, self.fine, self.secret = steps, fine, secret
        self.unit = private.clip / 2.0**self.grid.bits / private.expected
        # Noise is drawn for many steps at once, before their rows are looked at.
        self.many = max(1, _NOISE_AT_ONCE // dim)
        self.noise = np.empty((0, dim), np.int64)

    def gradient(self, step: int, total: Integers) -> Vector:
        """Return the noised sum over the public denominator."""
        place = step % self.many
        if not place:
            self.noise = integer_noise(self.grid, min(self.many, self.steps - step), self.secret.child("noise", step))
        noised: Vector = (on_grid(total, fine=self.fine, bits=self.grid.bits) + self.noise[place]) * self.unit
        return noised


class _Exact:
    """Sums without noise, for one step: what is added to the sum over clients covers them."""

    def __init__(self, private: PrivateSteps, fine: int) -> None:
        self.most = 1 << (fine + _MOST_CLIPS)
        self.unit = private.clip / 2.0**fine / private.expected

    def gradient(self, step: int, total: Integers) -> Vector:
        """Return the sum over the public denominator."""
        assert step == 0, "schedules refuse shared noise with more than one step"
        cut: Vector = np.clip(total, -self.most, self.most) * self.unit
        return cut


def integer_noise(grid: NoiseGrid, steps: int, secret: Stream) -> Integers:
    """Return the noise of some steps, ``(steps, dim)``, in steps of the grid."""
    from fedloom.entropy.discrete_noise import discrete_gaussian

    total = np.zeros((steps, grid.dim), np.int64)
    for draw in range(grid.draws):
        total += discrete_gaussian(secret.child("draw", draw), grid.sigma**2, total.size).reshape(total.shape)
    return total


class _Terms:
    """What is added to a released gradient: it reads parameters, never rows."""

    def __init__(self, work: LocalWork, penalty: Vector, start: Vector) -> None:
        self.schedule, self.prox = work.schedule, work.prox
        self.penalty = penalty if penalty.any() else None
        self.linear = work.linear
        self.anchor = None if not work.prox else start.copy() if work.anchor is None else work.anchor

    def added(self, gradient: Vector, params: Vector) -> Vector:
        """Return the gradient of the whole local objective, clipped and decayed as the schedule says."""
        if self.penalty is not None:
            gradient = gradient + self.penalty * params
        if self.linear is not None:
            gradient = gradient + self.linear
        if self.anchor is not None:
            gradient = gradient + self.prox * (params - self.anchor)
        if self.schedule.clip_norm is not None:
            norm = math.sqrt(float(gradient @ gradient))
            gradient = gradient * min(1.0, self.schedule.clip_norm / max(norm, np.finfo(np.float64).tiny))
        if self.schedule.weight_decay:
            gradient = gradient + self.schedule.weight_decay * params
        return gradient


def _numbers(schedule: Schedule) -> tuple[PrivateSteps, int, float]:
    private, steps, rate = schedule.private, schedule.steps, schedule.learning_rate
    assert private is not None, "private steps were asked for"
    assert isinstance(steps, int), "private schedules give steps, and schedule.at() puts a number in place of a table"
    assert isinstance(rate, float | int), "schedule.at() has put a number in place of a ramp"
    return private, steps, float(rate)


def _check_room(work: LocalWork, penalty: Vector, private: PrivateSteps, *, rate: float, dtype: Dtype) -> None:
    """Refuse where rounding between the exact sum and the delta could exceed the slack of the bound.

    All that is looked at is public: the start, the terms, and the most that a sum can be.
    """
    if dtype != "float64":
        raise ComponentError(
            f'private: noise_multiplier = "shared" needs parameters of float64; these are of {dtype}, and rounding to '
            'so few digits adds to what a row can change. Set dtype = "float64" of the learner, or give noise of the '
            "client's own"
        )
    start = np.asarray(work.start, np.float64)
    terms = _Terms(work, penalty, start).added(np.zeros_like(start), start)
    bound = record_bound(private, learning_rate=rate)
    largest = float(np.abs(start).max(initial=0)) + rate * float(np.abs(terms).max(initial=0)) + bound * 2**_MOST_CLIPS
    if bound and not largest <= room_for(bound, len(start)):
        raise ComponentError(
            f"private: parameters or steps of up to {largest:.3g} are too large beside {bound:.3g}, what a row may "
            "change: float64 rounds too coarsely between them. Start from smaller parameters, or scale the features"
        )
