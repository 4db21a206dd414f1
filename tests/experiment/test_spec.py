from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fedloom.algorithms import fedavg, fedprox
from fedloom.core.component import ComponentSpec, canonical_json
from fedloom.core.learner import LearnerBuilder
from fedloom.core.schedule import Schedule
from fedloom.data.generated import generated
from fedloom.errors import ComponentError
from fedloom.experiment import Experiment, differences
from fedloom.learners import logistic
from fedloom.pipeline import chain, clip, mean
from fedloom.runtime.cohort import uniform
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.simulation import Daily, Simulation
from fedloom.runtime.stopping import max_rounds


def nothing(_schema: object) -> Any:
    raise NotImplementedError


UNKNOWN = LearnerBuilder(nothing, "classification", ComponentSpec("fedloom.learners", "torch", {}))
BASE = Experiment(
    data=generated(4),
    learner=logistic(),
    algorithm=fedprox(Schedule(), mu=0.1),
    stop=max_rounds(2),
    seed=7,
)
CHANGES: dict[str, Any] = {
    "data": generated(5),
    "prepare": [ComponentSpec("fedloom.preparations", "none_such", {})],
    "learner": logistic(l2=0.5),
    "algorithm": fedprox(Schedule(), mu=0.2),
    "pipeline": chain(clip(1.0), mean()),
    "metrics_pipeline": chain(),
    "cohort": uniform(2),
    "evaluate_cohort": uniform(2),
    "policy": RoundPolicy(quorum=1),
    "seed": 8,
    "simulate": Simulation(dropout=0.1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_a_round_changes_the_digest(name: str) -> None:
    changed = replace(BASE, **{name: CHANGES[name]})
    assert changed.digest != BASE.digest
    assert {path.split(".")[0] for path in changed.differences(BASE.as_json())} == {name}


@pytest.mark.parametrize(
    "change",
    [{"stop": max_rounds(9)}, {"evaluate_every": 5}, {"compare": True}, {"block": 3}],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_no_byte_leaves_the_digest(change: dict[str, Any]) -> None:
    changed = replace(BASE, **change)
    assert changed.digest == BASE.digest
    assert changed.differences(BASE.as_json()) == ()


def test_a_block_counts_for_learners_whose_blocks_round_differently() -> None:
    other = replace(BASE, learner=UNKNOWN)
    assert replace(other, block=3).digest != replace(other, block=4).digest


def test_the_order_of_preparations_counts() -> None:
    one, two = (ComponentSpec("fedloom.preparations", name, {}) for name in "ab")
    assert replace(BASE, prepare=[one, two]).digest != replace(BASE, prepare=[two, one]).digest


def test_a_spec_is_as_good_as_its_object() -> None:
    named = replace(
        BASE,
        data=ComponentSpec("fedloom.datasets", "generated", {"clients": 4}),
        algorithm=ComponentSpec("fedloom.algorithms", "fedprox", {"local": {"epochs": None}, "mu": 0.1}),
        pipeline=ComponentSpec("fedloom.pipelines", "chain", {"stages": [{"name": "mean"}]}),
        learner=ComponentSpec("fedloom.learners", "logistic", {}),
    )
    # `chain()` names no aggregator where the argument is left out; both write it the same way.
    assert named.as_json() == BASE.as_json()
    assert named.digest == BASE.digest


def test_whole_numbers_and_floats_are_one_where_they_mean_one_thing() -> None:
    assert replace(BASE, algorithm=fedprox(Schedule(), mu=1)).digest == (
        replace(BASE, algorithm=fedprox(Schedule(), mu=1.0)).digest
    )
    all_of_them, one = replace(BASE, policy=RoundPolicy(quorum=1.0)), replace(BASE, policy=RoundPolicy(quorum=1))
    assert all_of_them.digest != one.digest
    assert one.differences(all_of_them.as_json()) == ("policy.quorum",)


def test_what_has_no_name_is_said_to_have_none() -> None:
    nameless = replace(fedavg(Schedule()), spec=None)
    tree = replace(BASE, algorithm=nameless).as_json()
    assert tree["algorithm"] == "local:unnamed"
    with pytest.raises(ComponentError, match="algorithm was made in Python"):
        Experiment.from_json(tree)


def test_an_experiment_comes_back_from_its_json() -> None:
    tree = msgspec.json.decode(canonical_json(BASE.as_json()))
    back = Experiment.from_json(tree)
    assert back.digest == BASE.digest
    assert back.as_json() == BASE.as_json()
    with pytest.raises(ComponentError, match="seed is missing"):
        Experiment.from_json({key: value for key, value in tree.items() if key != "seed"})


def test_a_simulated_world_comes_back_from_json_and_without_one_nothing_is_written() -> None:
    assert "simulate" not in BASE.as_json()
    world = Simulation(daily=Daily(period=24, share=0.5), absences={"client-0000001": ((3, 5),)}, slow="partial")
    asked = replace(BASE, simulate=world)
    back = Experiment.from_json(msgspec.json.decode(canonical_json(asked.as_json())))
    assert back.digest == asked.digest
    assert back.as_json() == asked.as_json()
    assert back.simulate is not None and back.simulate.daily == world.daily


def test_json_names_versions() -> None:
    assert set(BASE.as_json()["versions"]) == {"fedloom"}


def test_another_version_is_a_difference() -> None:
    tree = BASE.as_json()
    assert BASE.differences({**tree, "versions": {"fedloom": "0"}}) == ("versions.fedloom",)
    assert differences(tree, tree) == ()


@pytest.mark.parametrize("change", [{"seed": -1}, {"seed": 1 << 64}, {"evaluate_every": 0}, {"block": 0}], ids=str)
def test_numbers_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ComponentError, match=next(iter(change))):
        replace(BASE, **change)
