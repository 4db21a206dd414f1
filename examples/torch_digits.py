"""A convolutional network of your own on handwritten digits, at ten clients who hold few classes each."""

# extra: torch

from typing import Any

from torch import nn

import fedloom as fl


@fl.component("fedloom.models")
def small_cnn(channels: int = 16, outputs: int | None = None) -> nn.Module:
    """A function that builds the module: what it is given as None, the learner fills in from the data."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * channels, outputs),
    )


def experiment(algorithm: Any) -> fl.Experiment:
    return fl.Experiment(
        data=fl.data.sklearn_set("digits", partition=fl.data.labels_per_client(10, labels=4)),
        learner=fl.torch_module(small_cnn(), shape=[1, 8, 8]),
        algorithm=algorithm,
        stop=fl.max_rounds(15),
        seed=0,
        compare=False,
    )


def main() -> None:
    local = fl.Schedule(epochs=2, batch_size=16, learning_rate=0.02)
    print(f"{'':12}{'accuracy':>10}{'worst client':>14}")
    for name, algorithm in {"FedAvg": fl.fedavg(local), "SCAFFOLD": fl.scaffold(local)}.items():
        figures = fl.local().run(experiment(algorithm)).metrics
        print(f"{name:12}{figures['eval/accuracy']:>10.3f}{figures['eval/accuracy/worst']:>14.3f}")


if __name__ == "__main__":
    main()
