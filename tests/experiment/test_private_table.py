"""Private steps in an experiment file: the same experiment as in Python, and numbers refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedloom.algorithms import fedavg
from fedloom.core.component import to_json
from fedloom.core.private_steps import PrivateSteps
from fedloom.core.schedule import Schedule
from fedloom.errors import ConfigError
from fedloom.experiment import config

FILE = """\
seed = 7
[data]
name = "generated"
clients = 4
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
weighting = "uniform"
[algorithm.local]
steps = 1
learning_rate = 0.5
[algorithm.local.private]
clip = 1
noise_multiplier = {noise}
rate = 0.1
rows = {rows}
[stop]
name = "max_rounds"
rounds = 3
"""


def read(tmp_path: Path, *, noise: str, rows: str = "100") -> object:
    path = tmp_path / "run.toml"
    path.write_text(FILE.format(noise=noise, rows=rows))
    return config.read(path).experiment.algorithm


@pytest.mark.parametrize(
    ("noise", "rows", "private"),
    [
        ("1.5", "100", PrivateSteps(clip=1.0, noise_multiplier=1.5, rate=0.1, rows=100)),
        ("2", "100", PrivateSteps(clip=1.0, noise_multiplier=2.0, rate=0.1, rows=100)),
        ('"shared"', "100", PrivateSteps(clip=1.0, noise_multiplier="shared", rate=0.1, rows=100)),
        (
            "1.5",
            "{ c0 = 100, c1 = 50 }",
            PrivateSteps(clip=1.0, noise_multiplier=1.5, rate=0.1, rows={"c0": 100, "c1": 50}),
        ),
    ],
)
def test_a_file_and_python_give_the_same_algorithm(
    tmp_path: Path, noise: str, rows: str, private: PrivateSteps
) -> None:
    made = fedavg(Schedule(steps=1, learning_rate=0.5, private=private), weighting="uniform")
    assert to_json(read(tmp_path, noise=noise, rows=rows)) == to_json(made)


@pytest.mark.parametrize(
    ("noise", "rows", "said"),
    [
        ("0.0", "100", "noise_multiplier"),
        ('"none"', "100", "noise_multiplier"),
        ("1.0", "0", "rows"),
        ('"shared"', "{ c0 = 3 }", "shared"),
    ],
)
def test_a_number_out_of_range_is_told_by_file_and_path(tmp_path: Path, noise: str, rows: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(tmp_path, noise=noise, rows=rows)
    assert all(violation.path.startswith("algorithm.local") for violation in caught.value.violations)
