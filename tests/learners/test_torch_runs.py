"""Whole runs with the torch learner: accuracy, same bytes for any number of workers, resumed runs, files, failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.component import component
from fedloom.engines import TrainedModel
from fedloom.experiment.config import read_text

torch = pytest.importorskip("torch", reason="the torch learner needs the extra `torch`")
from torch import nn  # noqa: E402

LOCAL = fedloom.Schedule(epochs=2, batch_size=16, learning_rate=0.1)
DATA = fedloom.data.sklearn_set("digits", partition=fedloom.data.iid(10))
ALGORITHMS: dict[str, Callable[[], Any]] = {
    "fedavg": lambda: fedloom.fedavg(LOCAL),
    "fedprox": lambda: fedloom.fedprox(LOCAL, mu=0.1),
    "fedadam": lambda: fedloom.fedadam(LOCAL, server_lr=0.01),
    "scaffold": lambda: fedloom.scaffold(LOCAL),
}


def experiment(model: Any = None, *, rounds: int = 4, **changed: Any) -> fedloom.Experiment:
    """Return a small run on scikit-learn's digits."""
    values: dict[str, Any] = {
        "data": DATA,
        "prepare": [
            fedloom.min_max(ranges={f"pixel_{row}_{column}": [0, 16] for row in range(8) for column in range(8)})
        ],
        "learner": fedloom.torch_module(fedloom.models.mlp([32]) if model is None else model),
        "algorithm": fedloom.fedavg(LOCAL),
        "cohort": fedloom.uniform(5),
        "stop": fedloom.max_rounds(rounds),
        "seed": 3,
        "compare": False,
    }
    return fedloom.Experiment(**{**values, **changed})


@component("fedloom.models")
def regularised(inputs: int | None = None, outputs: int | None = None) -> Any:
    hidden = nn.Linear(inputs or 0, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)
    return nn.Sequential(*hidden, nn.Linear(16, outputs or 0))


def test_a_perceptron_reads_digits_after_a_few_rounds() -> None:
    result = local().run(experiment(rounds=12, cohort=fedloom.everyone()))
    accuracy = result.metrics["eval/accuracy"]
    assert accuracy is not None and accuracy > 0.9, accuracy


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_worker_and_three_give_the_same_bytes(algorithm: str) -> None:
    made = experiment(regularised(), algorithm=ALGORITHMS[algorithm](), rounds=3)
    one, three = (local(workers=workers, pool="threads").run(made) for workers in (1, 3))
    assert one.params.tobytes() == three.params.tobytes()
    assert one.rounds[-1].metrics == three.rounds[-1].metrics


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_processes_give_the_bytes_of_one(algorithm: str) -> None:
    """A process builds the model by name; its convolutions, too, run on one thread."""
    learner = fedloom.torch_module(fedloom.models.cnn(), shape=[1, 8, 8])
    made = experiment(learner=learner, algorithm=ALGORITHMS[algorithm](), rounds=2)
    one, two = local().run(made), local(workers=2, pool="processes").run(made)
    assert one.params.tobytes() == two.params.tobytes()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_rounds_and_two_are_four(algorithm: str, tmp_path: Path) -> None:
    four = experiment(regularised(), algorithm=ALGORITHMS[algorithm]())
    begun = local().run(replace(four, stop=fedloom.max_rounds(2)), output=tmp_path)
    assert begun.folder is not None
    assert local().run(four, resume=begun.folder).params.tobytes() == local().run(four).params.tobytes()


def test_orders_and_messages_through_their_bytes_change_nothing() -> None:
    made = experiment(regularised(), rounds=2)
    assert local(strict=True).run(made).params.tobytes() == local().run(made).params.tobytes()


def test_the_model_file_is_enough_to_predict(tmp_path: Path) -> None:
    result = local().run(experiment(rounds=2), output=tmp_path)
    assert result.folder is not None
    again = TrainedModel.read(result.folder / "model.safetensors")
    client = DATA.client(DATA.population().id(0)).split("test")
    assert again.predict(client).tobytes() == result.model.predict(client).tobytes()
    assert again.evaluate(client) == result.model.evaluate(client)


def test_a_file_and_python_are_the_same_experiment() -> None:
    text = """\
seed = 3
data = { name = "sklearn", dataset = "digits", partition = { name = "iid", clients = 10 } }
stop = { name = "max_rounds", rounds = 1 }
[learner]
name = "torch"
loss = "cross_entropy"
optimizer = "SGD"
optimizer_arguments = { momentum = 0.9, nesterov = true }
shape = [1, 8, 8]
[learner.model]
name = "resnet"
width = 8
[algorithm]
name = "fedavg"
local = { batch_size = 16 }
"""
    python = fedloom.Experiment(
        data=DATA,
        learner=fedloom.torch_module(
            fedloom.models.resnet(width=8),
            optimizer="SGD",
            optimizer_arguments={"momentum": 0.9, "nesterov": True},
            shape=[1, 8, 8],
        ),
        algorithm=fedloom.fedavg(fedloom.Schedule(batch_size=16)),
        stop=fedloom.max_rounds(1),
        seed=3,
    )
    assert read_text(text, name="run.toml", base=Path()).experiment.digest == python.digest


class Choosy(nn.Module):
    """Fails on rows that it does not like, as a person's code may."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        if self.training and len(x) == 7:
            raise ValueError("seven rows are too few")
        return self.layer(x)


def test_a_users_exception_is_reported_with_client_and_line() -> None:
    """Clients of 134 or 135 rows in batches of 16: those that end on one of 7 crash, and the record says where."""
    result = local().run(
        experiment(
            learner=fedloom.torch_module(Choosy(), block="loop"),
            rounds=1,
            cohort=fedloom.everyone(),
            policy=fedloom.RoundPolicy(quorum=1),
        )
    )
    failures = result.rounds[0].failures
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "raise ValueError" in text)
    sizes = {client: DATA.client(client).count("train") for client in map(DATA.population().id, range(10))}
    assert {failure.client for failure in failures} == {client for client, size in sizes.items() if size % 16 == 7}
    for failure in failures:
        assert (failure.kind, failure.detail) == ("crashed", "ValueError: seven rows are too few")
        assert failure.where == f"{__file__}:{line}"


def test_a_client_that_diverges_is_invalid_and_not_summed() -> None:
    """One client has features of 1e30: its update is not finite, and the others go on without it."""
    names = np.repeat(np.array(["broken", "sound-1", "sound-2"]), 20)
    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((60, 4)), draw.integers(0, 2, 60)
    x[:20] *= 1e30
    made = fedloom.Experiment(
        data=fedloom.data.arrays(x, y, clients=names, test=0.0),
        learner=fedloom.torch_module(fedloom.models.mlp([4])),
        algorithm=fedloom.fedavg(fedloom.Schedule(epochs=3, batch_size=4, learning_rate=0.1)),
        policy=fedloom.RoundPolicy(quorum=2),
        stop=fedloom.max_rounds(1),
        seed=1,
        compare=False,
    )
    result = local().run(made)
    (failure,) = result.rounds[-1].failures
    assert (failure.client, failure.kind) == ("broken", "invalid")
    assert np.isfinite(result.params).all()
