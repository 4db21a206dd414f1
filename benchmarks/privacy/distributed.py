"""Noise in shares against noise added once: accuracy at the same noise on the sum, and when some clients may collude.

``distributed.py [--seeds N] [--data FOLDER] [--output FOLDER]``. A softmax on MNIST, dealt to 100 clients, ten of whom
are lost in every round: others each time. Once the server adds all of the noise to a plain sum; once each client adds a
share that is measured by the 90 who survive; once by the 80 who survive and are trusted, with ten assumed to collude.
MNIST lies beside the checkout, in ``../shared/data``, or in the folder that is named. Writes ``distributed.json``; a
missed limit is printed, and is no error.

Settings are those that ``settings_search`` found on other digits. All rows of a client are hidden, in a federation of a
hundred: the epsilons are large, and are printed for what they are. Noise of a simulation comes from its seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fedloom
from fedloom.engines.versions import versions

sys.path.append(str(Path(__file__).parent))

from clients_of_digits import MNIST, DigitClients, mnist
from private_runs import accuracies, price

CLIENTS, LOST, ROUNDS, AVERAGED = 100, 10, 50, 20
NOISE = (2.0, 4.0)
"""Standard deviation of the noise on the sum over what one client can add to it."""
DELTA = 1e-3
CLIP, SERVER_LR, BETA = 0.5, 0.2, 0.9
WITHIN = 0.01
"""Accuracy that noise in shares may lose against the same noise added once, with nobody assumed to collude."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to add the noise."""

    name: str
    shares: bool
    colluders: int = 0


FORMS = (
    Form(name="once, by the server", shares=False),
    Form(name="in shares, nobody colludes", shares=True),
    Form(name="in shares, 10 may collude", shares=True, colluders=10),
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=MNIST.parent, help="folder with mnist")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    clients = mnist(given.data / MNIST.name, clients=CLIENTS)
    points = [point(clients, form, noise, range(1, given.seeds + 1)) for noise in NOISE for form in FORMS]
    found: Json = {
        "data": "mnist",
        "figure": "accuracy",
        "clients": CLIENTS,
        "lost": LOST,
        "rounds": ROUNDS,
        "delta": DELTA,
        "points": points,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": dict(versions()),
    }
    (given.output / "distributed.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines_of(found)))
    return 0


def experiment(clients: DigitClients, form: Form, noise: float, *, seed: int) -> fedloom.Experiment:
    """Return a run in which other ten clients are away in each round, so that exactly 90 are in every sum."""
    population = clients.data.population()
    names = [str(population.id(place)) for place in range(CLIENTS)]
    away: dict[str, list[list[int]]] = {name: [] for name in names}
    for number in range(1, ROUNDS + 1):
        for place in range(LOST):
            away[names[(number * LOST + place) % CLIENTS]].append([number, number])
    mechanism = fedloom.distributed_gaussian if form.shares else fedloom.gaussian
    survivors = CLIENTS - LOST
    return fedloom.Experiment(
        data=clients.data,
        learner=fedloom.logistic(l2=0.0, dtype="float32"),
        algorithm=fedloom.fedavgm(
            fedloom.Schedule(epochs=2, batch_size=10, learning_rate=0.1),
            server_lr=SERVER_LR,
            beta=BETA,
            weighting="uniform",
        ),
        pipeline=fedloom.chain(
            fedloom.mean(expected=float(survivors)),
            mechanism(clip=CLIP, noise_multiplier=noise),
            fedloom.fixed_point(),
            aggregator=fedloom.secure_sum(min_survivors=survivors, colluders=form.colluders) if form.shares else None,
        ),
        simulate=fedloom.Simulation(absences=away),
        stop=fedloom.max_rounds(ROUNDS),
        seed=seed,
        privacy=fedloom.PrivacyTarget(unit="client", delta=DELTA),
    )


def point(clients: DigitClients, form: Form, noise: float, seeds: Sequence[int]) -> Json:
    """Return what runs of one form reach, and what they cost."""
    asked = [experiment(clients, form, noise, seed=seed) for seed in seeds]
    cost = price(asked[0])
    found = [accuracies(each, clients, averaged=[AVERAGED])[0] for each in asked]
    print(f"noise {noise:g} {form.name}: {np.mean(found):.4f}", file=sys.stderr, flush=True)
    return {
        "form": form.name,
        "noise_multiplier": noise,
        "mechanism": cost.protection.mechanism,
        "epsilon": cost.figures.participation.epsilon,
        "epsilon_without_colluders": None if cost.reached is None else cost.reached.epsilon,
        "figures": found,
        "mean": float(np.mean(found)),
        "worst": min(found),
    }


def lines_of(found: Json) -> list[str]:
    """Return the figures as lines of text, noise in shares beside the same noise added once."""
    lines = [f"MNIST, softmax, {found['clients']} clients, {found['lost']} lost a round; {found['seconds']:.0f} s"]
    once: float = 0.0
    for each in found["points"]:
        asked = ""
        if each["form"] == FORMS[0].name:
            once = each["mean"]
        else:
            lost = once - each["mean"]
            asked = f"  {-100 * lost:+.2f} points"
            if each["form"] == FORMS[1].name:
                asked += f", asked {-100 * WITHIN:+.0f}: " + ("holds" if lost <= WITHIN else "missed")
        lines.append(
            f"  noise {each['noise_multiplier']:g}  {each['form']:27}  epsilon {each['epsilon']:6.2f}  "
            f"accuracy {each['mean']:.4f}  worst {each['worst']:.4f}{asked}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
