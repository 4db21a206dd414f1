"""What a site of NVIDIA FLARE's simulator runs: ``nvflare_client.py BENCHMARKS_FOLDER TASK_FOLDER CLOCK_FILE``.

The simulator copies this file into its workspace, so it is told where ours lie. The first site notes the time at which
each model arrives, and at which there is none left.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nvflare.client as flare
import torch


def main(task_folder: Path, clock: Path) -> None:
    """Train one client, a round at a time, until there are no more."""
    from torch_loop import loss_of, module_of, tensors_of
    from workloads import LEARNING_RATE, Task

    torch.set_num_threads(1)
    task = Task.read(task_folder, mapped=True)
    workload = task.rows.workload
    flare.init()
    number = int(flare.get_site_name().removeprefix("site-"))
    x, y = tensors_of(workload, *task.rows.client(number - 1))
    model, loss_function = module_of(workload), loss_of(workload)
    while flare.is_running():
        received = flare.receive()
        if number == 1:
            _note(clock)
        model.load_state_dict({name: torch.as_tensor(leaf) for name, leaf in received.params.items()})
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        order = torch.randperm(len(y))
        for batch in order.split(workload.batch):
            optimizer.zero_grad()
            loss_function(model(x[batch]), y[batch]).backward()
            optimizer.step()
        flare.send(flare.FLModel(params=model.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": len(order)}))
    if number == 1:
        _note(clock)


def _note(clock: Path) -> None:
    with clock.open("a") as file:
        file.write(f"{time.time()}\n")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main(Path(sys.argv[2]), Path(sys.argv[3]))
