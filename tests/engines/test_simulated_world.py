"""A simulated world in the engine: one world for any schedule of work, and runs that end by clock, step or loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import Simulation, local
from fedloom.core.schedule import Schedule
from fedloom.errors import PlanError
from fedloom.runtime.stopping import has_diverged

Make = Callable[..., fedloom.Experiment]
Same = Callable[[fedloom.RunResult, fedloom.RunResult], None]
WORLD = Simulation(
    away=0.1, daily=fedloom.Daily(period=4, share=0.25), absences={"c4": [[2, 3]]}, dropout=0.2, stragglers=0.3
)


def imperfect(experiment: Make, **fields: Any) -> fedloom.Experiment:
    return experiment("scaffold", rounds=6, policy=fedloom.RoundPolicy(quorum=1), simulate=WORLD, **fields)


@pytest.mark.parametrize("slow", ["late", "partial"])
@pytest.mark.parametrize(
    ("settings", "block"), [({"workers": 3}, 2), ({"workers": 2}, 100), ({"strict": True}, 1)], ids=str
)
def test_the_world_is_one_for_any_workers_and_blocks(
    settings: dict[str, Any], block: int, slow: Any, experiment: Make, same: Same
) -> None:
    asked = imperfect(experiment)
    asked = replace(asked, simulate=replace(WORLD, slow=slow))
    one = local().run(asked)
    same(local(**settings).run(replace(asked, block=block)), one)
    kinds = {failure.kind for record in one.records for failure in record.failures}
    assert kinds == ({"lost", "late"} if slow == "late" else {"lost"})
    assert one.status == "completed with warnings"


def test_a_resumed_run_is_in_the_same_world(
    tmp_path: Path, experiment: Make, cut: Callable[[fedloom.Experiment, int], fedloom.Experiment], same: Same
) -> None:
    asked = imperfect(experiment)
    with pytest.raises(fedloom.RunInterrupted) as stopped:
        local(checkpoint_s=0).run(cut(asked, 20), output=tmp_path)
    assert stopped.value.folder is not None
    same(local().run(asked, resume=stopped.value.folder), local().run(asked))


def test_absences_of_nobody_are_refused_before_round_one(experiment: Make) -> None:
    with pytest.raises(PlanError, match=r"simulate\.absences: there is no client 'c44' among 10. Did you mean 'c4'"):
        local().run(experiment(simulate=Simulation(absences={"c44": [[1, 1]]})))


def test_the_step_of_a_round_is_how_far_the_model_moved(tmp_path: Path, experiment: Make) -> None:
    result = local().run(experiment("fedadam", rounds=4), output=tmp_path, save_rounds=True)
    assert result.history is not None
    moved = np.linalg.norm(np.diff(result.history, axis=0), axis=1)
    assert [record.metrics["step/norm"] for record in result.rounds] == pytest.approx(moved.tolist(), rel=1e-12)


def test_a_run_ends_when_its_steps_are_small(experiment: Make) -> None:
    result = local().run(experiment(rounds=9))
    steps = [record.metrics["step/norm"] or 0.0 for record in result.rounds]
    small = fedloom.small_update(steps[4], rounds=1)
    ended = local().run(experiment(stop=fedloom.any_of(small, fedloom.max_rounds(9))))
    assert len(ended.rounds) == 1 + next(n for n, step in enumerate(steps) if step <= steps[4])
    assert "the model moved by" in ended.reason


def test_a_run_that_diverges_ends_and_says_so(experiment: Make) -> None:
    wild = fedloom.fedavg(Schedule(steps=20, batch_size="full", learning_rate=2.5))
    data = fedloom.data.silos({"a": (np.eye(4) * 4, np.arange(4.0)), "b": (np.eye(4), -np.arange(4.0))},
                              task="regression", test=0.0)  # fmt: skip
    stop = fedloom.any_of(fedloom.divergence(factor=100.0), fedloom.max_rounds(50))
    asked = replace(experiment(data=data, learner=fedloom.ridge(), stop=stop), algorithm=wild)
    result = local().run(asked)
    assert has_diverged(result.reason) and len(result.rounds) < 50


def test_the_clock_ends_a_run_with_an_evaluation_and_is_kept_over_a_resume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, experiment: Make
) -> None:
    """A clock that only local training moves: ten clients, ten seconds a round."""
    now = [0.0]
    monkeypatch.setattr("fedloom.engines.rounds.time.monotonic", lambda: now[0])
    asked = experiment(evaluate_every=100)
    algorithm: Any = asked.algorithm

    def client(broadcast: Any, state: Any, ctx: Any) -> Any:
        now[0] += 1.0
        return (yield from algorithm.client(broadcast, state, ctx))

    timed = replace(asked, algorithm=replace(algorithm, client=client, spec=replace(algorithm.spec, made=None)))
    first = local().run(replace(timed, stop=fedloom.wall_clock(25.0)), output=tmp_path)
    assert [record.seconds for record in first.rounds] == [10.0] * 3
    assert first.reason == "30.0 of 25 seconds used"
    assert [bool(record.clients) for record in first.rounds] == [False, False, True], "the last round is evaluated"
    more = local().run(replace(timed, stop=fedloom.wall_clock(50.0)), resume=first.folder)
    assert len(more.rounds) == 5
    assert more.model_sha256 == local().run(experiment(rounds=5, evaluate_every=100)).model_sha256


def test_a_stop_may_read_steps_and_no_test_rows(experiment: Make) -> None:
    result = local().run(experiment(stop=fedloom.target("step/norm", at_least=0.0)))
    assert len(result.rounds) == 1
    with pytest.raises(PlanError, match="known are"):
        local().run(experiment(stop=fedloom.divergence("stepp/loss")))


def test_clients_drawn_by_size_take_part_by_it(experiment: Make, ragged: Callable[..., Any]) -> None:
    data = ragged(sizes=(12, 12, 12, 400))
    result = local().run(experiment(rounds=12, data=data, cohort=fedloom.by_size(1)))
    often = sum("c3" in record.included for record in result.rounds)
    assert often >= 8  # expected 11: of 436 rows it has 400; fewer than 8 come by chance once in 1e4 runs
    with pytest.raises(PlanError, match=r"cohort\.by_size asks for 5 clients; the data have 4"):
        local().run(experiment(data=data, cohort=fedloom.by_size(5)))
    with pytest.raises(PlanError, match=r"policy\.quorum = 3 is more than the 2 clients of a round"):
        local().run(experiment(data=data, cohort=fedloom.by_size(2), policy=fedloom.RoundPolicy(quorum=3)))
