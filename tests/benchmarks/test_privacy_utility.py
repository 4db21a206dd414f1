"""The privacy benchmark: that nothing is taken from private rows, that noise fits its target, what results say."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedloom

FOLDER = Path(__file__).parents[2] / "benchmarks" / "privacy"
sys.path.append(str(FOLDER))

import clients_of_digits  # noqa: E402
import patients  # noqa: E402
import private_runs  # noqa: E402
import utility  # noqa: E402

RESULTS = sorted({FOLDER / "results" / f"{name}.json" for name, _ in utility.LIMITS})


# ---- Rows ----------------------------------------------------------------------------------------------------------


def test_a_range_goes_to_minus_one_and_one_and_is_cut_there_and_nan_goes_to_its_middle() -> None:
    assert patients.from_range([90, 145, 200, 0, 400, np.nan], 90, 200).tolist() == [-1, 0, 1, -1, 1, 0]
    assert patients.from_zero([0, 25, 50, 90], 50).tolist() == [0, 0.5, 1, 1]


def test_each_row_is_scaled_by_itself_so_scaling_releases_nothing() -> None:
    generator = np.random.default_rng(0)
    rows = generator.lognormal(size=(40, 30))
    alone = np.concatenate([patients.biopsy_features(row[None]) for row in rows])
    assert np.array_equal(patients.biopsy_features(rows), alone)
    names = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
    columns: dict[str, patients.Rows] = {name: np.float64(40) * generator.integers(0, 5, 40) for name in names}
    apart = [patients.heart_features({name: column[i : i + 1] for name, column in columns.items()}) for i in range(40)]
    assert np.array_equal(patients.heart_features(columns), np.concatenate(apart))


def test_a_cholesterol_of_zero_is_one_that_was_not_measured() -> None:
    ends = {"age": 20.0, "sex": 1.0, "cp": 2.0, "trestbps": 0.0, "chol": 0.0, "fbs": 0.0, "restecg": 0.0}
    row = {name: np.array([value]) for name, value in {**ends, "thalach": 200.0, "exang": 0.0, "oldpeak": 2.0}.items()}
    scaled = dict(zip(patients.HEART_FEATURES, patients.heart_features(row)[0].tolist(), strict=True))
    assert [scaled[name] for name in patients.RANGES] == [-1, 0, 0, 1, 0]
    assert (scaled["sex"], scaled["cp=2"], scaled["cp=3"]) == (0.5, 0.5, -0.5)


@pytest.mark.slow
@pytest.mark.skipif(not patients.HEART.exists(), reason=f"{patients.HEART} is not there")
def test_the_heart_data_are_the_published_rows_and_no_hospital_holds_a_test_row() -> None:
    held = patients.heart()
    population = held.data.population()
    counts = [held.data.client(population.id(index)).count("train") for index in range(4)]
    assert (counts, held.train, len(held.test), int(held.test_labels.sum())) == ([199, 172, 30, 85], 486, 254, 131)
    assert sum(held.data.client(population.id(index)).count("test") for index in range(4)) == 0


@pytest.mark.slow
@pytest.mark.skipif(not clients_of_digits.MNIST.exists(), reason=f"{clients_of_digits.MNIST} is not there")
def test_mnist_is_dealt_to_a_thousand_clients_with_sixty_images_each() -> None:
    clients = clients_of_digits.mnist()
    population = clients.data.population()
    assert {clients.data.client(population.id(index)).count("train") for index in range(0, 1000, 37)} == {60}
    assert (len(population), population.examples, len(clients.test)) == (1000, 60_000, 10_000)


def test_redrawn_digits_are_pictures_of_mnists_shape_and_range() -> None:
    clients = clients_of_digits.redrawn(clients=1, test=30)
    assert clients.test.shape == (30, 784)
    assert 0 <= clients.test.min() < 0.01
    assert 0.9 < clients.test.max() <= 1
    ink = clients.test.reshape(30, 28, 28).sum(axis=(1, 2))
    border = ink - clients.test.reshape(30, 28, 28)[:, 2:26, 2:26].sum(axis=(1, 2))
    assert (ink > 20).all() and (border < 0.1 * ink).all()


# ---- Noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_the_least_noise_fits_its_target_and_a_little_less_is_refused_by_the_plan(shared: bool) -> None:
    held = patients.biopsies(seed=1)
    target = fedloom.PrivacyTarget(unit="record", delta=1e-3 / held.train, epsilon=1.0)
    make = private_runs.patients_experiment(
        held.data, utility.OWN, shared=shared, rows=held.train, seed=1, target=target
    )
    noise = private_runs.least_noise(make)
    cost = private_runs.price(make(noise)).figures.models
    assert cost.proven and 0.99 < cost.epsilon <= 1.0
    with pytest.raises(fedloom.PlanError, match=r"privacy\.epsilon = 1 is the most allowed"):
        fedloom.local().run(make(0.98 * noise))


@pytest.mark.slow
def test_the_least_noise_of_clients_fits_and_its_run_ends_within_the_rounds_it_paid_for() -> None:
    clients = clients_of_digits.redrawn(clients=60, test=10)
    target = fedloom.PrivacyTarget(unit="client", delta=1e-5, epsilon=4.0, reader="models")
    settings = replace(utility.DIGITS, rounds=2, epochs=1)
    make = private_runs.digits_experiment(clients.data, settings, seed=1, target=target)
    noise = private_runs.least_noise(make)
    cost = private_runs.price(make(noise))
    assert cost.figures.models.proven and 3.96 < cost.figures.models.epsilon <= 4.0 < cost.figures.participation.epsilon
    assert len(fedloom.local().run(make(noise)).rounds) == 2
    with pytest.raises(fedloom.PlanError, match=r"privacy\.epsilon = 4 is the most allowed"):
        fedloom.local().run(make(0.98 * noise))


# ---- Results -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_those_of_the_settings_and_keep_within_their_epsilon(path: Path) -> None:
    found = json.loads(path.read_text())
    for point in found["points"]:
        assert point["proven"] and 0.99 * point["target"] < point["epsilon_models"] <= point["target"]
        assert point["epsilon_models"] <= point["epsilon_participation"]
        assert len(point["figures"]) == len(found["without_privacy"]) == 5
        assert point["mean"] == pytest.approx(np.mean(point["figures"])) and point["worst"] == min(point["figures"])
    limited = {(each["protection"], each["target"]) for each in found["points"]}
    for (name, protection), limits in utility.LIMITS.items():
        assert name != found["data"] or {(protection, epsilon) for epsilon in limits} <= limited
