"""The models of small fixed runs, by their SHA-256: a change of bits is seen, and then written into the changelog.

The bytes hold for one numpy version and one OpenBLAS kernel; elsewhere the comparison is skipped. To print new
constants after an intended change:

    python -c "import runpy; runpy.run_path('tests/runtime/test_golden_hashes.py')['print_constants']()"
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from fedloom.algorithms import fedadam, fedavg, scaffold
from fedloom.core.params import Dtype
from fedloom.core.schedule import Schedule
from fedloom.learners import logistic
from fedloom.runtime.cohort import uniform
from fedloom.runtime.stopping import max_rounds
from fedloom.testing import federation, plan_for, simulate

RECORDED_WITH = ("2.4.6", "SkylakeX")
GOLDEN: dict[tuple[str, Dtype], str] = {
    ("fedavg", "float32"): "9949687bb13c70becde0602edd84543f13b127ad1f4ff2c7e8c7f3b7c6d43e96",
    ("fedavg", "float64"): "354eb49886d1cde24ed39e6db739a984f5754869f0fe7f83b13024f40215c407",
    ("fedadam", "float32"): "aca7e1c7877cbf6214ed3d0a2f2c729593f6f6f5bccdbe4e195217901a938303",
    ("fedadam", "float64"): "026737ccc9e221cc42556bfdceb652dce80575006ade5e70b3ea57f9695dba3d",
    ("scaffold", "float32"): "9c20eed931b7a26b5aed16f4cc45c0e21c5ffd9385c28d1cf2ab20e45440b841",
    ("scaffold", "float64"): "e503c6e84768e7f11801eb5589566e5fb4deccbe48c1eaaa9fef77ad9fee3488",
}


def numerics() -> tuple[str, str]:
    """Return what the bytes depend on: numpy's version and the BLAS kernel in use."""
    kernels = {str(info.get("architecture")) for info in threadpool_info() if info["user_api"] == "blas"}
    return np.__version__, "+".join(sorted(kernels))


def golden_run(name: str, dtype: Dtype) -> str:
    """Return the hash of five rounds over seven ragged clients, four a round, of minibatches and full batches."""
    local = Schedule(epochs=2, batch_size=16, learning_rate=0.2)
    made: dict[str, Any] = {"fedavg": fedavg(local), "fedadam": fedadam(local), "scaffold": scaffold(local)}
    data = federation((40, 7, 16, 129, 65, 3, 33), seed=2, columns=9)
    learner = logistic(l2=1e-3, dtype=dtype).build(data.schema())
    with threadpool_limits(limits=1, user_api="blas"):
        return simulate(plan_for(data, made[name], learner, cohort=uniform(4), stop=max_rounds(5)), data).sha256


@pytest.mark.parametrize(("name", "dtype"), GOLDEN)
def test_the_model_has_the_bytes_that_were_recorded(name: str, dtype: Dtype) -> None:
    if numerics() != RECORDED_WITH:
        pytest.skip(f"recorded with numpy and BLAS kernel {RECORDED_WITH}; here are {numerics()}")
    assert golden_run(name, dtype) == GOLDEN[name, dtype]


def print_constants() -> None:
    """Print the constants of this file for the machine it runs on."""
    lines = [f"RECORDED_WITH = {numerics()!r}", "GOLDEN: dict[tuple[str, Dtype], str] = {"]
    lines += [f'    ("{name}", "{dtype}"): "{golden_run(name, dtype)}",' for name, dtype in GOLDEN]
    sys.stdout.write("\n".join([*lines, "}"]).replace("'", '"') + "\n")
