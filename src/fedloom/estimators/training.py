"""From an estimator's parameters to a run: algorithm, stop, preparation and engine; and back to what it shows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from fedloom.algorithms import fedadagrad, fedadam, fedavg, fedavgm, fedsgd, fedyogi, scaffold
from fedloom.analytics import moments, standardise
from fedloom.analytics.standardise import Standardise, is_constant
from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.learner import LearnerBuilder
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.data import Pooled
from fedloom.engines import RunResult, local
from fedloom.errors import ComponentError
from fedloom.estimators.acceleration import accelerated
from fedloom.experiment import Experiment
from fedloom.runtime.stopping import any_of, max_rounds, small_update

Preparation: TypeAlias = Literal["standardise"] | None
_EVALUATIONS = 20
"""Times that the objective is evaluated over a run that goes to its last round."""

_LOCAL: Mapping[str, Callable[[Schedule], AnyAlgorithm]] = {
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedyogi": fedyogi,
    # Its own weights give the optimum of the mean over silos; these give that of all rows together.
    "scaffold": lambda schedule: scaffold(schedule, weighting="examples"),
}
NAMED = ("accelerated", "fedsgd", *_LOCAL)
"""Algorithms that a name stands for."""


class FederatedEstimator(BaseEstimator):  # type: ignore[misc]
    """What all estimators share: parameters, and a history that a pickle keeps without the run behind it.

    Scikit-learn's interface is made of classes, so these are classes too.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Leave the result of the run out: it holds functions, which are never pickled."""
        return {name: value for name, value in super().__getstate__().items() if name != "result_"}

    def _engine(self) -> Any:
        return local() if self.engine is None else self.engine

    def _keep(self, result: RunResult) -> None:
        self.result_ = result
        self.history_ = history_of(result)
        self.n_iter_ = len(result.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Local work of an algorithm that is given by name."""

    epochs: int
    batch_size: int | Literal["full"]
    learning_rate: float


def named_algorithm(algorithm: str | AnyAlgorithm, steps: Steps) -> AnyAlgorithm:
    """Return the algorithm that a name stands for; an algorithm as it is.

    Raises:
        ComponentError: When there is none of that name, or it needs more than a schedule.

    Example:
        >>> named_algorithm("fedavg", Steps(epochs=1, batch_size="full", learning_rate=0.1)).name
        'fedavg'
    """
    if not isinstance(algorithm, str):
        return algorithm
    if algorithm == "accelerated":
        return fedavg(Schedule(steps=1, batch_size="full", learning_rate=steps.learning_rate), server=accelerated())
    if algorithm == "fedsgd":
        return fedsgd(steps.learning_rate)
    if algorithm not in _LOCAL:
        raise ComponentError(
            f"algorithm = {algorithm!r}; expected one of {', '.join(NAMED)}, or an algorithm: "
            "fedloom.fedprox(fedloom.Schedule(...), mu=0.1)"
        )
    schedule = Schedule(epochs=steps.epochs, batch_size=steps.batch_size, learning_rate=steps.learning_rate)
    return _LOCAL[algorithm](schedule)


def train(estimator: Any, data: Pooled, *, learner: LearnerBuilder, algorithm: AnyAlgorithm) -> RunResult:
    """Run the experiment of an estimator, and warn where it went to its last round without coming to rest."""
    stops = [max_rounds(estimator.rounds)]
    if estimator.tol:
        stops.append(small_update(estimator.tol, rounds=2))
    experiment = Experiment(
        data=data,
        prepare=preparations(estimator.preparation),
        learner=learner,
        algorithm=algorithm,
        stop=any_of(*stops),
        seed=estimator.seed,
        evaluate_every=max(1, estimator.rounds // _EVALUATIONS),
        compare=False,
    )
    result: RunResult = estimator._engine().run(experiment)
    if estimator.tol and len(result.rounds) >= estimator.rounds:
        warnings.warn(
            f"{type(estimator).__name__} moved by more than tol = {estimator.tol:g} in its last rounds of "
            f"{estimator.rounds}; raise rounds, or set tol = 0 to train for a number of rounds",
            ConvergenceWarning,
            stacklevel=4,
        )
    return result


def preparations(preparation: Preparation) -> list[Any]:
    """Return the preparations of a run.

    Raises:
        ComponentError: When the name is not known.
    """
    if preparation not in ("standardise", None):
        raise ComponentError(f'preparation = {preparation!r}; expected "standardise" or None')
    return [standardise()] if preparation == "standardise" else []


def second_moments(estimator: Any, data: Pooled) -> float:
    """Return the mean square length of a row as the learner sees it, with 1 for the intercept.

    No squared singular value of the rows, divided by their number, is larger: it bounds the curvature of a linear
    model. Standardised columns have 1 each; else the silos are asked for mean and variance.
    """
    if estimator.preparation == "standardise":
        return float(len(data.schema().columns) + 1)
    answer = estimator._engine().query(moments(), data=data, seed=estimator.seed)
    return float(np.sum(answer.variance) + np.sum(np.square(answer.mean)) + 1)


def centre_and_scale(result: RunResult) -> tuple[Vector, Vector]:
    """Return what a run subtracted from each raw column, and what it divided it by."""
    for transform in result.transforms:
        if isinstance(transform, Standardise):
            answer = transform.answer
            return np.array(answer.mean), np.where(is_constant(answer), 1.0, np.sqrt(answer.variance))
    width = len(result.raw.columns)
    return np.zeros(width), np.ones(width)


def history_of(result: RunResult) -> list[dict[str, Any]]:
    """Return the rounds of training as plain rows: numbers of silos and bytes, and every figure by name."""
    return [
        {
            "round": int(record.round),
            "status": record.status,
            "silos": len(record.included),
            "failures": len(record.failures),
            "bytes_up": record.bytes_up,
            "bytes_down": record.bytes_down,
            "seconds": record.seconds,
            **record.metrics,
        }
        for record in result.rounds
    ]
