from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedloom.algorithms import fedavg, fedprox
from fedloom.core.component import to_json
from fedloom.core.schedule import Schedule
from fedloom.data.csv_file import csv
from fedloom.data.generated import generated
from fedloom.data.partition import dirichlet
from fedloom.experiment import Experiment, config
from fedloom.learners import logistic
from fedloom.optim import exponential, sgd
from fedloom.pipeline import chain, mean, plain_sum
from fedloom.runtime.cohort import uniform
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.stopping import any_of, max_rounds, target

SMALL = """\
seed = 7
[data]
name = "generated"
clients = 4
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
local = {}
[stop]
name = "max_rounds"
rounds = 3
"""
FULL = """\
seed = 7
evaluate_every = 1
block = 25                          # optional
[data]
name = "csv"
path = "patients.csv"               # relative to this file
label = "outcome"
group = "patient"
test = 0.25
validation = 0.0
[data.partition]
name = "dirichlet"
clients = 3
alpha = 5
[learner]
name = "logistic"
l2 = 1e-3
intercept = true
dtype = "float64"
start = "w0.npy"
[algorithm]
name = "fedprox"
mu = 0.1
weighting = "examples"
[algorithm.local]
epochs = 1
batch_size = 32
learning_rate = 0.1
optimizer = { name = "sgd" }
[pipeline]
stages = [{ name = "mean" }]
aggregator = { name = "plain_sum" }
[cohort]
name = "uniform"
size = 10
[[stop]]
name = "max_rounds"
rounds = 100
[[stop]]
name = "target"
metric = "train/loss"
at_most = 0.5
[engine]
name = "local"
workers = 2
[output]
folder = "out"
"""
EXPERIMENT: dict[str, Any] = {
    "data": generated(4),
    "learner": logistic(),
    "algorithm": fedavg(Schedule()),
    "stop": max_rounds(3),
    "seed": 7,
}


def settings(text: str, *overrides: str) -> config.Settings:
    return config.read_text(text, overrides, name="run.toml", base=Path("nowhere"))


def value(read: config.Settings, path: str) -> Any:
    return next(setting.value for setting in config.resolved(read) if setting.path == path)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    rows = "".join(f"{row},{row},{row % 2}\n" for row in range(60))
    (tmp_path / "patients.csv").write_text("age,patient,outcome\n" + rows)
    (tmp_path / "run.toml").write_text(FULL)
    return tmp_path


