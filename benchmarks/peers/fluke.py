"""fluke: its ``FedAVG`` over its own fast loaders, everything in memory, in one process.

A server of ours names the clients of each round, where fluke's draws them; the rest is fluke's. Evaluation is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peers.torchvision_operators  # noqa: F401 (before fluke)
import torch
from contest import Contest
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.client import Client
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.server import Server
from fluke.utils import FederationObserver
from torch_loop import load, loss_of, module_of, params_of, tensors_of
from workloads import LEARNING_RATE, Params, Workload


class RoundDone(FederationObserver):
    """Tells the contest."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest

    def end_round(self, round: int) -> None:
        """Say that a round is done."""
        del round
        self.contest.round_done()


def rounds(contest: Contest) -> Params:
    """Do the task's rounds."""
    torch.set_num_threads(1)
    task, workload = contest.task, contest.task.rows.workload
    environment = FlukeENV()
    environment.set_seed(0)
    environment.set_device("cpu")
    environment.set_inmemory(True)
    environment.set_evaluator(ClassificationEval(eval_every=len(task.cohorts) + 1, n_classes=workload.classes))
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    module = module_of(workload)
    load(module, task.start)

    class NamedClients(Server):
        """fluke's server, on the clients of a given cohort."""

        def get_eligible_clients(self, eligible_perc: float) -> Sequence[Client]:
            """Return the clients of the round that is going on."""
            del eligible_perc
            return [self.clients[index] for index in contest.cohort]

    class FedAvgOfNamedClients(FedAVG):
        """fluke's FedAVG with that server."""

        def get_server_class(self) -> type[Server]:
            """Return it."""
            return NamedClients

    algorithm = FedAvgOfNamedClients(
        n_clients=workload.clients,
        data_splitter=_splitter(contest),
        hyper_params=DDict(
            client=DDict(
                batch_size=workload.batch,
                local_epochs=1,
                loss=lambda: _Loss(workload),
                optimizer=DDict(name=torch.optim.SGD, lr=LEARNING_RATE),
                scheduler=DDict(name="StepLR", step_size=1, gamma=1.0),
            ),
            server=DDict(weighted=True),
            model=module,
        ),
    )
    algorithm.set_callbacks(RoundDone(contest))
    contest.start()
    algorithm.run(n_rounds=len(task.cohorts), eligible_perc=workload.cohort / workload.clients, finalize=False)
    return params_of(algorithm.server.model)


class _Loss(torch.nn.Module):
    """The workload's loss as a module, which fluke copies for every client."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.function = loss_of(workload)

    def forward(self, outputs: Any, labels: Any) -> Any:
        """Return the mean loss of a batch."""
        return self.function(outputs, labels)


def _splitter(contest: Contest) -> DataSplitter:
    rows, workload = contest.task.rows, contest.task.rows.workload
    x, y = tensors_of(workload, rows.features, rows.labels)
    sizes = rows.sizes.tolist()
    loaders = [
        FastDataLoader(
            features, labels, num_labels=workload.classes, batch_size=workload.batch, shuffle=True, skip_singleton=False
        )
        for features, labels in zip(x.split(sizes), y.split(sizes), strict=True)
    ]
    container = DummyDataContainer(loaders, [None] * len(loaders), None, num_classes=workload.classes)
    return DataSplitter(container)
