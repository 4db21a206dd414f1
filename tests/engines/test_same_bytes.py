"""Nothing about how a run is worked through changes a bit of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedloom
import fedloom.testing
from fedloom import local
from fedloom.engines.blocks import even_block
from fedloom.runtime.cohort import uniform

EACH = pytest.mark.parametrize(
    ("algorithm", "dtype"),
    [(algorithm, dtype) for algorithm in ("fedavg", "fedadam", "scaffold") for dtype in ("float32", "float64")],
)


@EACH
def test_blocks_workers_and_bytes_change_nothing(
    algorithm: str, dtype: str, experiment: Callable[..., fedloom.Experiment], same: Callable[..., None]
) -> None:
    asked = experiment(algorithm, dtype=dtype)
    plain = local().run(asked)
    assert plain.params.dtype == dtype
    for block in (1, 7, 25):
        same(plain, local().run(replace(asked, block=block)))
        same(plain, local(workers=2, pool="threads").run(replace(asked, block=block)))
    same(plain, local(workers=1).run(asked))
    same(plain, local(workers=2, pool="threads").run(asked))
    same(plain, local(strict=True).run(asked))
    same(plain, local(strict=True, workers=2, pool="threads").run(replace(asked, block=3)))
    same(plain, local().run(asked))


@EACH
def test_a_run_on_disk_has_the_bytes_of_one_in_memory(
    algorithm: str,
    dtype: str,
    tmp_path: Path,
    experiment: Callable[..., fedloom.Experiment],
    same: Callable[..., None],
) -> None:
    asked = experiment(algorithm, dtype=dtype)
    same(local().run(asked), local(checkpoint_s=3600).run(asked, output=tmp_path))


def test_drawn_cohorts_are_the_same_for_every_block_and_worker(
    experiment: Callable[..., fedloom.Experiment], same: Callable[..., None]
) -> None:
    asked = experiment("scaffold", cohort=uniform(4))
    plain = local().run(asked)
    assert len({record.included for record in plain.rounds}) > 1
    same(plain, local(workers=2, pool="threads").run(replace(asked, block=1)))
    same(plain, local(workers=3, strict=True, pool="threads").run(replace(asked, block=2)))


def test_another_seed_gives_another_model(experiment: Callable[..., fedloom.Experiment]) -> None:
    asked = experiment()
    assert local().run(asked).model_sha256 != local().run(replace(asked, seed=8)).model_sha256


def test_block_workers_and_stop_are_no_part_of_the_identity(experiment: Callable[..., Any]) -> None:
    asked = experiment()
    assert asked.digest == replace(asked, block=7, stop=fedloom.max_rounds(3), evaluate_every=2, compare=True).digest
    assert asked.digest != replace(asked, seed=8).digest


EVEN = [(100, 22, 1, 20), (100, 22, 2, 17), (10, 25, 2, 5), (3, 25, 8, 1), (100, 1, 2, 1), (0, 25, 2, 25)]


@pytest.mark.parametrize(("clients", "block", "workers", "size"), EVEN)
def test_every_worker_gets_as_many_blocks(clients: int, block: int, workers: int, size: int) -> None:
    class Plan:
        learner = fedloom.logistic().build(fedloom.testing.schema_of("binary"))

    plan: Any = Plan()
    assert even_block(plan, clients, block, workers) == size <= block
    plan.learner = replace(plan.learner, capabilities=replace(plan.learner.capabilities, block="close"))
    assert even_block(plan, clients, block, workers) == block, "its bytes depend on the company"
