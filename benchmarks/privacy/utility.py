"""What privacy costs in accuracy, on real data: a figure for each epsilon, beside the one without privacy.

``utility.py [--only mnist|heart|breast_cancer] [--seeds N] [--data FOLDER] [--output FOLDER]``. MNIST and the heart
disease data lie beside the checkout, in ``../shared/data``, or in the folder that is named; without them these two are
left out. Writes a JSON file for each data set and three plots; about seven minutes. A missed limit is printed, and is
no error.

Nothing is released but the models: no preparation, count or metric of private rows. Settings are ``settings_search``'s,
found on other data. Test rows are held by no client, and are looked at once, with the last models. Noise and sampling
of a simulation come from its seed; the epsilon is what a federation of the same plan would have.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import fedloom
from fedloom.engines.versions import versions

sys.path.append(str(Path(__file__).parent))

from clients_of_digits import MNIST, DigitClients, mnist
from patients import HEART, Patients, biopsies, heart
from private_runs import (
    DigitSettings,
    MakeExperiment,
    PatientSettings,
    accuracies,
    area,
    digits_experiment,
    least_noise,
    patients_experiment,
    price,
)
from utility_plots import draw_rounds, draw_utility

DIGITS = DigitSettings(epochs=10, learning_rate=0.3, clip=0.5, server_lr=0.2)
SERVER_LR = {0.5: 0.2, 1.0: 0.2, 2.0: 0.3, 4.0: 0.3, 8.0: 0.6}
"""By epsilon: less noise bears a longer step. Searched at 1, 2 and 8; 0.5 goes with 1, and 4 with 2."""
OWN, SHARED = PatientSettings(learning_rate=1.0), PatientSettings(learning_rate=2.0)
DELTA_CLIENTS = 1e-5
DELTA_RECORDS = 1e-3
"""Over the pooled number of training rows."""
RECORD_EPSILONS = (0.5, 1.0, 2.0, 4.0)
LIMITS = {
    ("mnist", "client"): {1.0: 0.885, 2.0: 0.90, 8.0: 0.91},
    ("heart", "own noise"): {1.0: 0.84},
    ("heart", "shared noise"): {1.0: 0.85},
    ("breast_cancer", "own noise"): {1.0: 0.985},
    ("breast_cancer", "shared noise"): {1.0: 0.985},
}
"""What the mean over seeds must reach, by data set and protection."""
Json = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["mnist", "heart", "breast_cancer"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=MNIST.parent, help="folder with mnist and heart_disease")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args(arguments)
    seeds = range(1, given.seeds + 1)
    given.output.mkdir(parents=True, exist_ok=True)
    topics: dict[str, Callable[[], Json]] = {
        "mnist": lambda: measure_mnist(given.data / MNIST.name, seeds),
        "heart": lambda: measure_heart(given.data / HEART.name, seeds),
        "breast_cancer": lambda: measure_biopsies(seeds),
    }
    for name, measure in topics.items():
        if given.only not in (None, name):
            continue
        started = time.perf_counter()
        try:
            found = measure()
        except FileNotFoundError as error:
            print(f"{name}: left out, {error.filename} is not there")
            continue
        found |= {"seconds": round(time.perf_counter() - started, 1), "versions": dict(versions())}
        write(given.output / f"{name}.json", found)
        print("\n".join(lines_of(found)), flush=True)
    draw(given.output)
    return 0


# ---- The three data sets -------------------------------------------------------------------------------------------


def measure_mnist(folder: Path, seeds: Sequence[int]) -> Json:
    """Return accuracy of a softmax on MNIST's test images, 1,000 clients, by epsilon."""
    clients = mnist(folder)

    def make(epsilon: float, seed: int) -> MakeExperiment:
        target = fedloom.PrivacyTarget(unit="client", delta=DELTA_CLIENTS, epsilon=epsilon, reader="models")
        settings = replace(DIGITS, server_lr=SERVER_LR[epsilon])
        return digits_experiment(clients.data, settings, seed=seed, target=target)

    def look(experiment: fedloom.Experiment) -> float:
        return accuracies(experiment, clients, averaged=[DIGITS.averaged])[0]

    points = [point("client", epsilon, make, look, seeds) for epsilon in SERVER_LR]
    return {
        "data": "mnist",
        "figure": "accuracy",
        "settings": {"client": asdict(DIGITS) | {"server_lr": list(SERVER_LR.items())}},
        "without_privacy": [bare_digits(clients, seed) for seed in seeds],
        "points": points,
        "by_round": list(by_round(make, points)),
    }


def measure_heart(folder: Path, seeds: Sequence[int]) -> Json:
    """Return the area under the curve for heart disease, four hospitals, by epsilon."""
    held = heart(folder)
    return measure_patients("heart", lambda _seed: held, seeds)


def measure_biopsies(seeds: Sequence[int]) -> Json:
    """Return the area under the curve for breast cancer, four hospitals, by epsilon; each seed deals anew."""
    return measure_patients("breast_cancer", lambda seed: biopsies(seed=seed), seeds)


def measure_patients(name: str, held: Callable[[int], Patients], seeds: Sequence[int]) -> Json:
    """Return figures under each hospital's own noise, and under shared noise."""
    by_seed = {seed: held(seed) for seed in seeds}
    points = []
    for protection, settings in (("own noise", OWN), ("shared noise", SHARED)):

        def make(epsilon: float, seed: int) -> MakeExperiment:
            patients = by_seed[seed]
            target = fedloom.PrivacyTarget(unit="record", delta=DELTA_RECORDS / patients.train, epsilon=epsilon)
            return patients_experiment(
                patients.data,
                settings,  # noqa: B023
                shared=protection == "shared noise",  # noqa: B023
                rows=patients.train,
                seed=seed,
                target=target,
            )

        def look(experiment: fedloom.Experiment) -> float:
            return area(experiment, by_seed[experiment.seed])

        points += [point(protection, epsilon, make, look, seeds) for epsilon in RECORD_EPSILONS]
    return {
        "data": name,
        "figure": "AUROC",
        "train_rows": sorted({patients.train for patients in by_seed.values()}),
        "settings": {"own noise": asdict(OWN), "shared noise": asdict(SHARED)},
        "without_privacy": [bare_patients(by_seed[seed], seed) for seed in seeds],
        "points": points,
    }


