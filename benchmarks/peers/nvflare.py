"""NVIDIA FLARE: its FedAvg recipe in its simulator, every site a process, as many at once as there are sites.

The recipe trains all sites in every round: W1, W2 and W4, where 20 or 100 clients out of many are drawn, would need 200
or 1,000 site processes. So it does W3 alone. Nobody can come between its rounds: a site notes when a model arrives, and
the PyTorch loop does half of its rounds before and half after.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import torch
from contest import Contest
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from torch_loop import load, module_of, params_of
from workloads import Params

_CLIENT = Path(__file__).parent / "nvflare_client.py"


def rounds(contest: Contest) -> Params:
    """Do the task's rounds."""
    task, workload = contest.task, contest.task.rows.workload
    if workload.cohort < workload.clients:
        raise NotImplementedError(f"{workload.name}: its simulator has no cohort smaller than its sites")
    count = len(task.cohorts)
    contest.rivals_alone(range(count // 2))
    model = module_of(workload)
    load(model, task.start)
    with tempfile.TemporaryDirectory() as folder:
        start, clock = Path(folder) / "start.pt", Path(folder) / "clock.txt"
        torch.save(model.state_dict(), start)
        recipe = FedAvgRecipe(
            name="rounds",
            model={
                "class_path": "torch.nn.Linear",
                "args": {"in_features": workload.features, "out_features": workload.outputs},
            },
            initial_ckpt=str(start),
            min_clients=workload.clients,
            num_rounds=count,
            train_script=str(_CLIENT),
            train_args=f"{_CLIENT.parents[1]} {task.folder} {clock}",
        )
        run = recipe.execute(SimEnv(num_clients=workload.clients, workspace_root=folder))
        found = Path(run.get_result(clean_up=False)) / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
        saved = torch.load(found, weights_only=False)
        times = [float(line) for line in clock.read_text().split()]
    contest.told([later - sooner for sooner, later in itertools.pairwise(times)], first_done_at=times[1])
    contest.rivals_alone(range(count // 2, count))
    model.load_state_dict(saved.get("model", saved))
    return params_of(model)
