"""Worker processes: the bytes of one process, whoever computes; and what happens when one ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.component import component
from fedloom.core.data import FEATURES
from fedloom.engines import processes
from fedloom.engines.shared_rows import is_named, read_rows, shared_folder, write_rows
from fedloom.engines.worker_messages import Phase, send
from fedloom.errors import PlanError, WorkerError
from fedloom.experiment.lifeline import lifeline
from fedloom.runtime.stopping import Stop

Make = Any
Same = Callable[..., None]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need pipes to pass on")


def here() -> set[str]:
    """Return the processes that this one has started and that still run."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return {line for line in listed.stdout.splitlines() if "fedloom.engines.worker" in line}


@pytest.mark.parametrize("whole", [True, False])
def test_a_worker_of_a_run_that_is_gone_leaves_in_silence(whole: bool) -> None:
    """The run reads no answer, or has stopped amid an order: neither is a fault of the worker's."""
    read, orders = os.pipe()
    gone, answers = os.pipe()
    os.close(gone)
    program = "from fedloom.engines.worker import serve; serve()"
    with (
        lifeline() as held,
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, (read, answers, *held))],
            pass_fds=(read, answers, *held),
            stderr=subprocess.PIPE,
            text=True,
        ) as worker,
    ):
        os.close(read)
        os.close(answers)
        order = io.BytesIO()
        send(order, Phase(number=1, digest="", prepared=b"", splits=()))
        os.write(orders, order.getvalue() if whole else order.getvalue()[:-1])
        os.close(orders)
        _, err = worker.communicate(timeout=30)
    assert (worker.returncode, err) == (0, "")


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam", "scaffold"])
def test_processes_give_the_bytes_of_one(algorithm: str, experiment: Make, same: Same) -> None:
    asked = experiment(algorithm, rounds=4, prepare=[fedloom.standardise()], block=3, evaluate_every=2)
    plain = local().run(asked)
    found = local(workers=2, pool="processes").run(asked)
    same(plain, found)
    assert found.bytes_up == plain.bytes_up and found.bytes_down == plain.bytes_down
    assert [r.metrics for r in found.rounds] == [r.metrics for r in plain.rounds]
    assert [r.clients for r in found.rounds] == [r.clients for r in plain.rounds]
    assert not here()


def test_processes_serve_a_world_in_which_replies_are_lost(experiment: Make, same: Same) -> None:
    world = fedloom.Simulation(dropout=0.3, stragglers=0.3, slow="partial", away=0.1)
    asked = experiment("scaffold", rounds=5, simulate=world, cohort=fedloom.uniform(6))
    plain = local().run(asked)
    found = local(workers=3, pool="processes", strict=True).run(asked)
    same(plain, found)
    assert [r.failures for r in found.rounds] == [r.failures for r in plain.rounds]
    assert any(r.failures for r in found.rounds)


def test_a_run_of_processes_is_resumed_by_threads(tmp_path: Path, experiment: Make, same: Same) -> None:
    asked = experiment("scaffold", rounds=6)
    whole = local().run(asked)
    first = local(workers=2, pool="processes").run(replace(asked, stop=fedloom.max_rounds(3)), output=tmp_path)
    same(whole, local(workers=2).run(asked, resume=first.folder))


def test_generated_rows_are_made_in_the_workers(experiment: Make, same: Same) -> None:
    data = fedloom.data.generated(clients=40, rows=20)
    asked = experiment(rounds=2, data=data, cohort=fedloom.uniform(12))
    same(local().run(asked), local(workers=2, pool="processes").run(asked))


def test_what_was_made_in_python_is_for_threads(experiment: Make) -> None:
    asked = experiment(rounds=1)
    unnamed = replace(asked, algorithm=replace(asked.algorithm, spec=None))
    with pytest.raises(PlanError, match='pool = "processes": algorithm made in Python'):
        local(workers=2, pool="processes").run(unnamed)
    result = local(workers=2, pool="auto").run(unnamed)
    assert any("2 workers are threads and not processes: algorithm" in note for note in result.notes)
    with pytest.raises(PlanError, match="debug raises an exception where it happens"):
        local(workers=2, pool="processes", debug=True).run(asked)


