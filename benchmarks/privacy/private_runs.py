"""Private experiments for a target: noise calibrated on the experiment itself, integer grid and all."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

import fedloom
from fedloom.core.events import DpEvent, SelfComposedDpEvent
from fedloom.core.learner import LearnerBuilder
from fedloom.experiment.plan import train_plan
from fedloom.experiment.privacy import PrivacyPrice, price_experiment
from fedloom.privacy.calibrate import noise_for

sys.path.append(str(Path(__file__).parent))

from clients_of_digits import DigitClients
from patients import Patients

MakeExperiment = Callable[[float], fedloom.Experiment]


# ---- Client level: softmax on pictures ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitSettings:
    """What is chosen beforehand for pictures of digits; the rate of 0.1 and at most 100 rounds are given."""

    epochs: int
    learning_rate: float
    clip: float
    server_lr: float
    batch_size: int = 10
    beta: float = 0.9
    rounds: int = 100
    rate: float = 0.1
    averaged: int = 50
    """The model is the mean of so many last models: they are released anyway, so it costs nothing."""


def digits_experiment(
    data: fedloom.data.Pooled, settings: DigitSettings, *, seed: int, target: fedloom.PrivacyTarget
) -> MakeExperiment:
    """Return the experiment as a function of its noise multiplier."""
    local = fedloom.Schedule(
        epochs=settings.epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate
    )
    expected = settings.rate * len(data.population())

    def at(noise: float) -> fedloom.Experiment:
        return fedloom.Experiment(
            data=data,
            learner=fedloom.logistic(l2=0.0, dtype="float32"),
            algorithm=fedloom.fedavgm(local, server_lr=settings.server_lr, beta=settings.beta, weighting="uniform"),
            pipeline=fedloom.chain(
                fedloom.mean(expected=expected),
                fedloom.gaussian(clip=settings.clip, noise_multiplier=noise),
                fedloom.fixed_point(),
            ),
            cohort=fedloom.poisson(settings.rate),
            stop=fedloom.max_rounds(settings.rounds),
            seed=seed,
            privacy=target,
        )

    return at


# ---- Record level: logistic regression on patients ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientSettings:
    """What is chosen beforehand for patients: full gradients, each row's clipped, one a round."""

    learning_rate: float
    rounds: int = 30
    clip: float = 1.0
    l2: float = 1e-3


def patients_experiment(
    data: fedloom.data.Pooled,
    settings: PatientSettings,
    *,
    shared: bool,
    rows: int,
    seed: int,
    target: fedloom.PrivacyTarget,
) -> MakeExperiment:
    """Return the experiment as a function of its noise multiplier.

    Every hospital declares the same number of rows, the mean over hospitals. So the plain mean of what they send is the
    sum of all clipped gradients over all rows, and a small hospital's noise counts no more than a large one's.
    """
    hospitals = len(data.population())
    declared = math.ceil(rows / hospitals)

    def at(noise: float) -> fedloom.Experiment:
        steps = fedloom.PrivateSteps(
            clip=settings.clip, noise_multiplier="shared" if shared else noise, rate=1.0, rows=declared
        )
        mean = fedloom.mean(expected=float(hospitals))
        return fedloom.Experiment(
            data=data,
            learner=fedloom.logistic(l2=settings.l2),
            algorithm=fedloom.fedavg(
                fedloom.Schedule(steps=1, learning_rate=settings.learning_rate, private=steps), weighting="uniform"
            ),
            pipeline=fedloom.chain(mean, fedloom.shared_gaussian(noise)) if shared else fedloom.chain(mean),
            stop=fedloom.max_rounds(settings.rounds),
            seed=seed,
            privacy=target,
        )

    return at


# ---- Prices -------------------------------------------------------------------------------------------------------


def least_noise(make: MakeExperiment) -> float:
    """Return the least noise multiplier with which all rounds cost the reader of the models at most the target.

    What is priced is the event of the experiment itself: integer noise behind its rounding, by proven bounds. The run
    prices it once more, and refuses what is above its target.
    """
    target = make(1.0).privacy
    assert target is not None and target.epsilon is not None, "a private experiment states its target"
    priced_only = replace(target, epsilon=None)

    def event(noise: float) -> DpEvent:
        found = price(replace(make(noise), privacy=priced_only))
        return SelfComposedDpEvent(found.protection.event, found.rounds)

    return noise_for(event, epsilon=target.epsilon, delta=target.delta, adjacency=target.neighbours)


def price(experiment: fedloom.Experiment) -> PrivacyPrice:
    """Return what the experiment costs, against either reader."""
    data = cast(fedloom.data.Pooled, experiment.data)
    learner = cast(LearnerBuilder, experiment.learner).build(data.schema())
    found = price_experiment(experiment, train_plan(experiment, learner, data.population(), ()))
    assert found is not None, "a private experiment states its target"
    return found


# ---- Figures on rows that no client holds ---------------------------------------------------------------------------


def accuracies(experiment: fedloom.Experiment, clients: DigitClients, *, averaged: Sequence[int]) -> list[float]:
    """Run an experiment and return the share of test rows that the mean of its last models is right about.

    Args:
        experiment: To run.
        clients: With the test rows.
        averaged: How many last models; a figure for each number.
    """
    result = fedloom.local().run(experiment, save_rounds=True)
    assert result.history is not None, "rounds were saved"
    means = [result.history[-many:].mean(axis=0).astype(result.params.dtype) for many in averaged]
    guesses = [np.argmax(result.learner.predict(mean, clients.test), axis=1) for mean in means]
    return [float(np.mean(guess == clients.test_digits)) for guess in guesses]


def area(experiment: fedloom.Experiment, held: Patients) -> float:
    """Run an experiment and return the area under the receiver operating curve over the test rows."""
    from sklearn.metrics import roc_auc_score

    result = fedloom.local().run(experiment)
    scores = result.learner.predict(result.params, held.test)[:, 1]
    return float(roc_auc_score(held.test_labels, scores))
