"""Federated averaging and what is one choice away from it: FedSGD, FedProx, and the server optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fedloom.core.algorithm import Algorithm, ClientContext, ClientProgram, Weighting, train
from fedloom.core.component import component
from fedloom.core.learner import Capabilities
from fedloom.core.optimizer import AnyOptimizer
from fedloom.core.params import Vector
from fedloom.core.schedule import Ramp, Schedule, at_least_zero, value_at
from fedloom.core.update import Aggregate, Update
from fedloom.core.work import LocalWork
from fedloom.optim import adagrad, adam, momentum, sgd, yogi


@dataclass(frozen=True, slots=True)
class FedAvgState:
    """The model, and the server optimizer's moments, which stay home."""

    params: Vector
    moments: Any


FedAvg: TypeAlias = Algorithm[FedAvgState, Vector, None]
Number: TypeAlias = float | Ramp  # a ramp changes by round


@component("fedloom.algorithms")
def fedavg(
    local: Schedule, *, prox: Number = 0.0, server: AnyOptimizer | None = None, server_lr: Number = 1.0,
    weighting: Weighting = "examples",
) -> FedAvg:  # fmt: skip
    """Federated averaging: clients train from the model they receive, the server moves by their mean delta.

    ``w <- w + server_lr * step(mean_k (w_k - w))``, the mean over the included clients.

    Args:
        local: Local work of a round.
        prox: ``mu`` of FedProx: adds ``mu/2 |v - w|^2`` to each local objective.
        server: Optimizer that makes a step of the mean delta; plain by default.
        server_lr: Factor of that step.
        weighting: "examples" weighs client k by its training rows, "uniform" by 1.

    Source: McMahan et al. 2017, arXiv:1602.05629v4, Algorithm 1 (weights n_k / m_t); Li et al. 2020, arXiv:1812.06127,
        Algorithm 2; Reddi et al. 2021, arXiv:2003.00295, Algorithm 1 (prints the plain mean).
    """
    at_least_zero("prox", prox)
    at_least_zero("server_lr", server_lr)
    optimizer = sgd() if server is None else server

    def client(params: Vector, _: None, ctx: ClientContext) -> ClientProgram[None]:
        fit = yield from train(LocalWork(start=params, schedule=local, prox=value_at(prox, ctx.round)))
        weight = fit.examples if weighting == "examples" else 1
        return Update({"delta": fit.params - params}, weight, fit.metrics), None

    def step(state: FedAvgState, mean: Aggregate) -> FedAvgState:
        move, moments = optimizer.update(mean["delta"], state.moments)
        return FedAvgState(state.params + value_at(server_lr, mean.round) * move, moments)

    return Algorithm(
        name="fedavg",
        init=lambda params: FedAvgState(params, optimizer.init(params)),
        broadcast=lambda state: state.params,
        client_init=lambda _params: None,
        client=client,
        step=step,
        params=lambda state: state.params,
        weighting=weighting,
        needs=Capabilities(prox=isinstance(prox, Ramp) or prox > 0, shaped=not local.plain),
        local=local,
    )


@component("fedloom.algorithms")
def fedsgd(learning_rate: Number, *, weighting: Weighting = "examples") -> FedAvg:
    """FedSGD: one full-batch step; with everybody present, gradient descent on the pooled rows."""
    return fedavg(Schedule(steps=1, batch_size="full", learning_rate=learning_rate), weighting=weighting)


@component("fedloom.algorithms")
def fedprox(local: Schedule, *, mu: Number, weighting: Weighting = "examples") -> FedAvg:
    """FedProx: FedAvg with ``mu/2 |v - w|^2`` in each local objective; the paper's experiments weigh by examples."""
    return fedavg(local, prox=at_least_zero("mu", mu), weighting=weighting)


@component("fedloom.algorithms")
def fedavgm(
    local: Schedule, *, server_lr: Number = 1.0, beta: float = 0.9,
    variant: Literal["plain", "nesterov", "damped"] = "plain", weighting: Weighting = "examples",
) -> FedAvg:  # fmt: skip
    """FedAvgM: ``m <- beta m + Delta; w <- w + server_lr m`` (Hsu et al. 2019, arXiv:1909.06335)."""
    return fedavg(local, server=momentum(beta, variant=variant), server_lr=server_lr, weighting=weighting)


@component("fedloom.algorithms")
def fedadagrad(
    local: Schedule, *, server_lr: Number = 0.1, beta1: float = 0.0, tau: float = 1e-3,
    v0: float | None = None, weighting: Weighting = "examples",
) -> FedAvg:  # fmt: skip
    """FedAdagrad (Reddi et al. 2021, Algorithm 2); ``v`` starts at ``tau^2`` unless ``v0`` is given."""
    return fedavg(local, server=adagrad(beta1=beta1, tau=tau, v0=v0), server_lr=server_lr, weighting=weighting)


@component("fedloom.algorithms")
def fedadam(
    local: Schedule, *, server_lr: Number = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3,
    v0: float | None = None, bias_correction: bool = False, weighting: Weighting = "examples",
) -> FedAvg:  # fmt: skip
    """FedAdam (Reddi et al. 2021, Algorithm 2): no bias correction, ``v`` from ``tau^2``, unless asked for."""
    server = adam(beta1=beta1, beta2=beta2, tau=tau, v0=v0, bias_correction=bias_correction)
    return fedavg(local, server=server, server_lr=server_lr, weighting=weighting)


@component("fedloom.algorithms")
def fedyogi(
    local: Schedule, *, server_lr: Number = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3,
    v0: float | None = None, weighting: Weighting = "examples",
) -> FedAvg:  # fmt: skip
    """FedYogi (Reddi et al. 2021, Algorithm 2)."""
    return fedavg(
        local, server=yogi(beta1=beta1, beta2=beta2, tau=tau, v0=v0), server_lr=server_lr, weighting=weighting
    )
