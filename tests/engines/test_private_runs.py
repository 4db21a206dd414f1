"""Private steps in whole runs: the price before round 1, the same bytes by any engine, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.private_steps import PrivateSteps
from fedloom.core.schedule import Schedule
from fedloom.errors import PipelineError, PlanError
from fedloom.learners.sklearn_estimator import sklearn_estimator
from fedloom.privacy.mechanisms import gaussian
from fedloom.privacy.shared_records import shared_gaussian
from fedloom.privacy.target import PrivacyTarget
from fedloom.testing import federation

OWN = PrivateSteps(clip=0.5, noise_multiplier=1.0, rate=0.4, rows={"a": 30, "b": 20, "c": 25})
SHARED = PrivateSteps(clip=0.5, noise_multiplier="shared", rate=0.4, rows=25)
SUM = fedloom.chain(fedloom.mean(expected=3.0), shared_gaussian(2.0))


def experiment(private: PrivateSteps = OWN, **fields: Any) -> fedloom.Experiment:
    steps = fields.pop("steps", 1 if private.shared else 3)
    schedule = Schedule(steps=steps, learning_rate=0.3, private=private)
    asked = fedloom.Experiment(
        data=federation((30, 20, 25)),
        learner=fedloom.logistic(),
        algorithm=fedloom.fedavg(schedule, weighting="uniform"),
        pipeline=SUM if private.shared else fedloom.chain(fedloom.mean(expected=3.0)),
        stop=fedloom.max_rounds(2),
        privacy=PrivacyTarget(unit="record", delta=1e-3),
        seed=7,
    )
    return replace(asked, **fields)


@pytest.mark.parametrize("private", [OWN, SHARED], ids=["own noise", "shared noise"])
def test_a_run_has_the_same_bytes_by_any_number_of_workers_and_any_block(private: PrivateSteps) -> None:
    first = local(workers=1).run(experiment(private))
    for engine, fields in ((local(workers=2, pool="threads"), {}), (local(workers=1, strict=True), {"block": 1})):
        again = engine.run(experiment(private, **fields))
        assert again.params.tobytes() == first.params.tobytes()
    other = local(workers=1).run(experiment(private, seed=8))
    assert not np.array_equal(other.params, first.params)


def test_each_record_of_a_run_holds_no_figure_of_rows() -> None:
    result = local(workers=1).run(experiment())
    named = [name for record in result.records for name in record.metrics]
    assert not [name for name in named if not name.startswith("step/")]
    assert any("epsilon" in note for note in result.notes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"learner": sklearn_estimator("SGDClassifier", arguments={"loss": "log_loss"})}, "cannot take private steps"),
        ({"algorithm": fedloom.fedavg(Schedule(steps=3, private=OWN))}, "weighs clients by their rows"),
        (
            {"algorithm": fedloom.scaffold(Schedule(steps=3, private=OWN), option="I")},
            "gradient over all rows",
        ),
        ({"algorithm": fedloom.scaffold(Schedule(steps=1, private=SHARED))}, "more than one delta"),
        (
            {
                "algorithm": fedloom.fedavg(Schedule(steps=1, private=SHARED), weighting="uniform"),
                "pipeline": fedloom.chain(fedloom.mean(expected=3.0)),
            },
            "no stage adds the noise",
        ),
        (
            {
                "algorithm": fedloom.fedavg(Schedule(steps=1, private=SHARED), weighting="uniform"),
                "pipeline": fedloom.chain(fedloom.mean(expected=3.0), gaussian(clip=1.0, noise_multiplier=1.0)),
            },
            "no stage adds the noise",
        ),
        (
            {
                "algorithm": fedloom.fedavg(Schedule(steps=1, private=SHARED), weighting="uniform"),
                "pipeline": SUM,
                "privacy": PrivacyTarget(unit="client", delta=1e-3),
            },
            "hides single rows",
        ),
        ({"privacy": PrivacyTarget(unit="client", delta=1e-3)}, "not a whole client"),
        ({"privacy": None}, "what the run promises"),
    ],
)
def test_what_private_steps_cannot_cover_is_refused_before_round_1(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        local(workers=1).run(experiment(**fields))


def test_noise_of_a_stage_needs_the_bound_of_private_steps() -> None:
    with pytest.raises(PipelineError, match="one row can change"):
        local(workers=1).run(experiment(OWN, pipeline=SUM))
