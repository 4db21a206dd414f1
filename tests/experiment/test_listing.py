"""What a plan says of bytes is what a run then counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom as fl
from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId
from fedloom.engines.preparing import answer_preparations
from fedloom.experiment.listing import PlanListing, list_plan

HERE = Path()


def experiment(**fields: Any) -> fl.Experiment:
    values: dict[str, Any] = {
        "data": fl.data.hospitals(),
        "prepare": [fl.standardise()],
        "learner": fl.logistic(),
        "algorithm": fl.fedavg(fl.Schedule(epochs=1, batch_size=64, learning_rate=0.1)),
        "stop": fl.max_rounds(3),
        "seed": 0,
        "compare": False,
        **fields,
    }
    return fl.Experiment(**values)


def silos(labels: dict[str, list[int]], **fields: Any) -> Any:
    """Return clients whose test rows are the last two."""
    draw = fl.Key.from_seed(1).generator()
    rows = {name: (draw.normal(size=(len(y), 2)), np.array(y)) for name, y in labels.items()}
    return fl.data.silos(rows, **fields)


def listed(asked: fl.Experiment) -> PlanListing:
    return list_plan(asked, answer_preparations(asked, base=HERE), base=HERE)


SCAFFOLD = fl.scaffold(fl.Schedule(epochs=1, batch_size=64, learning_rate=0.1))
EXPERIMENTS = {
    "fedavg": experiment(),
    "states": experiment(algorithm=SCAFFOLD),
    "drawn": experiment(algorithm=SCAFFOLD, cohort=fl.uniform(3), stop=fl.max_rounds(6), evaluate_every=4),
    "poisson": experiment(cohort=fl.poisson(0.3), evaluate_cohort=fl.poisson(0.5), stop=fl.max_rounds(12),
                          policy=fl.RoundPolicy(quorum=1)),
    "regression": experiment(data=fl.data.sklearn_set("diabetes", partition=fl.data.iid(3)), learner=fl.ridge()),
    "softmax": experiment(data=fl.data.sklearn_set("iris", partition=fl.data.iid(3)), prepare=[], evaluate_every=2),
    "simulated": experiment(algorithm=SCAFFOLD, stop=fl.max_rounds(12), evaluate_every=5,
                            policy=fl.RoundPolicy(quorum=1), simulate=fl.Simulation(dropout=0.1, away=0.1)),
    "skipped": experiment(stop=fl.max_rounds(20), policy=fl.RoundPolicy(quorum=4, on_short="skip"),
                          simulate=fl.Simulation(dropout=0.2)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_bytes_of_a_plan_are_those_of_the_run(name: str) -> None:
    asked = EXPERIMENTS[name]
    plan = listed(asked)
    result = fl.local().run(asked)
    assert {failure.kind for record in result.records for failure in record.failures} <= {"lost"}
    assert (plan.bytes_up, plan.bytes_down) == (result.bytes_up, result.bytes_down)
    assert all(phase.exact for phase in plan.phases)
    assert plan.digest == result.digest


def visits(folder: Path) -> Path:
    """Write a CSV whose classes no one knows, and return its path."""
    draw = fl.Key.from_seed(3).generator()
    lines = ["age,ward,outcome"]
    lines += [
        f"{age:.2f},{'abc'[row % 3]},{'ill' if age > 0.2 else 'well'}" for row, age in enumerate(draw.normal(size=90))
    ]
    path = folder / "visits.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_classes_that_are_asked_for_decide_the_sizes_behind_them(tmp_path: Path) -> None:
    data = fl.data.csv(visits(tmp_path), label="outcome", client="ward")
    asked = experiment(data=data, prepare=[fl.label_set(), fl.standardise()])
    plan, result = listed(asked), fl.local().run(asked)
    assert (plan.bytes_up, plan.bytes_down) == (result.bytes_up, result.bytes_down)


def test_the_bytes_of_one_round_are_those_of_its_record() -> None:
    asked = experiment(evaluate_every=2, stop=fl.max_rounds(3))
    question, training, evaluation = listed(asked).phases
    records = fl.local().run(asked).records
    assert [record.bytes_up for record in records if record.program == "query"] == [question.round_up] * 2
    first, second, _ = [record for record in records if record.program == "train"]
    assert (first.bytes_up, first.bytes_down) == (training.round_up, training.round_down)
    assert training.round_up is not None and evaluation.round_up is not None
    assert second.bytes_up == training.round_up + evaluation.round_up
    assert training.client_up is not None and training.round_up == 4 * training.client_up


@pytest.mark.slow
def test_numbers_of_rounds_that_are_longer_are_counted() -> None:
    """Beyond round 127 a number takes a byte more, in messages, orders, and in what an order says of the last one."""
    asked = experiment(algorithm=SCAFFOLD, cohort=fl.uniform(2), stop=fl.max_rounds(300), evaluate_every=7)
    plan, result = listed(asked), fl.local().run(asked)
    assert (plan.bytes_up, plan.bytes_down) == (result.bytes_up, result.bytes_down)


def test_a_client_without_a_figure_or_without_rows_sends_less() -> None:
    """West has one class, so no AUROC; south has no training rows and declines."""
    labels = {"north": [0, 1] * 6, "south": [0, 1] * 6, "west": [1] * 12}
    data = silos(labels, test=0.25)
    plain = {name: data.client(ClientId(name)) for name in labels}
    south = plain["south"]
    plain["south"] = type(south)(south.arrays, {"test": slice(0, 12)})

    class Changed:
        spec = None
        fingerprint = None

        def population(self) -> Any:
            return data.population()

        def schema(self) -> Any:
            return data.schema()

        def client(self, client: Any) -> Any:
            return plain[client]

    asked = experiment(data=Changed(), prepare=[], policy=fl.RoundPolicy(quorum=1))
    plan, result = listed(asked), fl.local().run(asked)
    assert {failure.client for record in result.records for failure in record.failures} == {"south"}
    assert (plan.bytes_up, plan.bytes_down) == (result.bytes_up, result.bytes_down)
    training, evaluation = plan.phases
    assert training.client_up is not None and evaluation.client_up is not None
    assert training.round_up is not None and training.round_up < 3 * training.client_up
    assert evaluation.round_up is not None and evaluation.round_up < 3 * evaluation.client_up


def test_without_answers_the_sizes_behind_a_question_are_unknown(tmp_path: Path) -> None:
    data = fl.data.csv(visits(tmp_path), label="outcome", client="ward")
    asked = experiment(data=data, prepare=[fl.label_set(), fl.standardise()])
    plan = list_plan(asked, base=HERE)
    assert [phase.title for phase in plan.phases] == [
        "preparation 1: label_set", "preparation 2: standardise", "training", "evaluation",
    ]  # fmt: skip
    assert plan.phases[0].client_up is not None and plan.phases[0].unknown is None
    for phase in plan.phases[1:]:
        assert phase.unknown == "known when preparation 1 (label_set) has been answered"
        assert phase.client_up is phase.total_up is phase.numbers is None
    assert plan.bytes_up is None


def test_everything_in_the_vector_is_named_and_adds_up() -> None:
    for phase in listed(experiment()).phases:
        assert phase.numbers == sum(item.numbers for item in phase.items) > 0
    training, evaluation = listed(experiment()).phases[1:]
    assert [item.name for item in training.items] == ["delta/coef", "delta/intercept", "loss", "weight"]
    assert training.items[0].shape == (1, 30) and training.stages == ("mean",) and training.aggregator == "plain_sum"
    assert {"test/auroc", "train/objective"} <= set(evaluation.clear)
    assert all(phase.protection == "none" and phase.in_clear for phase in (training, evaluation))
    assert any("number of training rows" in sentence for sentence in training.learns)


def test_rounds_that_may_be_tried_again_are_said_to_be_uncertain() -> None:
    asked = experiment(stop=fl.max_rounds(20), policy=fl.RoundPolicy(quorum=4), simulate=fl.Simulation(dropout=0.3))
    assert [phase.exact for phase in listed(asked).phases] == [True, False, False]


def test_a_stop_without_a_bound_has_no_total() -> None:
    (training, _) = listed(experiment(prepare=[], stop=fl.target("train/loss", at_most=0.1))).phases
    assert training.rounds is None and training.total_up is None and training.round_up is not None


def test_a_large_population_is_measured_at_its_first_client() -> None:
    data = ComponentSpec("fedloom.datasets", "generated", {"clients": 3000})
    asked = experiment(data=data, prepare=[], cohort=fl.uniform(5), evaluate_cohort=fl.uniform(5))
    plan = listed(asked)
    assert plan.clients == 3000 and not any(phase.exact for phase in plan.phases)
    assert plan.bytes_up is not None and plan.bytes_up >= fl.local().run(asked).bytes_up


def test_parts_that_do_not_fit_are_refused_as_by_a_run() -> None:
    with pytest.raises(fl.PlanError, match="9 clients; the data have 4"):
        list_plan(experiment(cohort=fl.uniform(9)), base=HERE)


def test_every_component_is_listed_with_its_package() -> None:
    parts = {part.field: part for part in listed(experiment()).components}
    assert parts["prepare.0"].name == "standardise" and parts["prepare.0"].distribution == "fedloom"
    assert parts["pipeline.stages.0"].name == "mean" and {"data", "learner", "algorithm", "stop"} <= parts.keys()
    unnamed = listed(experiment(data=replace(fl.data.hospitals(), spec=None)))
    assert "data" not in {part.field for part in unnamed.components}
