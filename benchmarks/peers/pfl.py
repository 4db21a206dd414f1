"""pfl (pfl-research): ``SimulatedBackend`` and ``FederatedAveraging`` with a PyTorch model, in one process.

The user sampler deals out the task's cohorts, and a user's dataset is made in the order of a ``randperm``, because pfl
reads rows as they lie. Weights are rows; there is no evaluation but the one that pfl does before its first round.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from contest import Contest
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch_loop import load, loss_of, module_of, params_of, tensors_of
from workloads import LEARNING_RATE, Params


class RoundDone(TrainingProcessCallback):
    """Tells the contest."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest

    def on_train_begin(self, *, model: Any) -> Metrics:
        """Begin the clock."""
        del model
        self.contest.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Say that a round is done; training goes on."""
        del aggregate_metrics, model, central_iteration
        self.contest.round_done()
        return False, Metrics()


def rounds(contest: Contest) -> Params:
    """Do the task's rounds."""
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 (the generator that pfl reads)
    torch.manual_seed(0)
    task, workload = contest.task, contest.task.rows.workload
    module = module_of(workload)
    load(module, task.start)
    loss_function = loss_of(workload)
    module.loss = lambda x, y: loss_function(module(x), y)
    module.metrics = lambda _x, _y: {}
    x, y = tensors_of(workload, task.rows.features, task.rows.labels)
    sizes = task.rows.sizes.tolist()
    clients = list(zip(x.split(sizes), y.split(sizes), strict=True))

    def dataset(client: int) -> PyTorchTensorDataset:
        features, labels = clients[client]
        order = torch.randperm(len(labels))
        return PyTorchTensorDataset((features[order], labels[order]))

    turns = itertools.chain.from_iterable(task.cohorts)
    users = FederatedDataset(dataset, lambda: next(turns))
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(task.cohorts),
            evaluation_frequency=len(task.cohorts) + 1,
            train_cohort_size=workload.cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=workload.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[RoundDone(contest)],
        send_metrics_to_platform=False,
    )
    return params_of(module)
