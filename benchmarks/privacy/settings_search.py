"""How the settings of ``utility.py`` were found: on other data, so that they cost none of the privacy of its own.

``settings_search.py digits|patients [--json FILE]``. Digits are redrawn ones of scikit-learn (``clients_of_digits``),
at epsilon 1, 2 and 8. Patients are generated, at epsilon 1: 24 times four hospitals of 199, 172, 30 and 85, with 14
features that three hidden numbers correlate, a half of them yes or no, and a logistic outcome. Two minutes for
patients, six for digits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import fedloom

sys.path.append(str(Path(__file__).parent))

from clients_of_digits import redrawn
from patients import Patients, Rows, yes_or_no
from private_runs import (
    DigitSettings,
    PatientSettings,
    accuracies,
    area,
    digits_experiment,
    least_noise,
    patients_experiment,
)

WINDOWS = (1, 10, 30, 50)
SIZES = {"north": 199, "east": 172, "south": 30, "west": 85}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["digits", "patients"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    lines = []
    for line in digits() if given.what == "digits" else patients():
        print("  ".join(f"{name} {value:.4g}" for name, value in line.items()), flush=True)
        lines.append(line)
    if given.json is not None:
        given.json.write_text("[\n" + ",\n".join(f" {json.dumps(line)}" for line in lines) + "\n]\n")


def digits() -> Iterator[dict[str, Any]]:
    """Yield accuracy on redrawn digits, two seeds: local work and clip at epsilon 1, then the server's step by epsilon.

    Figures are by the number of last models that are averaged.
    """
    clients = redrawn()
    start = DigitSettings(epochs=10, learning_rate=0.3, clip=0.5, server_lr=0.2)
    grid = [(1.0, replace(start, epochs=epochs, learning_rate=rate)) for epochs, rate in ((1, 0.1), (5, 0.1), (5, 0.3))]
    grid += [(1.0, replace(start, clip=clip, server_lr=0.1 / clip)) for clip in (0.2, 1.0)]
    grid += [(1.0, replace(start, server_lr=step)) for step in (0.1, 0.2, 0.3, 0.4)]
    grid += [(2.0, replace(start, server_lr=step)) for step in (0.2, 0.3, 0.4, 0.6)]
    grid += [(8.0, replace(start, server_lr=step)) for step in (0.3, 0.6, 1.0)]
    noises: dict[float, float] = {}
    for epsilon, settings in grid:
        target = fedloom.PrivacyTarget(unit="client", delta=1e-5, epsilon=epsilon, reader="models")
        if epsilon not in noises:
            noises[epsilon] = least_noise(digits_experiment(clients.data, settings, seed=0, target=target))
        found = []
        for seed in (11, 12):
            make = digits_experiment(clients.data, settings, seed=seed, target=target)
            found.append(accuracies(make(noises[epsilon]), clients, averaged=WINDOWS))
        chosen = {name: getattr(settings, name) for name in ("epochs", "learning_rate", "clip", "server_lr")}
        means = np.mean(found, axis=0)
        yield {
            "epsilon": epsilon,
            **chosen,
            **{f"mean of {k}": float(each) for k, each in zip(WINDOWS, means, strict=True)},
        }


def patients() -> Iterator[dict[str, Any]]:
    """Yield the area under the curve over 24 generated federations, for each setting of a grid."""
    federations = [generated(seed) for seed in range(24)]
    rows = sum(SIZES.values())
    target = fedloom.PrivacyTarget(unit="record", delta=1e-3 / rows, epsilon=1.0)
    for shared, rounds in itertools.product((False, True), (10, 30)):
        for clip, learning_rate in itertools.product((0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 4.0)):
            settings = PatientSettings(learning_rate=learning_rate, rounds=rounds, clip=clip)
            found, noise = [], None
            for seed, held in enumerate(federations):
                make = patients_experiment(held.data, settings, shared=shared, rows=rows, seed=seed, target=target)
                noise = least_noise(make) if noise is None else noise
                found.append(area(make(noise), held))
            yield {"shared": shared, **asdict(settings), "auroc": float(np.mean(found)), "worst": min(found)}


def generated(seed: int) -> Patients:
    """Return four hospitals of generated patients, and 2,000 test rows."""
    generator = np.random.default_rng(seed)
    features, hidden, test = 14, 3, 2000
    mix = generator.normal(size=(hidden, features)) * 0.6 / np.sqrt(hidden)
    shift = generator.uniform(-0.4, 0.4, features)
    weights = generator.normal(size=features)
    flags = generator.random(features) < 0.5
    count = sum(SIZES.values()) + test
    values = generator.normal(size=(count, hidden)) @ mix + 0.35 * generator.normal(size=(count, features)) + shift
    rows: Rows = np.where(flags, yes_or_no(values > 0), np.clip(values, -1, 1))
    score = rows @ weights
    score = 2.2 * (score - score.mean()) / score.std()
    labels = (generator.random(count) < 1 / (1 + np.exp(-score))).astype(np.int64)
    data = fedloom.data.arrays(
        rows[test:],
        np.array(["none", "disease"])[labels[test:]],
        clients=np.repeat(list(SIZES), list(SIZES.values())),
        classes=("none", "disease"),
        fold=np.full(count - test, "train"),
    )
    return Patients(data=data, train=count - test, test=rows[:test], test_labels=labels[:test])


if __name__ == "__main__":
    main(sys.argv[1:])
