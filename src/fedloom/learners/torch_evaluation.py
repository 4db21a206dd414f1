"""Evaluation of a torch model: logits of a client's rows, and what all learners make of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.metrics import Metric
from fedloom.core.params import Vector
from fedloom.core.work import EvaluationResult
from fedloom.learners.figures import Rows, class_results, loss_metrics, loss_results, number_results, probabilities
from fedloom.learners.torch_flat import FlatModule
from fedloom.learners.torch_training import Task, class_weights

_ROWS = 512
"""Rows of a forward pass: a client's own, so a block has the bytes of its clients alone."""


def losses(task: Task, space: FlatModule, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return loss and objective of each client."""
    return loss_results(_evaluated(task, space, params, data)[0])


def evaluate(task: Task, space: FlatModule, params: Vector, data: Sequence[ClientDataset]) -> list[EvaluationResult]:
    """Return the metrics of each client, and its exact figures.

    Scores of two classes are binned as log-odds of scale one: the spread of a network's logits is known to nobody
    beforehand, and what common measure there could be would cost a round.
    """
    metrics, rows = _evaluated(task, space, params, data)
    if task.objective.classes is None:
        return number_results(metrics, rows)
    if task.objective.classes > 2:
        return class_results(metrics, rows, margins=None, scores=None)
    margins = rows.logits[:, -1] if rows.logits.shape[1] == 1 else rows.logits[:, 1] - rows.logits[:, 0]
    return class_results(metrics, rows, margins=margins, scores=margins)


def predict(task: Task, space: FlatModule, params: Vector, features: Vector) -> Vector:
    """Return class probabilities ``(rows, classes)``, or numbers ``(rows,)``; each row is a pass of its own.

    The shape of a product decides its bytes, so a row has those it has alone.
    """
    space.load(params)
    space.module.eval()
    outputs = np.empty((len(features), task.objective.outputs), task.inputs.dtype)
    with torch.inference_mode():
        for row in range(len(features)):
            batch = task.inputs.batch(features, None, slice(row, row + 1))
            outputs[row] = task.inputs.call(space.module, batch).reshape(-1).cpu().numpy()
    return outputs[:, 0] if task.objective.classes is None else probabilities(outputs.astype(np.float64))


def _evaluated(
    task: Task, space: FlatModule, params: Vector, data: Sequence[ClientDataset]
) -> tuple[list[dict[str, Metric]], Rows]:
    """Return the losses of each client, and the logits of all rows."""
    objective, inputs = task.objective, task.inputs
    space.load(params)
    space.module.eval()
    weights = class_weights(objective, space)
    logits: list[Vector] = []
    means: list[tuple[int, float]] = []
    with torch.inference_mode():
        for each in data:
            for start in range(0, len(each), _ROWS):
                part = slice(start, start + _ROWS)
                batch = inputs.batch(each.arrays[FEATURES], each.arrays[LABEL], part)
                outputs = inputs.call(space.module, batch)
                rows = len(batch[LABEL])
                if not isinstance(objective.loss, str):
                    loss = (
                        objective.mean_loss(space.module, batch, inputs, weights)
                        if objective.whole
                        else objective.of_outputs(outputs, batch[LABEL], weights)
                    )
                    means.append((rows, float(loss)))
                logits.append(outputs.reshape(rows, -1).cpu().double().numpy())
    rows_of_all = Rows(
        logits=np.concatenate(logits),
        labels=np.concatenate([np.asarray(each.arrays[LABEL], inputs.label_dtype) for each in data]),
        counts=np.array([len(each) for each in data], dtype=np.int64),
    )
    each_loss, weighted = objective.losses(rows_of_all, means)
    penalty = objective.penalty(params, task.penalised)
    return loss_metrics(rows_of_all, each=each_loss, weighted=weighted, penalty=penalty), rows_of_all