def point(
    protection: str,
    epsilon: float,
    make: Callable[[float, int], MakeExperiment],
    look: Callable[[fedloom.Experiment], float],
    seeds: Sequence[int],
) -> Json:
    """Return what runs of one epsilon reach, and what they cost."""
    noise = least_noise(make(epsilon, seeds[0]))
    experiments = [make(epsilon, seed)(noise) for seed in seeds]
    cost = price(experiments[0])
    found = [look(each) for each in experiments]
    print(f"{protection}, epsilon {epsilon:g}: {np.mean(found):.4f}", file=sys.stderr, flush=True)
    return {
        "protection": protection,
        "target": epsilon,
        "delta": cost.figures.models.delta,
        "noise_multiplier": noise,
        "mechanism": cost.protection.mechanism,
        "rounds": cost.rounds,
        "epsilon_models": cost.figures.models.epsilon,
        "epsilon_participation": cost.figures.participation.epsilon,
        "method": cost.figures.models.method,
        "proven": cost.figures.models.proven,
        "figures": found,
        "mean": float(np.mean(found)),
        "worst": min(found),
    }


def by_round(make: Callable[[float, int], MakeExperiment], points: Sequence[Json]) -> Iterator[Json]:
    """Yield epsilon over the rounds, for both readers, of the points that have a limit."""
    limits = LIMITS["mnist", "client"]
    for each in points:
        if each["target"] not in limits:
            continue
        cost = price(make(each["target"], 1)(each["noise_multiplier"]))
        rounds = [1, *range(5, cost.rounds + 1, 5)]
        after = [cost.protection.figures(number) for number in rounds]
        yield {
            "target": each["target"],
            "rounds": rounds,
            "models": [both.models.epsilon for both in after],
            "participation": [both.participation.epsilon for both in after],
        }


# ---- Without privacy -----------------------------------------------------------------------------------------------


def bare_digits(clients: DigitClients, seed: int) -> float:
    """Return the accuracy of federated averaging: the same clients and rounds, neither clip nor noise."""
    experiment = fedloom.Experiment(
        data=clients.data,
        learner=fedloom.logistic(l2=0.0, dtype="float32"),
        algorithm=fedloom.fedavgm(
            fedloom.Schedule(epochs=5, batch_size=DIGITS.batch_size, learning_rate=0.1),
            server_lr=0.3,
            beta=DIGITS.beta,
            weighting="uniform",
        ),
        cohort=fedloom.poisson(DIGITS.rate),
        stop=fedloom.max_rounds(DIGITS.rounds),
        seed=seed,
        evaluate_every=DIGITS.rounds,
        compare=False,
    )
    return accuracies(experiment, clients, averaged=[10])[0]


def bare_patients(held: Patients, seed: int) -> float:
    """Return the area under the curve near the pooled optimum: 1,000 full gradients over all rows, none clipped."""
    experiment = fedloom.Experiment(
        data=held.data,
        learner=fedloom.logistic(l2=OWN.l2),
        algorithm=fedloom.fedsgd(1.0),
        stop=fedloom.max_rounds(1000),
        seed=seed,
        evaluate_every=1000,
        compare=False,
    )
    return area(experiment, held)


# ---- What is written -----------------------------------------------------------------------------------------------


def lines_of(found: Json) -> list[str]:
    """Return the figures as lines of text, each beside its limit."""
    bare = found["without_privacy"]
    lines = [
        f"{found['data']}, {found['figure']}, {len(bare)} seeds; without privacy "
        f"{np.mean(bare):.4f} (worst {min(bare):.4f}); {found['seconds']:.0f} s"
    ]
    for each in found["points"]:
        limit = LIMITS[found["data"], each["protection"]].get(each["target"])
        asked = ""
        if limit is not None:
            missed = limit - each["mean"]
            asked = f"  asked {limit:g}: " + ("holds" if missed <= 0 else f"missed by {missed:.4f}")
        lines.append(
            f"  {each['protection']:12}  epsilon {each['epsilon_models']:.4f} ({each['epsilon_participation']:.2f})  "
            f"noise {each['noise_multiplier']:6.3f}  mean {each['mean']:.4f}  worst {each['worst']:.4f}{asked}"
        )
    return lines


def write(path: Path, found: Json) -> None:
    """Write a file with a line for each entry, and for each point."""
    entries = []
    for name, value in found.items():
        if name in ("points", "by_round"):
            inner = ",\n  ".join(json.dumps(each) for each in value)
            entries.append(f" {json.dumps(name)}: [\n  {inner}\n ]")
        else:
            entries.append(f" {json.dumps(name)}: {json.dumps(value)}")
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n")


def draw(folder: Path) -> None:
    """Draw what files there are."""
    files = [folder / f"{name}.json" for name in ("mnist", "heart", "breast_cancer")]
    found = {path.stem: json.loads(path.read_text()) for path in files if path.exists()}
    if "mnist" in found:
        draw_utility([found["mnist"]], LIMITS, folder / "utility-clients.png")
        draw_rounds(found["mnist"], folder / "epsilon-by-round.png")
    patients = [found[name] for name in ("heart", "breast_cancer") if name in found]
    if patients:
        draw_utility(patients, LIMITS, folder / "utility-records.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
