"""Four hospitals with different patients: is one federated model worth more to each than its own?"""

import fedloom as fl
from fedloom.data.hospitals import hospitals

experiment = fl.Experiment(
    data=hospitals(test=0.3),
    prepare=[fl.standardise()],
    learner=fl.logistic(l2=1e-3),
    algorithm=fl.fedavg(fl.Schedule(epochs=1, batch_size=16, learning_rate=0.1)),
    stop=fl.max_rounds(20),
    seed=0,
)


def main() -> None:
    result = fl.local().run(experiment)
    comparison = result.comparison
    assert comparison is not None, "it is made for up to 50 clients"

    print("AUROC on each hospital's own test rows")
    print(f"{'hospital':10}{'own model':>10}{'federated':>11}{'pooled':>8}")
    for hospital, federated in result.clients.items():
        beside = comparison.clients[hospital]
        figures = (beside["local/auroc"], federated["eval/auroc"], beside["pooled/auroc"])
        own, together, pooled = ("-" if figure is None else f"{figure:.3f}" for figure in figures)
        print(f"{hospital:10}{own:>10}{together:>11}{pooled:>8}")

    coefficients = result.leaves()["coef"][0]
    largest = sorted(range(len(coefficients)), key=lambda place: -abs(coefficients[place]))[:3]
    print("largest coefficients:", ", ".join(result.schema.columns[place] for place in largest))


if __name__ == "__main__":
    main()