@component("fedloom.stops", "of_this_script")
def of_this_script() -> Stop:
    return fedloom.max_rounds(1)


def test_what_no_installed_package_provides_is_for_threads(experiment: Make, same: Same) -> None:
    asked = experiment(stop=of_this_script(), algorithm="scaffold")
    result = local(workers=2).run(asked)
    assert any("2 workers are threads and not processes: stop" in note for note in result.notes)
    same(local().run(asked), result)


def test_what_was_changed_after_its_builder_made_it_is_for_threads(experiment: Make) -> None:
    asked = experiment(rounds=1)
    changed = replace(asked, algorithm=replace(asked.algorithm, step=lambda state, _mean: state))
    assert asked.digest != changed.digest
    with pytest.raises(PlanError, match='pool = "processes": algorithm made in Python'):
        local(workers=2, pool="processes").run(changed)
    assert not np.any(local(workers=2).run(changed).leaves()["coef"]), "its step leaves the zeros of the start"


def test_a_worker_that_is_killed_ends_the_run_which_resumes(
    tmp_path: Path, experiment: Make, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiment(rounds=6)
    started: list[Any] = []

    class Watched(processes._Process):
        def __enter__(self) -> Any:
            started.append(self._process)
            return self

    def kill(record: Any) -> None:
        if record.round == 3:
            started[0].send_signal(signal.SIGKILL)
            started[0].wait(5)

    monkeypatch.setattr(processes, "_Process", Watched)
    engine = local(workers=2, pool="processes", checkpoint_s=0.0)
    with pytest.raises(WorkerError, match=r"worker 0 was ended by signal 9 \(the system ends processes so"):
        engine.run(asked, output=tmp_path, on_round=[kill])
    assert not here()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    same(local().run(asked), engine.run(asked, resume=folder))


def test_what_a_worker_raises_is_told_with_its_traceback(experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: a worker that builds another experiment than the run's, as with another version of a package."""
    monkeypatch.setattr(processes, "Phase", lambda **fields: Phase(**{**fields, "digest": "0" * 64}))
    said = r"worker 0 raised WorkerError: a worker built experiment \w{12}, the run is of 0{12}\nTraceback"
    with pytest.raises(WorkerError, match=said):
        local(workers=2, pool="processes").run(experiment(rounds=1))
    assert not here()


def test_rows_are_mapped_and_not_copied(ragged: Any, tmp_path: Path) -> None:
    data = ragged()
    with shared_folder(1000) as folder:
        write_rows(data, folder)
        again = read_rows(folder, tmp_path)
        assert again.fingerprint == data.fingerprint and again.spec == data.spec
        assert type(again.features) is np.ndarray and not again.features.flags.writeable  # type: ignore[attr-defined]
        client = data.population().id(3)
        assert again.client(client).arrays[FEATURES].tobytes() == data.client(client).arrays[FEATURES].tobytes()
    assert not folder.exists()


def test_names_tell_what_another_process_can_build() -> None:
    assert is_named(fedloom.max_rounds(3).spec) and not is_named(None)
    assert not is_named(fedloom.data.arrays(np.ones((2, 1)), [0, 1], clients=["a", "b"], test=0.0).spec)


@pytest.mark.slow
def test_a_script_without_a_guard_uses_processes(tmp_path: Path) -> None:
    """A worker is a fresh interpreter: nothing of the script is imported again."""
    script = tmp_path / "study.py"
    script.write_text(
        "import fedloom as fl\n"
        "data = fl.data.hospitals()\n"
        "asked = fl.Experiment(data=data, prepare=[fl.standardise()], learner=fl.logistic(),\n"
        "    algorithm=fl.fedavg(fl.Schedule(batch_size=16)), stop=fl.max_rounds(3), seed=0, compare=False)\n"
        "print(fl.local(workers=2, pool='processes').run(asked).model_sha256 == fl.local().run(asked).model_sha256)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
