"""SCAFFOLD: control variates that cancel the drift of local steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedloom.core.algorithm import Algorithm, ClientContext, ClientProgram, Weighting, gradient, train
from fedloom.core.component import component
from fedloom.core.learner import Capabilities
from fedloom.core.params import Vector
from fedloom.core.schedule import Schedule
from fedloom.core.update import Aggregate, Update
from fedloom.core.work import LocalGradient, LocalWork
from fedloom.errors import ComponentError


@dataclass(frozen=True, slots=True)
class ScaffoldState:
    """The model and the server's control variate ``c``; both are broadcast."""

    params: Vector
    control: Vector


@component("fedloom.algorithms")
def scaffold(
    local: Schedule, *, option: Literal["I", "II"] = "II", server_lr: float = 1.0, weighting: Weighting = "uniform"
) -> Algorithm[ScaffoldState, ScaffoldState, Vector]:
    """SCAFFOLD. Client state: its control variate ``c_i``, unchanged while the client is absent.

    Local step ``y <- y - eta (grad f_i(y) - c_i + c)``; then ``c_i <- grad f_i(w)`` (option I) or
    ``c_i - c + (w - y) / (K eta)`` (option II). Uniform weights, the paper's, converge to the optimum of the mean of
    the clients' objectives; "examples" uses n_k/n in both sums and converges to the pooled optimum.

    Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1.
    """
    if option == "II" and not local.plain:
        raise ComponentError("scaffold: option='II' needs plain local steps; take option='I' with this schedule")

    def client(server: ScaffoldState, control: Vector, _: ClientContext) -> ClientProgram[Vector]:
        grad = (yield from gradient(LocalGradient(server.params))).gradient if option == "I" else control
        fit = yield from train(LocalWork(start=server.params, schedule=local, linear=server.control - control))
        delta = fit.params - server.params
        renewed = grad if option == "I" or not fit.lr_sum else control - server.control - delta / fit.lr_sum
        weight = fit.examples if weighting == "examples" else 1
        return Update({"delta": delta, "control": renewed - control}, weight, fit.metrics), renewed

    def step(state: ScaffoldState, mean: Aggregate) -> ScaffoldState:
        control = state.control + mean.participation * mean["control"]
        return ScaffoldState(state.params + server_lr * mean["delta"], control)

    return Algorithm(
        name="scaffold",
        init=lambda params: ScaffoldState(params, np.zeros_like(params)),
        broadcast=lambda state: state,
        client_init=lambda server: np.zeros_like(server.params),
        client=client,
        step=step,
        params=lambda state: state.params,
        parts=lambda layout: {"delta": layout, "control": layout},
        weighting=weighting,
        needs=Capabilities(
            linear=True, gradient=option == "I", examples=weighting == "examples", shaped=not local.plain
        ),
        local=local,
    )
