"""Five algorithms on one Dirichlet partition: the same rows, cohorts and number of local steps, three seeds."""

from statistics import mean, stdev

import fedloom as fl

DATA = fl.data.sklearn_set("digits", partition=fl.data.dirichlet(10, alpha=0.1, min_rows=20))
LOCAL = fl.Schedule(epochs=5, batch_size=16, learning_rate=0.1)
ALGORITHMS = {
    "fedavg": fl.fedavg(LOCAL),
    "fedprox": fl.fedprox(LOCAL, mu=0.1),
    "fedavgm": fl.fedavgm(LOCAL, beta=0.5),
    "fedadam": fl.fedadam(LOCAL, server_lr=0.05),
    "scaffold": fl.scaffold(LOCAL, weighting="examples"),
}
ROUNDS, SEEDS = 30, (1, 2, 3)


def main() -> None:
    print(f"digits, 10 clients, Dirichlet 0.1, 5 of them a round, {ROUNDS} rounds; mean and deviation of 3 seeds")
    print(f"{'algorithm':10}{'accuracy':>17}{'worst client':>17}{'objective':>17}")
    for name, algorithm in ALGORITHMS.items():
        runs = [run(algorithm, seed) for seed in SEEDS]
        columns = ("eval/accuracy", "eval/accuracy/worst", "train/objective")
        print(f"{name:10}" + "".join(f"{spread(runs, column):>17}" for column in columns))


def run(algorithm, seed):
    experiment = fl.Experiment(
        data=DATA,
        prepare=[fl.standardise()],
        learner=fl.logistic(l2=1e-3),
        algorithm=algorithm,
        cohort=fl.uniform(5),
        stop=fl.max_rounds(ROUNDS),
        evaluate_every=ROUNDS,
        compare=False,
        seed=seed,
    )
    return fl.local().run(experiment).metrics


def spread(runs, column):
    values = [metrics[column] for metrics in runs]
    return f"{mean(values):.3f} +- {stdev(values):.3f}"


if __name__ == "__main__":
    main()
