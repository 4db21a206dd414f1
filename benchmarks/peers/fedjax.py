"""FedJAX: ``fed_avg.federated_averaging`` with its ``jit`` backend for client work, in one process."""

from __future__ import annotations

from typing import Any

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from contest import Contest
from fedjax.algorithms import fed_avg
from workloads import IMAGE, LEARNING_RATE, Params, Workload

_LAYOUT = ("NCHW", "OIHW", "NCHW")


def rounds(contest: Contest) -> Params:
    """Do the task's rounds."""
    task, workload = contest.task, contest.task.rows.workload
    fedjax.set_for_each_client_backend("jit")
    algorithm = fed_avg.federated_averaging(
        fedjax.grad(lambda params, batch, _rng: _losses(workload, params, batch)),
        fedjax.optimizers.sgd(LEARNING_RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch, num_epochs=1),
    )
    datasets = []
    for index in range(workload.clients):
        x, y = task.rows.client(index)
        x = x.reshape(-1, *IMAGE) if workload.model == "cnn" else x
        datasets.append(fedjax.ClientDataset({"x": x, "y": y.astype(np.int32)}))
    state = algorithm.init({name: jnp.asarray(leaf) for name, leaf in task.start.items()})
    key = jax.random.PRNGKey(0)
    contest.start()
    for cohort in task.cohorts:
        key, own = jax.random.split(key)
        keys = jax.random.split(own, len(cohort))
        clients = [(index, datasets[index], each) for index, each in zip(cohort, keys, strict=True)]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        contest.round_done()
    return {name: np.asarray(leaf) for name, leaf in state.params.items()}


def _losses(workload: Workload, params: dict[str, Any], batch: dict[str, Any]) -> Any:
    """Return the loss of each row."""
    z, y = _LOGITS[workload.model](params, batch["x"]), batch["y"]
    if workload.outputs == 1:
        return jnp.logaddexp(0.0, z[:, 0]) - y * z[:, 0]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1)[:, 0]


def _linear(params: dict[str, Any], x: Any) -> Any:
    return x @ params["coef"].T + params["intercept"]


def _mlp(params: dict[str, Any], x: Any) -> Any:
    hidden = jax.nn.relu(x @ params["0.weight"].T + params["0.bias"])
    return hidden @ params["2.weight"].T + params["2.bias"]


def _cnn(params: dict[str, Any], x: Any) -> Any:
    for layer in ("0", "3"):
        x = jax.lax.conv_general_dilated(x, params[f"{layer}.weight"], (1, 1), "SAME", dimension_numbers=_LAYOUT)
        x = jax.nn.relu(x + params[f"{layer}.bias"][:, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["7.weight"].T + params["7.bias"])
    return hidden @ params["9.weight"].T + params["9.bias"]


_LOGITS = {"linear": _linear, "mlp": _mlp, "cnn": _cnn}
