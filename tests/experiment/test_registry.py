from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.algorithms import fedavg, fedprox, scaffold
from fedloom.core.component import ComponentSpec
from fedloom.core.schedule import Schedule
from fedloom.data.csv_file import csv
from fedloom.data.generated import generated
from fedloom.data.partition import dirichlet
from fedloom.errors import ComponentError, DataError
from fedloom.experiment import complete, resolve
from fedloom.learners import logistic
from fedloom.optim import adam, exponential, momentum
from fedloom.pipeline import chain, clip, mean, plain_sum
from fedloom.runtime.cohort import everyone, poisson
from fedloom.runtime.stopping import any_of, max_rounds, patience, target

VALUES: list[Any] = [
    fedavg(Schedule(steps={"a": 3}, learning_rate=exponential(0.1, decay=0.5), optimizer=adam()), server=momentum(0.5)),
    fedprox(Schedule(batch_size="full"), mu=exponential(1.0, decay=0.9)),
    scaffold(Schedule(), option="I"),
    chain(clip(1.0), mean(), aggregator=plain_sum()),
    chain(),
    everyone(),
    any_of(max_rounds(3), any_of(target("train/loss", at_most=0.5), patience("train/loss", rounds=2))),
    logistic(class_weight={"ill": 2.0}, start=[0.0, 1.0]),
    generated(3),
    dirichlet(3, 0.5),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.spec.name)
def test_what_a_spec_describes_has_that_spec(value: Any) -> None:
    assert resolve(value.spec).spec == value.spec
    assert complete(value.spec) == value.spec


def test_tables_in_the_form_of_a_file_nest() -> None:
    arguments = {"local": {"optimizer": {"name": "momentum", "beta": 0.5}, "learning_rate": 1}, "mu": 1}
    made = resolve(ComponentSpec("fedloom.algorithms", "fedprox", arguments))
    assert made.spec == fedprox(Schedule(optimizer=momentum(0.5), learning_rate=1.0), mu=1.0).spec


def test_a_path_starts_at_the_base_and_is_kept_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("a,site,y\n1,s,0\n2,s,1\n3,t,1\n4,t,0\n")
    written = {"path": "rows.csv", "label": "y", "client": "site"}
    made = resolve(ComponentSpec("fedloom.datasets", "csv", written), base=tmp_path)
    assert made.spec.arguments["path"] == "rows.csv"
    monkeypatch.chdir(tmp_path)
    assert made.spec == csv(Path("rows.csv"), label="y", client="site").spec


def test_a_path_of_a_learner_is_read_from_the_base(tmp_path: Path) -> None:
    np.save(tmp_path / "w0.npy", np.arange(3.0))
    made = resolve(ComponentSpec("fedloom.learners", "logistic", {"start": "w0.npy"}), base=tmp_path)
    learner = made.build(generated(1, features=2).schema())
    assert learner.start.tolist() == [0.0, 1.0, 2.0]
    assert made.spec.arguments["start"] == "w0.npy"


def test_every_wrong_argument_is_told() -> None:
    arguments = {"local": {"epochs": 0, "optimizer": {"name": "agam"}}, "wieghting": "uniform", "server": 3}
    with pytest.raises(ComponentError) as error:
        resolve(ComponentSpec("fedloom.algorithms", "fedavg", arguments))
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "fedavg.local.optimizer.name",
        "fedavg.local.epochs",
        "fedavg.server",
        "fedavg.wieghting",
    ]


def test_a_lone_error_of_a_builder_keeps_its_type(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        resolve(
            ComponentSpec("fedloom.datasets", "csv", {"path": "no.csv", "label": "y", "client": "c"}), base=tmp_path
        )


@pytest.mark.parametrize("stand_in", ["local:unnamed", "local:" + "0" * 64])
def test_what_was_made_in_python_cannot_be_rebuilt(stand_in: str) -> None:
    spec = ComponentSpec("fedloom.algorithms", "fedavg", {"local": {}, "server": stand_in})
    with pytest.raises(ComponentError, match="pass the object itself"):
        resolve(spec)
    assert complete(spec) == spec


def test_whole_numbers_are_floats_where_a_float_is_taken() -> None:
    assert complete(poisson(1).spec or pytest.fail()) == poisson(1.0).spec
    assert complete(fedprox(Schedule(learning_rate=1), mu=1).spec or pytest.fail()) == (
        fedprox(Schedule(learning_rate=1.0), mu=1.0).spec
    )


def test_a_builder_that_raises_anything_is_a_component_error(install: Any) -> None:
    install(
        "odd",
        "def odd(n: int = 0):\n    return 1 / n\ndef plain():\n    return 3",
        stops="odd = odd:odd\nplain = odd:plain",
    )
    with pytest.raises(ComponentError, match="odd: ZeroDivisionError"):
        resolve(ComponentSpec("fedloom.stops", "odd", {}))
    with pytest.raises(ComponentError, match=r'no builder marked @component\("fedloom.stops"\)'):
        resolve(ComponentSpec("fedloom.stops", "plain", {}))
