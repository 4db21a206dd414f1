"""Flower: ``run_simulation`` with its Ray backend, one CPU a client, and its message-based ``FedAvg``.

Every client is a node, as the documentation has it, and the clients of a round are named in the messages, so that all
contestants train the same ones. A client's rows are tensors in the order of a ``randperm``: a ``DataLoader``, as in the
tutorials, would be slower. Evaluation is off; ``evaluate_fn`` is where the server tells that a round is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from contest import Contest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_loop import load, loss_of, module_of, params_of, tensors_of
from workloads import LEARNING_RATE, Params, Task

client_app = ClientApp()


@client_app.train()
def train(message: Message, _context: Context) -> Message:
    """Train the client that the message names, from the model that it brings."""
    config = message.content["config"]
    task = _task(str(config["task"]))
    workload = task.rows.workload
    model = module_of(workload)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = tensors_of(workload, *task.rows.client(int(config["client"])))
    loss_function = loss_of(workload)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for batch in torch.randperm(len(y)).split(workload.batch):
        optimizer.zero_grad()
        loss_function(model(x[batch]), y[batch]).backward()
        optimizer.step()
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})})
    return Message(content=content, reply_to=message)


class NamedClients(FedAvg):
    """Flower's FedAvg on the clients of a given cohort."""

    def __init__(self, task: Task) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=task.rows.workload.clients)
        self.task = task

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each client of the round, on nodes of their own."""
        del config
        cohort = self.task.cohorts[server_round - 1]
        nodes = list(grid.get_node_ids())[: len(cohort)]
        for node, client in zip(nodes, cohort, strict=True):
            said = ConfigRecord({"client": client, "task": str(self.task.folder)})
            content = RecordDict({"arrays": arrays, "config": said})
            yield Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)


def rounds(contest: Contest) -> Params:
    """Do the task's rounds."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    task = contest.task
    model = module_of(task.rows.workload)
    load(model, task.start)
    server_app = ServerApp()
    last: list[Any] = []

    def round_done(server_round: int, _arrays: ArrayRecord) -> None:
        if server_round == 0:
            contest.start()
        else:
            contest.round_done()

    @server_app.main()
    def main(grid: Grid, _context: Context) -> None:
        result = NamedClients(task).start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=len(task.cohorts),
            evaluate_fn=round_done,
        )
        last.append(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=task.rows.workload.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    model.load_state_dict(last[0])
    return params_of(model)


@cache
def _task(folder: str) -> Task:
    torch.set_num_threads(1)
    return Task.read(Path(folder), mapped=True)
