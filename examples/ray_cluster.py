"""A study on a Ray cluster: another engine, the same lines, the same model to the byte."""

# extra: ray

from typing import Any

import fedloom as fl


def experiment(algorithm: Any) -> fl.Experiment:
    return fl.Experiment(
        data=fl.data.generated(clients=1_000, rows=40, test=0.25),
        learner=fl.logistic(l2=1e-3),
        algorithm=algorithm,
        cohort=fl.uniform(100),
        stop=fl.max_rounds(10),
        seed=0,
        evaluate_every=10,
        compare=False,
    )


def main() -> None:
    local = fl.Schedule(epochs=2, batch_size=10, learning_rate=0.1)
    # Started on this machine for the run, and stopped with it. To join one: fl.ray(address="head-node:6379").
    cluster = fl.ray(workers=2)
    print(f"{'':12}{'accuracy':>10}{'model on one worker':>22}{'model on Ray':>16}")
    algorithms: dict[str, Any] = {"FedAvg": fl.fedavg(local), "SCAFFOLD": fl.scaffold(local)}
    for name, algorithm in algorithms.items():
        asked = experiment(algorithm)
        one, many = fl.local().run(asked), cluster.run(asked)
        accuracy = many.metrics["eval/accuracy"]
        print(f"{name:12}{accuracy:>10.3f}{one.model_sha256[:12]:>22}{many.model_sha256[:12]:>16}")


if __name__ == "__main__":
    main()
