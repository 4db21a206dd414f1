"""How much local work a client does, and how its numbers change by round."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId
from fedloom.core.keys import Stream, permutations
from fedloom.core.optimizer import AnyOptimizer
from fedloom.core.private_steps import PrivateSteps
from fedloom.errors import ComponentError

FULL_BATCH_ROWS = 64
"""A full batch is padded to a multiple of this, a length that depends on its client alone."""
_ROWS_OF_A_BATCH = 32


@dataclass(frozen=True, slots=True)
class Ramp:
    """A number that changes by round: a pure function of the number of rounds before it, so 0 in round 1."""

    at: Callable[[int], float]
    spec: ComponentSpec | None = None


def value_at(number: float | Ramp, round_number: int) -> float:
    """Return a constant as it is, a ramp at a round; rounds count from 1."""
    return number.at(round_number - 1) if isinstance(number, Ramp) else number


def at_least_zero(name: str, number: float | Ramp) -> float | Ramp:
    """Return a number or ramp; a constant is checked where it is written, a ramp checks its own.

    Raises:
        ComponentError: When the number is negative or not finite.
    """
    if not isinstance(number, Ramp) and not 0 <= number < math.inf:
        raise ComponentError(f"{name} = {number}; expected 0 or more")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Local work of one round: how many steps, over which batches, with which optimizer.

    Exactly one of ``epochs`` (passes over the client's rows; bigger clients take more steps) and ``steps`` (a number,
    or a table of client id to number) is given; without either it is one epoch. Each step's gradient is: mean loss of
    the batch and penalty, plus the linear and proximal terms of the work; then clipped to ``clip_norm``; then
    ``weight_decay * w`` is added, on every coordinate; then the optimizer makes a step of it. A batch size larger than
    the client means that client's full batch; the last, shorter batch of an epoch is used.

    With ``private`` a step reads rows drawn one by one, in place of a batch of a size, and protects each of them: its
    gradient is the noised sum over the expected number of rows, and every other term is added after the noise.

    Raises:
        ComponentError: When a number is outside its range, or fields exclude each other.
    """

    epochs: int | None = None
    steps: int | Mapping[str, int] | None = None
    batch_size: int | Literal["full"] = _ROWS_OF_A_BATCH
    learning_rate: float | Ramp = 0.1
    optimizer: AnyOptimizer | None = None
    """None is plain gradient descent. Its moments start afresh every round."""
    clip_norm: float | None = None
    weight_decay: float = 0.0
    private: PrivateSteps | None = None

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        if self.epochs is not None and self.steps is not None:
            raise ComponentError("schedule: epochs and steps exclude each other; give one of them")
        counts = self.steps.values() if isinstance(self.steps, Mapping) else [self.steps]
        for name, count in [("epochs", self.epochs), *(("steps", count) for count in counts)]:
            if count is not None and count < 1:
                raise ComponentError(f"schedule: {name} = {count}; expected 1 or more")
        size: object = self.batch_size
        if size != "full" and not (isinstance(size, int) and size >= 1):
            raise ComponentError(f'schedule: batch_size = {self.batch_size!r}; expected 1 or more, or "full"')
        at_least_zero("schedule: learning_rate", self.learning_rate)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ComponentError(f"schedule: clip_norm = {self.clip_norm}; expected more than 0")
        if not self.weight_decay >= 0:
            raise ComponentError(f"schedule: weight_decay = {self.weight_decay}; expected 0 or more")
        if self.private is not None:
            self._check_private(self.private)

    def _check_private(self, private: PrivateSteps) -> None:
        """Refuse what private steps have no meaning for, or what shared noise would not cover."""
        if self.steps is None:
            raise ComponentError(
                "schedule: private steps draw their rows by chance, so no number of them is an epoch; give steps"
            )
        if self.batch_size != _ROWS_OF_A_BATCH:
            raise ComponentError(
                f"schedule: batch_size = {self.batch_size!r} has no meaning for private steps, whose rows come by "
                "private.rate; leave it out"
            )
        if not private.shared:
            return
        shaped = self.clip_norm is not None or not (self.optimizer is None or self.optimizer.plain)
        if self.steps != 1 or shaped:
            raise ComponentError(
                'schedule: private.noise_multiplier = "shared" covers one plain local step; a second one, clip_norm or '
                "an optimizer would see gradients without noise. Give steps = 1 and none of these, or noise of the "
                "client's own"
            )
        if isinstance(self.learning_rate, Ramp) or not isinstance(private.rows, int):
            raise ComponentError(
                'schedule: under private.noise_multiplier = "shared" learning_rate and private.rows are one number for '
                "all rounds and clients, because the noise is sized by them; let server_lr change by round"
            )

    @property
    def plain(self) -> bool:
        """True where a step is the learning rate times the gradient, nothing else."""
        optimizer = self.optimizer is None or self.optimizer.plain
        return optimizer and self.clip_norm is None and not self.weight_decay

    def at(self, round_number: int, client: ClientId) -> Schedule:
        """Return the schedule with the numbers of one round and one client.

        Raises:
            ComponentError: When ``steps`` or ``private.rows`` is a table without this client.
        """
        private = None if self.private is None else self.private.at(client)
        if not isinstance(self.learning_rate, Ramp) and not isinstance(self.steps, Mapping) and private is self.private:
            return self
        steps = self.steps
        if isinstance(steps, Mapping):
            if client not in steps:
                raise ComponentError(f"schedule: steps has no entry for client {client!r}")
            steps = steps[client]
        rate = value_at(self.learning_rate, round_number)
        return replace(self, learning_rate=rate, steps=steps, private=private)

    def batch_rows(self, count: int) -> int:
        """Return the padded length of every batch of a client with ``count`` rows: it depends on that client alone."""
        if self.batch_size == "full" or self.batch_size >= count:
            return -(-count // FULL_BATCH_ROWS) * FULL_BATCH_ROWS
        return self.batch_size

    def order(self, count: int, stream: Stream) -> Order:
        """Return which rows each step reads, for a client with ``count`` rows.

        Every epoch is a fresh permutation drawn from ``stream.child("epoch", e)``; a full batch reads rows in order.
        """
        return self.orders(count, [stream])[0]

    def orders(self, count: int, streams: Sequence[Stream]) -> list[Order]:
        """Return the order of each of several clients with ``count`` rows; each is what ``order`` gives it."""
        epochs = 1 if self.epochs is None else self.epochs
        if self.batch_size == "full" or self.batch_size >= count:
            steps = self.steps if isinstance(self.steps, int) else epochs
            return [Order(None, np.full(steps, count))] * len(streams)
        size = self.batch_size
        per_epoch = -(-count // size)
        steps = self.steps if isinstance(self.steps, int) else epochs * per_epoch
        rounds = -(-steps // per_epoch)
        valid = _valid_rows(count, size, steps)
        drawn = permutations([s.child("epoch", epoch) for s in streams for epoch in range(rounds)], count)
        if count < per_epoch * size:  # the last batch of an epoch is padded with row 0
            padded = np.zeros((len(drawn), per_epoch * size), np.int64)
            padded[:, :count] = drawn
            drawn = padded
        by_client = drawn.reshape(len(streams), -1, size)
        return [Order(rows[:steps], valid) for rows in by_client]


class Order(Struct, frozen=True):
    """Which rows each local step reads.

    ``rows`` has shape ``(steps, batch)``, None for a full batch in row order; ``valid`` counts the leading entries of
    each step that are rows; the others are padding (they point at row 0 and have weight zero).
    """

    rows: npt.NDArray[np.int64] | None
    valid: npt.NDArray[np.int64]

    @property
    def steps(self) -> int:
        """Number of local steps."""
        return len(self.valid)


@functools.lru_cache(maxsize=4096)
def _valid_rows(count: int, size: int, steps: int) -> npt.NDArray[np.int64]:
    """Return how many rows each step really has: the last step of an epoch may have fewer."""
    per_epoch = -(-count // size)
    valid = np.full(steps, size)
    valid[per_epoch - 1 :: per_epoch] = count - (per_epoch - 1) * size
    valid.setflags(write=False)
    return valid