def test_a_file_and_the_same_thing_in_python_have_one_digest(patients: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = config.read(patients / "run.toml")
    monkeypatch.chdir(patients)
    partition = dirichlet(3, 5.0)
    data = csv(Path("patients.csv"), label="outcome", group="patient", test=0.25, partition=partition)
    experiment = Experiment(
        data=data,
        learner=logistic(l2=1e-3, start=Path("w0.npy")),
        algorithm=fedprox(Schedule(epochs=1, batch_size=32, learning_rate=0.1, optimizer=sgd()), mu=0.1),
        pipeline=chain(mean(), aggregator=plain_sum()),
        cohort=uniform(10),
        stop=any_of(max_rounds(100), target("train/loss", at_most=0.5)),
        seed=7,
        evaluate_every=1,
        block=25,
    )
    assert read.experiment.as_json() == experiment.as_json()
    assert read.experiment.digest == experiment.digest


def test_the_folder_of_a_file_is_no_part_of_its_digest(
    patients: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("patients.csv", "run.toml"):
        (elsewhere / name).write_bytes((patients / name).read_bytes())
    one, other = (config.read(folder / "run.toml") for folder in (patients, elsewhere))
    assert one.experiment.digest == other.experiment.digest
    assert one.experiment.as_json()["data"]["arguments"]["path"] == "patients.csv"


def test_the_small_file_is_the_small_experiment() -> None:
    read = settings(SMALL)
    assert read.experiment.digest == Experiment(**EXPERIMENT).digest
    assert read.engine == {"name": "local"}
    assert read.output == Path("runs")
    assert read.experiment.policy == RoundPolicy()


def test_engine_and_output_are_no_part_of_the_experiment(patients: Path) -> None:
    read = config.read(patients / "run.toml")
    assert read.engine == {"name": "local", "workers": 2}
    assert read.output == Path("out")
    assert read.base == patients
    assert not {"engine", "output"} & read.experiment.as_json().keys()
    assert settings(SMALL, "engine.workers=2", "output.folder=x").experiment.digest == settings(SMALL).experiment.digest


def test_one_stop_in_a_list_is_that_stop() -> None:
    listed = SMALL.replace("[stop]", "[[stop]]")
    assert settings(listed).experiment.as_json() == settings(SMALL).experiment.as_json()


def test_several_stops_are_whichever_holds_first() -> None:
    read = settings(SMALL.replace("[stop]", "[[stop]]") + '[[stop]]\nname = "max_rounds"\nrounds = 2\n')
    assert read.experiment.as_json()["stop"] == to_json(any_of(max_rounds(3), max_rounds(2)))
    assert value(read, "stop.1.rounds") == 2
    assert read.origins["stop.1.rounds"] == "run.toml:15"


def test_tables_of_plain_values_and_ramps() -> None:
    text = SMALL.replace(
        "local = {}",
        'prox = 1\nlocal.steps = { "client-0000" = 2 }\nlocal.batch_size = "full"\n'
        'local.learning_rate = { name = "exponential", start = 0.1, decay = 0.5 }',
    )
    read = settings(text + '[policy]\nquorum = 2\non_short = "skip"\n')
    local = Schedule(steps={"client-0000": 2}, batch_size="full", learning_rate=exponential(0.1, decay=0.5))
    parts = {**EXPERIMENT, "algorithm": fedavg(local, prox=1.0), "policy": RoundPolicy(quorum=2, on_short="skip")}
    assert read.experiment.digest == Experiment(**parts).digest


def test_preparations_are_a_list(install: Any) -> None:
    install(
        "prep",
        """
        from fedloom.core.component import component
        from fedloom.core.query import Preparation

        @component("fedloom.preparations")
        def shift(by: float) -> Preparation:
            return Preparation(query=None, transform=None)
        """,
        preparations="shift = prep:shift",
    )
    read = settings(SMALL + '[[prepare]]\nname = "shift"\nby = 1\n[[prepare]]\nname = "shift"\nby = 2\n')
    assert [item["arguments"] for item in read.experiment.as_json()["prepare"]] == [{"by": 1.0}, {"by": 2.0}]
    assert read.origins["prepare.1.by"] == "run.toml:18"


@pytest.mark.parametrize(
    ("flag", "path", "expected"),
    [
        ("seed=8", "seed", 8),
        ("algorithm.local.learning_rate=1", "algorithm.local.learning_rate", 1.0),
        ("algorithm.local.batch_size=full", "algorithm.local.batch_size", "full"),
        ('algorithm.local.batch_size="full"', "algorithm.local.batch_size", "full"),
        ('algorithm.local.steps."client-0001" = 5', "algorithm.local.steps.client-0001", 5),
        ("stop.rounds=5", "stop.rounds", 5),
        ('cohort={ name = "uniform", size = 2 }', "cohort.size", 2),
        ("output.folder=my runs", "output.folder", "my runs"),
        ("compare=false", "compare", False),
    ],
)
def test_a_flag_sets_one_value(flag: str, path: str, expected: Any) -> None:
    read = settings(SMALL, flag)
    assert value(read, path) == expected
    assert type(value(read, path)) is type(expected)
    assert read.origins[path] == f"--set {flag}"


def test_a_flag_reaches_into_a_list_and_appends_to_it() -> None:
    listed = SMALL.replace("[stop]", "[[stop]]")
    assert value(settings(listed, "stop.0.rounds=5"), "stop.0.rounds") == 5
    read = settings(listed, "stop.1.name=max_rounds", "stop.1.rounds=2")
    assert value(read, "stop.1.rounds") == 2
    assert read.origins["stop.0.rounds"] == "run.toml:12"


def test_the_last_flag_wins_and_other_lines_keep_their_origin() -> None:
    read = settings(SMALL, "seed=8", "seed=9")
    assert value(read, "seed") == 9
    assert read.origins["seed"] == "--set seed=9"
    assert read.origins["data.clients"] == "run.toml:4"


def test_every_value_tells_its_origin() -> None:
    read = settings(SMALL, "algorithm.local.epochs=2")
    lines = [str(setting) for setting in config.resolved(read)]
    assert 'data.name = "generated"  # run.toml:3' in lines
    assert "data.rows = 60  # default" in lines
    assert "algorithm.local.epochs = 2  # --set algorithm.local.epochs=2" in lines
    assert "algorithm.local.steps = none  # default" in lines
    assert 'pipeline.stages.0.name = "mean"  # default' in lines
    assert "policy.retries = 3  # default" in lines
    assert 'engine.name = "local"  # default' in lines
    assert any(line.startswith("engine.workers = ") and line.endswith("# default") for line in lines)
    assert 'output.folder = "runs"  # default' in lines
    assert set(read.origins) == {setting.path for setting in config.resolved(read)}


def test_what_is_given_is_among_what_is_resolved() -> None:
    given = tomllib.loads(SMALL)
    shown = {setting.path: setting.value for setting in config.resolved(settings(SMALL))}
    assert shown["seed"] == given["seed"]
    assert {key: shown[f"data.{key}"] for key in given["data"]} == given["data"]


def test_resolved_lines_read_again_to_the_same_digest() -> None:
    read = settings(SMALL)
    text = "\n".join(str(setting) for setting in config.resolved(read) if setting.value is not None)
    stages = "pipeline.stages.0"
    inline = ", ".join(line.removeprefix(stages + ".").split("  #")[0] for line in text.splitlines() if stages in line)
    rest = [line for line in text.splitlines() if stages not in line]
    again = settings("\n".join([*rest, f"pipeline.stages = [{{ {inline} }}]"]))
    assert again.experiment.digest == read.experiment.digest


@pytest.mark.slow
def test_the_package_loads_no_heavy_module() -> None:
    code = "import sys, fedloom.experiment; print([m for m in ('pydantic', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
