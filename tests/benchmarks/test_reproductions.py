"""The reproductions on MNIST: what their clients hold. What they reach takes minutes, and is in their results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "reproductions"
sys.path.append(str(FOLDER))

import fedavg_mnist  # noqa: E402

RESULTS = sorted((FOLDER / "results").glob("*.json"))


@pytest.mark.slow
@pytest.mark.skipif(not fedavg_mnist.MNIST.exists(), reason=f"{fedavg_mnist.MNIST} is not there")
def test_the_clients_hold_all_images_once_and_the_official_test_images_as_validation_rows() -> None:
    data = fedavg_mnist.clients_of_mnist()
    population = data.population()
    clients = [data.client(population.id(index)) for index in range(len(population))]
    assert [(each.count("train"), each.count("validation"), each.count("test")) for each in clients] == [
        (600, 100, 0)
    ] * fedavg_mnist.CLIENTS
    held = np.concatenate([each.split("validation").arrays["features"] for each in clients])
    official = fedavg_mnist.images("t10k")
    assert sorted(row.tobytes() for row in held) == sorted(row.tobytes() for row in official)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_when_its_curve_first_reached_the_target(path: Path) -> None:
    result = json.loads(path.read_text())
    task = fedavg_mnist.TASKS[result["task"]]
    assert (result["target"], result["rounds_allowed"]) == (task.target, task.rounds)
    reached = [number for number, accuracy in enumerate(result["accuracy"], 1) if accuracy >= task.target]
    assert result["rounds_to_target"] == (reached[0] if reached else None)
    assert len(result["accuracy"]) == (reached[0] if reached else task.rounds)
